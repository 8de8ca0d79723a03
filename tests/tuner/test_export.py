"""HiP-LoRA folders written as LoRA folders, and the file format that both sides read."""

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, convert_to_lora, get_peft_model
from safetensors.numpy import load_file, save_file

from hiplora.adapters.hiplora_format import group_keys, low_rank_factors, module_settings, split_key
from hiplora.errors import HiploraError
from hiplora.tuner import HipLoraConfig, HipLoraLayer
from hiplora.tuner.export import export_lora
from tests import numerics

FIELDS = [
    {"core": "full", "budget_mode": "soft"},
    {"core": "diagonal", "budget_mode": "hard", "epsilon": 0.01},
    {"core": "full", "budget_mode": "hard", "rank_pattern": {"q_proj": 2}, "principal_rank_pattern": {"q_proj": 6},
     "alpha_pattern": {"v_proj": 4}, "epsilon_pattern": {"down_proj": 0.3}},
]  # fmt: skip


def make_adapter(base, folder, **fields):
    """A HiP-LoRA model with B and core at random, saved."""
    config = HipLoraConfig(**({"r": 3, "principal_rank": 5, "target_modules": "all-linear"} | fields))
    model = get_peft_model(base, config)
    generator = torch.Generator().manual_seed(2)
    for layer in hip_layers(model).values():
        for values in (layer.hiplora_B, layer.hiplora_C):
            values["default"].data = 0.2 * torch.randn(values["default"].shape, generator=generator)
    model.save_pretrained(folder)
    return model.eval()


def logits(tokens):
    return lambda model: model.eval()(input_ids=tokens).logits


def delta_error(layer):
    """The tuner projects, scales and multiplies in float32, and what is exported is rounded to it."""
    return numerics.product_error(
        *layer.delta_factors("default"), dtype="float32", steps=2 * sum(layer.get_base_layer().weight.shape) + 2
    )


def hip_layers(model):
    return {m.hiplora_records["default"].module: m for m in model.modules() if isinstance(m, HipLoraLayer)}


@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("base", ["llama", "gpt2"])
def test_same_update_and_outputs(load_base, tokens, tmp_path, fields, base, recwarn):
    if base == "gpt2" and "rank_pattern" in fields:
        fields = fields | {"rank_pattern": {"c_attn": 2}}
    model = make_adapter(load_base(base), tmp_path / "hip", **fields)
    assert export_lora(tmp_path / "hip", tmp_path / "lora") == tmp_path / "lora"
    recwarn.clear()
    loaded = PeftModel.from_pretrained(load_base(base), tmp_path / "lora")
    assert not [w for w in recwarn if "fan_in_fan_out" in str(w.message) or "missing" in str(w.message)]
    assert isinstance(loaded.peft_config["default"], LoraConfig)
    for name, layer in hip_layers(model).items():
        want = layer.get_delta_weight("default")
        got = loaded.base_model.model.get_submodule(name).get_delta_weight("default")
        torch.testing.assert_close(got, want, atol=delta_error(layer), rtol=0)
    error = numerics.outputs_error(model, logits(tokens))
    with torch.no_grad():
        torch.testing.assert_close(logits(tokens)(loaded), logits(tokens)(model), atol=error, rtol=0)


def test_conversion_by_peft_itself_agrees(load_base, tmp_path):
    model = make_adapter(load_base(), tmp_path)
    _, tensors = convert_to_lora(model, rank=8)
    for name, layer in hip_layers(model).items():
        A, B = (tensors[f"base_model.model.{name}.lora_{factor}.weight"] for factor in "AB")
        want = layer.get_delta_weight("default")
        # PEFT takes the SVD of the update in float32.
        error = delta_error(layer) + numerics.solver_error(want.shape, want.norm().item(), "float32")
        torch.testing.assert_close(B @ A, want, atol=error, rtol=0)


@pytest.mark.parametrize("fields", FIELDS)
def test_numpy_reads_what_torch_computes(load_base, tmp_path, fields):
    model = make_adapter(load_base(), tmp_path, **fields)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    groups = group_keys(tensors)
    layers = hip_layers(model)
    assert set(groups) == set(layers) == set(config["base_weights"])
    for module, keys in groups.items():
        settings = module_settings(config, [module])[module]
        held = {name: tensors[key] for name, key in keys.items()}
        L, R = low_rank_factors(held, settings)
        assert L.dtype == R.dtype == np.float64
        assert L.shape[1] == settings.r + config["base_weights"][module]["principal_rank"]
        want = layers[module].get_delta_weight("default").detach().numpy()
        np.testing.assert_allclose(L @ R, want, rtol=0, atol=delta_error(layers[module]))
        # The projection is redone in float64, so the channels are orthogonal to the precision of the saved basis.
        k = held["hiplora_S"].size
        residual = L[:, k:] @ R[k:]
        before = settings.scaling * np.linalg.norm(held["hiplora_B"]) * np.linalg.norm(held["hiplora_A"])
        inside = np.linalg.norm(held["hiplora_Ut"].astype(np.float64) @ residual)
        assert inside < numerics.kept_error(k) * before


