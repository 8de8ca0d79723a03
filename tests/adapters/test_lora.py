import json

import numpy as np
import pytest
from peft import LoraConfig
from safetensors.numpy import save_file

from hiplora.adapters import read_adapter
from hiplora.errors import HiploraError
from hiplora.sources import open_base
from tests import numerics


def assert_same(delta, dW):
    """PEFT multiplies and scales in float32."""
    error = numerics.product_error(delta.L, delta.R, dtype="float32", steps=2)
    np.testing.assert_allclose(delta.dense(), dW, rtol=0, atol=error)


def deltas_of(model):
    """Return PEFT's own `{module: dW}`, out x in."""
    return {
        name.removeprefix("base_model.model."): layer.get_delta_weight("default").detach().numpy()
        for name, layer in model.named_modules()
        if hasattr(layer, "get_delta_weight")
    }


VARIANTS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "rank pattern": {"rank_pattern": {"q_proj": 7, r"layers\.1\.mlp\.up_proj": 2}},
    "alpha pattern": {"alpha_pattern": {"q_proj": 3, r"layers\.1\..*(up|down)_proj": 100}},
    "both patterns, rslora": {"rank_pattern": {"k_proj": 3}, "alpha_pattern": {"^model.layers.0.self_attn.k_proj": 5},
                              "use_rslora": True},
    "r larger than the layer": {"r": 40},
    "dropout": {"lora_dropout": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_update_is_pefts_own(variant, llama_base, make_adapter, tmp_path):
    fields = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"} | VARIANTS[variant]
    expected = deltas_of(make_adapter(llama_base, tmp_path / "adapter", LoraConfig(**fields)))
    adapter = read_adapter(tmp_path / "adapter")
    assert set(adapter.modules) == set(expected)
    assert len(expected) == 14
    for module, dW in expected.items():
        assert_same(adapter.delta(module), dW)
        assert adapter.shape(module) == dW.shape
    assert adapter.method == ("rsLoRA" if "rslora" in variant else "LoRA")


@pytest.mark.parametrize("flag", [True, False])
def test_conv1d_updates_are_out_x_in_whatever_fan_in_fan_out_says(gpt2_base, make_adapter, tmp_path, flag):
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    # PEFT's delta is in the layout of the weight it is added to: in x out.
    expected = deltas_of(make_adapter(gpt2_base, tmp_path / "adapter", config))
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fan_in_fan_out": flag}))
    adapter, base = read_adapter(tmp_path / "adapter"), open_base(gpt2_base)
    assert len(adapter.modules) == 6
    for module in adapter.modules:
        assert_same(adapter.delta(module), expected[module].T)
        assert adapter.shape(module) == base.find(module).shape


def test_doubled_prefixes_are_stripped(lora_folder, changed_copy):
    doubled = changed_copy(lora_folder, "doubled", lambda t: {f"base_model.model.{key}": a for key, a in t.items()})
    plain, found = read_adapter(lora_folder), read_adapter(doubled)
    assert found.modules == plain.modules
    np.testing.assert_array_equal(found.delta(found.modules[0]).dense(), plain.delta(plain.modules[0]).dense())


def test_old_files_with_the_adapters_name_in_the_keys_are_read(lora_folder, changed_copy):
    old = changed_copy(
        lora_folder, "old", lambda t: {key.replace(".weight", ".default.weight"): a for key, a in t.items()}
    )
    assert read_adapter(old).modules == read_adapter(lora_folder).modules
    assert read_adapter(old).caveats == []


def test_targets_given_as_one_string_are_no_obstacle(llama_base, make_adapter, tmp_path):
    config = LoraConfig(r=2, target_modules=r".*layers\.0.*\.(q|v)_proj")
    make_adapter(llama_base, tmp_path / "adapter", config)
    assert read_adapter(tmp_path / "adapter").modules == [
        f"model.layers.0.self_attn.{name}_proj" for name in ("q", "v")
    ]


def test_an_adapter_that_was_never_trained_is_zero(llama_base, make_adapter, tmp_path):
    make_adapter(llama_base, tmp_path / "adapter", LoraConfig(r=2, target_modules=["q_proj"]), zero=True)
    adapter = read_adapter(tmp_path / "adapter")
    assert all(adapter.delta(module).energy == 0 for module in adapter.modules)


def test_biases_and_norms_kept_whole_are_counted_and_named(llama_base, gpt2_base, make_adapter, tmp_path):
    whole = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["input_layernorm"])
    make_adapter(llama_base, tmp_path / "whole", whole)
    (note,) = read_adapter(tmp_path / "whole").caveats
    assert note == (
        "Also trained, but not in these numbers: tensors kept whole (2: model.layers.0.input_layernorm.weight, …)."
    )
    bias = LoraConfig(r=2, target_modules=["c_attn"], bias="lora_only", fan_in_fan_out=True)
    make_adapter(gpt2_base, tmp_path / "bias", bias)
    (note,) = read_adapter(tmp_path / "bias").caveats
    assert note.startswith("Also trained, but not in these numbers: biases (2: transformer.h.0.attn.c_attn.")


