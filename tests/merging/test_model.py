"""Merged models as they are written, against PEFT's merge, and checkpoints told from what they are not."""

import hashlib
import json
import shutil

import numpy as np
import peft
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import hiplora
from hiplora.adapters import DenseDelta, LowRankDelta, place, read_adapter
from hiplora.errors import HiploraError
from hiplora.files import Tensors
from hiplora.merging import REPORT_FILE, save_merge, save_model, verify
from hiplora.merging.rows import by_rows
from hiplora.sources import open_base
from tests import numerics


@pytest.fixture(scope="module")
def second(llama_base, make_adapter, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters") / "second"
    config = peft.LoraConfig(r=2, lora_alpha=4, use_rslora=True, target_modules=["q_proj", "down_proj"])
    make_adapter(llama_base, folder, config, seed=1)
    return folder


@pytest.fixture(scope="module")
def bfloat16_base(llama_base, tmp_path_factory):
    """The base in bfloat16, in several files."""
    folder = tmp_path_factory.mktemp("models") / "half"
    model = AutoModelForCausalLM.from_pretrained(llama_base, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="10KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


def saved_by_peft(base, adapter, folder, **settings):
    """Write what PEFT merges, as a checkpoint."""
    model = AutoModelForCausalLM.from_pretrained(base, **settings)
    peft.PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(folder)
    return open_base(folder)


def merged_placement(base, *adapters, **settings):
    study = hiplora.open(base, adapters, k=4)
    return place(study.base, study.merged(**settings))


@pytest.mark.parametrize("base", ["llama_base", "bfloat16_base"])
def test_a_merged_model_is_the_sum_rounded_once(request, base, lora_folder, second, tmp_path):
    folder = request.getfixturevalue(base)
    placement = merged_placement(folder, lora_folder, second, weights=[1, 0.5])
    table = save_model(placement, tmp_path / "out").set_index("module")
    before, after = (AutoModelForCausalLM.from_pretrained(each, dtype="auto") for each in (folder, tmp_path / "out"))
    assert after.dtype == before.dtype
    for (name, W0), (_, W) in zip(before.state_dict().items(), after.state_dict().items(), strict=True):
        module = name.removesuffix(".weight")
        if module not in placement:
            assert torch.equal(W, W0)
            continue
        expected = W0.double().numpy() + placement.delta(module).dense()
        off = np.abs(W.double().numpy() - expected)
        assert (off <= numerics.unit_roundoff(W.dtype) * np.abs(expected)).all()
        norm = np.linalg.norm(expected - W0.double().numpy())
        assert table.loc[module, "error"] == pytest.approx(np.linalg.norm(off) / norm)


def test_only_the_changed_bytes_differ(bfloat16_base, lora_folder, tmp_path):
    placement = merged_placement(bfloat16_base, lora_folder)
    save_model(placement, tmp_path / "out")
    held = {path.name for path in bfloat16_base.iterdir()}
    assert {path.name for path in (tmp_path / "out").iterdir()} == held
    keys = {weight.key for weight in placement.weights}
    for path in bfloat16_base.glob("*.safetensors"):
        before, after = load_file(path), load_file(tmp_path / "out" / path.name)
        assert {key for key in before if not torch.equal(before[key], after[key])} == keys & before.keys()
        assert Tensors(path).metadata == Tensors(tmp_path / "out" / path.name).metadata


def test_a_map_stored_in_by_out_is_merged(gpt2_base, make_adapter, tmp_path):
    config = peft.LoraConfig(r=2, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    make_adapter(gpt2_base, tmp_path / "own", config)
    save_model(merged_placement(gpt2_base, tmp_path / "own"), tmp_path / "out")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    theirs = AutoModelForCausalLM.from_pretrained(gpt2_base)
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "own").merge_and_unload().state_dict()
    for name, W in theirs.items():
        torch.testing.assert_close(ours[name], W, rtol=0, atol=8 * numerics.unit_roundoff("float32"))


def test_each_expert_of_a_parameter_is_merged(tmp_path):
    torch.manual_seed(0)
    config = hf.GptOssConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, num_local_experts=3, num_experts_per_tok=2,
    )  # fmt: skip
    model = hf.GptOssForCausalLM(config)
    model.save_pretrained(tmp_path / "base")
    experts = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    lora = peft.LoraConfig(r=2, target_modules=[], target_parameters=experts, init_lora_weights=False)
    peft.get_peft_model(model, lora).save_pretrained(tmp_path / "own")
    save_model(merged_placement(tmp_path / "base", tmp_path / "own"), tmp_path / "out")
    ours = hf.GptOssForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    theirs = hf.GptOssForCausalLM.from_pretrained(tmp_path / "base")
    before = {name: W.clone() for name, W in theirs.state_dict().items()}
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "own").merge_and_unload().state_dict()
    assert sum(not torch.equal(theirs[name], before[name]) for name in theirs) == 2
    for name, W in theirs.items():
        torch.testing.assert_close(ours[name], W, rtol=0, atol=1e-6)