def test_factors_left_out_come_from_the_cache(load_base, tmp_path, monkeypatch):
    make_adapter(load_base(), tmp_path / "whole")
    make_adapter(load_base(), tmp_path / "short", save_factors=False)
    # A was drawn anew.
    files = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "short")]
    for key in files[1]:
        files[1][key] = files[0][key]
    save_file(files[1], tmp_path / "short" / "adapter_model.safetensors")
    exported = [
        load_file(export_lora(tmp_path / name, tmp_path / f"{name}-lora") / "adapter_model.safetensors")
        for name in ("whole", "short")
    ]
    assert exported[0].keys() == exported[1].keys()
    assert all(np.array_equal(exported[0][key], exported[1][key]) for key in exported[0])
    monkeypatch.setenv("HIPLORA_CACHE", str(tmp_path / "empty"))
    with pytest.raises(HiploraError, match="without its singular vectors and the cache does not hold"):
        export_lora(tmp_path / "short", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_modules_kept_whole_travel_along(load_base, tokens, tmp_path):
    model = make_adapter(load_base("gpt2"), tmp_path / "hip", target_modules=["c_attn"], modules_to_save=["ln_f"])
    with torch.no_grad():
        model.base_model.model.transformer.ln_f.modules_to_save["default"].weight.mul_(1.5)
    model.save_pretrained(tmp_path / "hip")
    export_lora(tmp_path / "hip", tmp_path / "lora")
    loaded = PeftModel.from_pretrained(load_base("gpt2"), tmp_path / "lora").eval()
    with torch.no_grad():
        want, error = model(input_ids=tokens).logits, numerics.outputs_error(model, logits(tokens))
        torch.testing.assert_close(loaded(input_ids=tokens).logits, want, atol=error, rtol=0)


def test_replaces_an_empty_folder_and_an_earlier_export(load_base, tmp_path):
    make_adapter(load_base(), tmp_path / "hip")
    (tmp_path / "lora").mkdir()
    export_lora(tmp_path / "hip", tmp_path / "lora")
    weights = (tmp_path / "lora" / "adapter_model.safetensors").read_bytes()
    make_adapter(load_base(), tmp_path / "hip", budget_mode="hard")
    (tmp_path / "lora" / "README.md").write_text("mine")
    export_lora(tmp_path / "hip", tmp_path / "lora")
    assert {path.name for path in (tmp_path / "lora").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "README.md",
    }  # fmt: skip
    assert (tmp_path / "lora" / "README.md").read_text() == "mine"
    assert (tmp_path / "lora" / "adapter_model.safetensors").read_bytes() != weights


def _files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("runs/hip", "is the adapter itself"),
        ("runs/other/../hip", "is the adapter itself"),
        ("runs", "contains the adapter itself"),
        (".", "contains the adapter itself"),
        ("runs/hip/lora", "lies in the adapter itself"),
        ("runs/notes", "notes holds files that are not an earlier export: choose another folder"),
        ("runs/other", "other holds files that are not an earlier export: choose another folder"),
    ],
)
def test_never_replaces_the_source_or_anything_but_an_export(load_base, tmp_path, out, message):
    make_adapter(load_base(), tmp_path / "runs" / "hip")
    # Files of an export's names, but a trained adapter.
    make_adapter(load_base(), tmp_path / "runs" / "other")
    export_lora(tmp_path / "runs" / "hip", tmp_path / "runs" / "notes")
    (tmp_path / "runs" / "notes" / "notes.txt").write_text("mine")
    before = _files(tmp_path)
    with pytest.raises(HiploraError, match=message):
        export_lora(tmp_path / "runs" / "hip", tmp_path / out)
    assert _files(tmp_path) == before


def _edit(folder, change):
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(change(tensors), folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: {k: v for k, v in t.items() if not k.endswith("hiplora_A")}, "holds no hiplora_A"),
        (lambda t: {k: v[:2] if k.endswith("hiplora_B") else v for k, v in t.items()}, "do not fit r=3"),
        (lambda t: {k: v * np.float32("nan") if k.endswith("_C") else v for k, v in t.items()}, "NaN"),
        (lambda t: {k: v[::-1].copy() if k.endswith("hiplora_Ut") else v for k, v in t.items()}, "file was damaged"),
        (lambda t: {k: v.astype(np.float16) for k, v in t.items()}, "cast to another dtype"),
        (lambda t: {"lm_head.weight": np.zeros((2, 2), np.float32)}, "no HiP-LoRA tensors"),
    ],
)
def test_damaged_files_are_refused_in_words(load_base, tmp_path, damage, message):
    make_adapter(load_base(), tmp_path / "hip")
    _edit(tmp_path / "hip", damage)
    with pytest.raises(HiploraError, match=message):
        export_lora(tmp_path / "hip", tmp_path / "lora")
    assert [path.name for path in tmp_path.iterdir()] == ["hip"]


def test_other_methods_are_refused(load_base, tmp_path):
    get_peft_model(load_base(), LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "lora")
    with pytest.raises(HiploraError, match="LORA adapter"):
        export_lora(tmp_path / "lora", tmp_path / "out")


def test_split_key():
    assert split_key("base_model.model.a.b.hiplora_A") == ("a.b", "hiplora_A")
    assert split_key("base_model.model.base_model.model.a.b.hiplora_A") == ("a.b", "hiplora_A")
    assert split_key("a.b.hiplora_Ut") == ("a.b", "hiplora_Ut")
    assert split_key("base_model.model.a.hiplora_x.weight") is None
    with pytest.raises(HiploraError, match="no 'r'"):
        module_settings({}, ["a"])