def test_a_rank_beyond_the_layer_is_noted(llama_base, make_adapter, tmp_path):
    make_adapter(llama_base, tmp_path / "adapter", LoraConfig(r=20, target_modules=["k_proj"]))
    (note,) = read_adapter(tmp_path / "adapter").caveats
    assert note.startswith("r is larger than the layer in 2 modules (model.layers.0.self_attn.k_proj)")


def test_a_plain_adapter_has_nothing_to_note(lora_folder, llama_base):
    adapter = read_adapter(lora_folder)
    assert adapter.caveats == []
    assert adapter.base_name == str(llama_base)
    assert adapter.epsilon(adapter.modules[0]) is None
    assert adapter.principal_rank(adapter.modules[0]) is None


def test_nan_is_named_with_its_tensor(lora_folder, changed_copy):
    def spoil(tensors):
        key = next(key for key in tensors if "lora_B" in key)
        tensors[key][0, 0] = np.nan
        return tensors

    spoilt = read_adapter(changed_copy(lora_folder, "spoilt", spoil))
    with pytest.raises(HiploraError, match=r"adapter_model\.safetensors: .*lora_B\.weight holds NaN"):
        [spoilt.delta(module) for module in spoilt.modules]


@pytest.mark.parametrize("factor", ["lora_A", "lora_B"])
def test_half_a_pair_of_factors_is_named(lora_folder, changed_copy, factor):
    def drop(tensors):
        gone = next(key for key in tensors if factor in key)
        return {key: array for key, array in tensors.items() if key != gone}

    folder = changed_copy(lora_folder, "half", drop)
    with pytest.raises(HiploraError, match=rf"adapter_model\.safetensors: {factor} of .* is missing"):
        read_adapter(folder)


def test_factors_that_do_not_multiply_are_named(write_adapter, rng):
    folder = write_adapter("odd", {
        "base_model.model.a.lora_A.weight": rng.normal(size=(2, 5)),
        "base_model.model.a.lora_B.weight": rng.normal(size=(5, 3)),
    })  # fmt: skip
    with pytest.raises(HiploraError, match=r"the factors of a are \(5, 3\) and \(2, 5\), which do not multiply"):
        read_adapter(folder).delta("a")


def test_the_r_of_the_file_counts_not_the_one_of_the_config(write_adapter, rng):
    A, B = rng.normal(size=(4, 5)), rng.normal(size=(6, 4))
    folder = write_adapter("odd", {"base_model.model.a.lora_A.weight": A, "base_model.model.a.lora_B.weight": B}, r=2)
    np.testing.assert_allclose(read_adapter(folder).delta("a").dense(), 2 / 4 * B @ A)


def test_half_precision_files_are_read_in_float64(lora_folder, changed_copy):
    half = changed_copy(lora_folder, "half", lambda t: {key: a.astype(np.float16) for key, a in t.items()})
    adapter = read_adapter(half)
    found = adapter.delta(adapter.modules[0]).dense()
    assert found.dtype == np.float64
    exact = read_adapter(lora_folder).delta(adapter.modules[0])
    # Either factor is rounded once.
    error = numerics.gamma(2, "float16") * np.max(np.abs(exact.L) @ np.abs(exact.R))
    np.testing.assert_allclose(found, exact.dense(), rtol=0, atol=error)


def test_a_file_without_any_lora_is_named(lora_folder, tmp_path):
    (tmp_path / "adapter_config.json").write_bytes((lora_folder / "adapter_config.json").read_bytes())
    save_file({"x": np.zeros(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(HiploraError, match=r"adapter_model\.safetensors holds no LoRA weights"):
        read_adapter(tmp_path)


@pytest.mark.parametrize("flag", ["use_qalora", "arrow_config", "enable_lora"])
def test_a_variant_without_an_update_is_named(flag, write_adapter, rng):
    tensors = {f"base_model.model.a.lora_{factor}.weight": rng.normal(size=(3, 3)) for factor in "AB"}
    with pytest.raises(HiploraError, match=f"odd uses {flag}, which "):
        read_adapter(write_adapter("odd", tensors, **{flag: {"x": 1}}))


@pytest.mark.parametrize("fields", [
    {"lora_alpha": "much"}, {"lora_alpha": None}, {"alpha_pattern": ["a"]}, {"alpha_pattern": {"a": []}},
])  # fmt: skip
def test_an_alpha_that_is_no_number_is_one_sentence(fields, write_adapter, rng):
    tensors = {f"base_model.model.a.lora_{f}.weight": rng.normal(size=(3, 3)) for f in "AB"}
    with pytest.raises(HiploraError, match="lora_alpha must be a number and alpha_pattern an object of numbers"):
        read_adapter(write_adapter("odd", tensors, **fields)).delta("a")


def test_a_doubled_prefix_is_read_and_named(write_adapter, rng):
    keys = {f"base_model.model.base_model.model.a.lora_{f}.weight": rng.normal(size=(3, 3)) for f in "AB"}
    adapter = read_adapter(write_adapter("twice", keys, r=3))
    assert adapter.modules == ["a"]
    assert adapter.caveats[0].startswith("PEFT would not load it: its prefix is there twice (base_model.model.base_")