def test_a_shared_embedding_is_not_merged_in_silence(llama_base, make_adapter, tmp_path):
    make_adapter(llama_base, tmp_path / "own", peft.LoraConfig(r=2, target_modules=["embed_tokens"]))
    with pytest.raises(HiploraError, match=r"model\.embed_tokens is lm_head too in .*merging would change both"):
        save_model(merged_placement(llama_base, tmp_path / "own"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_overflow_is_named(llama_base, lora_folder, tmp_path):
    AutoModelForCausalLM.from_pretrained(llama_base, dtype=torch.float16).save_pretrained(tmp_path / "half")
    with pytest.raises(HiploraError, match="of the merged model overflows float16"):
        save_model(merged_placement(tmp_path / "half", lora_folder, weights=[1e9]), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["half"]


def test_a_report_says_how_it_was_made(llama_base, lora_folder, second, tmp_path):
    study = hiplora.open(llama_base, [lora_folder, second], k=4)
    table = save_merge(study.merged("dare", weights=[1, 2], seed=3), study.base, tmp_path / "out", 2)
    report = json.loads((tmp_path / "out" / REPORT_FILE).read_text())
    assert report["how"] == "dare"
    assert report["settings"] == {"density": 0.5, "seed": 3}
    assert [(each["name"], each["weight"]) for each in report["adapters"]] == [("plain-lora", 1), ("second", 2)]
    assert set(report["adapters"][0]["sha256"]) == {"adapter_config.json", "adapter_model.safetensors"}
    # Nothing of the base's weights is in it, and to read them would take longer than to merge.
    assert report["base"] == {
        "name": study.base.name,
        "files": {"model.safetensors": (llama_base / "model.safetensors").stat().st_size},
    }
    assert [row["module"] for row in report["modules"]] == list(table["module"])
    both = np.sqrt(((table["error"] * table["norm"]) ** 2).sum() / (table["norm"] ** 2).sum())
    assert report["error"] == pytest.approx(both)
    # What it says is true of the folder beside it.
    own = read_adapter(tmp_path / "out")
    merged = study.merged("dare", weights=[1, 2], seed=3)
    off = sum(np.sum((own.delta(m).dense() - merged.delta(m).dense()) ** 2) for m in merged.modules)
    assert np.sqrt(off / sum(merged.delta(m).energy for m in merged.modules)) == pytest.approx(both, rel=1e-5)


@pytest.mark.parametrize(("how", "model"), [("core", False), ("sum", True)])
def test_a_report_has_the_hashes_of_a_base_that_the_result_depends_on(llama_base, lora_folder, tmp_path, how, model):
    study = hiplora.open(llama_base, [lora_folder], k=4)
    save_merge(study.merged(how), study.base, tmp_path / "out", model=model)
    report = json.loads((tmp_path / "out" / REPORT_FILE).read_text())
    weights = hashlib.sha256((llama_base / "model.safetensors").read_bytes()).hexdigest()
    assert report["base"]["sha256"] == {"model.safetensors": weights}


def test_nothing_is_written_over_and_nothing_is_left_of_a_stopped_merge(llama_base, lora_folder, tmp_path):
    study = hiplora.open(llama_base, [lora_folder], k=4)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(HiploraError, match="out exists already: name a new folder"):
        save_merge(study.merged(), study.base, tmp_path / "out")

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    for model in (False, True):
        with pytest.raises(KeyboardInterrupt):
            save_merge(study.merged(), study.base, tmp_path / "new", model=model, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_whole_model_can_be_merged_where_only_its_maps_differ(llama_base, lora_folder, second, tmp_path):
    saved_by_peft(llama_base, lora_folder, tmp_path / "whole")
    merge = hiplora.open(llama_base, [tmp_path / "whole", second], k=4).merged()
    module = "model.layers.0.self_attn.q_proj"
    expected = read_adapter(lora_folder).delta(module).dense() + read_adapter(second).delta(module).dense()
    np.testing.assert_allclose(merge.delta(module).dense(), expected, rtol=0, atol=1e-6)
    tensors = load_file(tmp_path / "whole" / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1
    save_file(tensors, tmp_path / "whole" / "model.safetensors", {"format": "pt"})
    with pytest.raises(HiploraError, match=r"whole is a whole model that has another model\.norm\.weight than"):
        hiplora.open(llama_base, [tmp_path / "whole"], k=4).merged()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_peft_merged_is_verified(llama_base, lora_folder, tmp_path, dtype):
    theirs = saved_by_peft(llama_base, lora_folder, tmp_path / "theirs", dtype=getattr(torch, dtype))
    found = verify(place(open_base(llama_base), read_adapter(lora_folder)), theirs)
    assert found.agrees
    assert found.finding.startswith("theirs is ")
    assert found.table["visible"].all()
    np.testing.assert_allclose(found.table["held"], 1, atol=0.05)


@pytest.mark.parametrize("kind", ["dora", "hiplora"])
def test_other_kinds_are_verified(llama_base, make_adapter, tmp_path, kind):
    targets = ["q_proj", "up_proj"]
    config = (
        peft.LoraConfig(r=2, use_dora=True, target_modules=targets)
        if kind == "dora"
        else hiplora.HipLoraConfig(r=2, principal_rank=3, target_modules=targets)
    )
    make_adapter(llama_base, tmp_path / "own", config)
    theirs = saved_by_peft(llama_base, tmp_path / "own", tmp_path / "theirs")
    assert verify(place(open_base(llama_base), read_adapter(tmp_path / "own")), theirs).agrees


@pytest.mark.parametrize(
    ("dtype", "times"), [("float32", 0), ("float32", 2), ("float32", 1.0001), ("bfloat16", 0), ("bfloat16", 2)]
)
def test_a_wrong_merge_is_told(llama_base, lora_folder, tmp_path, dtype, times):
    placement = place(open_base(llama_base), read_adapter(lora_folder))
    tensors = load_file(llama_base / "model.safetensors")
    for weight, delta in placement:
        tensors[weight.key] = tensors[weight.key].double() + times * torch.from_numpy(delta.dense())
    (tmp_path / "wrong").mkdir()
    save_file({key: W.to(getattr(torch, dtype)) for key, W in tensors.items()}, tmp_path / "wrong/model.safetensors")
    (tmp_path / "wrong" / "config.json").write_text((llama_base / "config.json").read_text())
    found = verify(placement, open_base(tmp_path / "wrong"))
    assert not found.agrees
    assert found.finding.startswith("wrong is not ")
    assert "14 of 14 changed maps are off" in found.finding
    # What rounding to the dtype leaves of the update.
    np.testing.assert_allclose(found.table["held"], times, atol=0.05 if dtype == "bfloat16" else 1e-5)


def test_what_the_adapter_leaves_alone_is_compared_too(llama_base, second, tmp_path):
    theirs = saved_by_peft(llama_base, second, tmp_path / "theirs")
    tensors = load_file(tmp_path / "theirs" / "model.safetensors")
    tensors["model.layers.0.self_attn.k_proj.weight"] *= 1.5
    tensors["model.norm.weight"] += 1
    save_file(tensors, tmp_path / "theirs" / "model.safetensors", {"format": "pt"})
    found = verify(place(open_base(llama_base), read_adapter(second)), open_base(theirs.path))
    assert not found.agrees
    assert "1 maps that it leaves alone differ (model.layers.0.self_attn.k_proj)" in found.finding
    assert "1 other tensors differ (model.norm.weight)" in found.finding


def test_a_tied_head_is_a_copy_of_its_embedding_or_told(llama_base, lora_folder, tmp_path):
    placement = merged_placement(llama_base, lora_folder)
    save_model(placement, tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "out" / "model.safetensors", {"format": "pt"})
    assert verify(placement, open_base(tmp_path / "out")).agrees
    tensors["lm_head.weight"] += 1
    save_file(tensors, tmp_path / "out" / "model.safetensors", {"format": "pt"})
    config = tmp_path / "out" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": False}))
    found = verify(placement, open_base(tmp_path / "out"))
    assert not found.agrees
    assert found.others == ["lm_head.weight"]
    with pytest.raises(HiploraError, match=r"out is a whole model that has another lm_head\.weight than"):
        hiplora.open(llama_base, [tmp_path / "out"], k=4).merged()


def test_folders_of_settings_and_of_further_modules_travel_with_the_model(llama_base, lora_folder, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(llama_base, base)
    kept = {"1_Pooling/config.json", "2_Norm/deep/config.json", "2_Norm/model.safetensors"}
    others = {".cache/config.json", "onnx/config.json", "original/model.safetensors", "inputs/notes.json"}
    for name in kept | others:
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text("{}")
    save_model(merged_placement(base, lora_folder), tmp_path / "out")
    found = {
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").glob("*/**/*") if path.is_file()
    }
    assert found == kept


def test_the_report_of_a_budget_on_inputs_names_them(tmp_path):
    study = hiplora.open("demo", ["swap-lora", "rot-lora"], k=16, geometry="inputs")
    save_merge(study.merged("core"), study.base, tmp_path / "out")
    found = json.loads((tmp_path / "out" / REPORT_FILE).read_text())["settings"]["inputs"]
    index = study.calibration.index
    assert found == {"text": index["text"], "tokens": index["tokens"], "calibration": index["key"]}


def test_an_update_below_rounding_is_not_called_verified(llama_base, write_adapter, tmp_path):
    tiny = {f"base_model.model.model.layers.0.self_attn.q_proj.lora_{f}.weight": np.full(s, 1e-8, np.float32)
            for f, s in (("A", (2, 32)), ("B", (32, 2)))}  # fmt: skip
    placement = place(open_base(llama_base), read_adapter(write_adapter("tiny", tiny)))
    found = verify(placement, open_base(llama_base))
    assert not found.agrees
    assert "cannot be told from" in found.finding


def test_a_checkpoint_of_another_architecture_is_named(llama_base, gpt2_base, lora_folder):
    with pytest.raises(HiploraError, match=r"lacks model\.layers\.0\.self_attn\.q_proj, which is 32 x 32"):
        verify(place(open_base(llama_base), read_adapter(lora_folder)), open_base(gpt2_base))


@pytest.mark.parametrize("dense", [False, True])
def test_a_large_update_is_taken_a_few_rows_at_a_time(rng, dense):
    L, R = rng.normal(size=(5, 1)), rng.normal(size=(1, 2**19 - 1))
    blocks = list(by_rows(DenseDelta(L @ R) if dense else LowRankDelta(L, R)))
    assert [(rows.start, rows.stop) for rows, _ in blocks] == [(0, 2), (2, 4), (4, 5)]
    np.testing.assert_allclose(np.vstack([block for _, block in blocks]), L @ R, rtol=1e-15)
