import json

import numpy as np
import pytest

from hiplora import HipLoraConfig
from hiplora.adapters import read_adapter
from hiplora.errors import HiploraError
from hiplora.measures import caveats_on, channels, layer_table, measure_layers
from hiplora.sources import open_base
from hiplora.spectrum import SpectrumCache
from hiplora.spectrum.prepare import BaseSpectra
from tests import numerics
from tests.placing import placed

VARIANTS = {
    "full core": {},
    "diagonal core": {"core": "diagonal"},
    "hard budget": {"budget_mode": "hard", "epsilon": 1e-3},
    "hard budget, power 0": {"budget_mode": "hard", "epsilon": 1e-3, "budget_power": 0},
    "patterns": {
        "rank_pattern": {"q_proj": 5},
        "alpha_pattern": {"up_proj": 1},
        "principal_rank_pattern": {"k_proj": 2},
    },
    "overlapping patterns": {"alpha_pattern": {"q_proj": 3, r"layers\.1\..*": 100}},
    "share of energy": {"principal_rank": 0.3},
    "r larger than k": {"r": 12},
}


@pytest.fixture
def make(llama_base, make_adapter, tmp_path):
    def make(base=llama_base, name="adapter", **fields):
        config = {"r": 3, "lora_alpha": 6, "principal_rank": 4, "target_modules": "all-linear"} | fields
        return make_adapter(base, tmp_path / name, HipLoraConfig(**config)), tmp_path / name

    return make


def deltas_of(model):
    """Return the tuner's own `{module: dW}`."""
    return {
        name.removeprefix("base_model.model."): layer.get_delta_weight("default").detach().numpy()
        for name, layer in model.named_modules()
        if hasattr(layer, "get_delta_weight")
    }


def assert_same(delta, dW):
    """The tuner projects, scales and multiplies in float32."""
    error = numerics.product_error(delta.L, delta.R, dtype="float32", steps=2 * sum(dW.shape))
    np.testing.assert_allclose(delta.dense(), dW, rtol=0, atol=error)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_update_is_the_tuners_own(make, variant):
    model, folder = make(**VARIANTS[variant])
    adapter, expected = read_adapter(folder), deltas_of(model)
    assert set(adapter.modules) == set(expected)
    assert len(expected) == 14
    for module, dW in expected.items():
        assert_same(adapter.delta(module), dW)
        assert adapter.shape(module) == dW.shape
    assert (adapter.method, adapter.caveats) == ("HiP-LoRA", [])


def test_conv1d_updates_are_out_x_in(make, gpt2_base):
    model, folder = make(gpt2_base, target_modules=["c_attn", "c_fc"])
    adapter, base = read_adapter(folder), open_base(gpt2_base)
    for module, dW in deltas_of(model).items():
        assert_same(adapter.delta(module), dW.T)
        assert adapter.shape(module) == base.find(module).shape


def test_it_knows_the_budget_and_the_rank_it_was_trained_at(make):
    _, folder = make(epsilon=0.1, epsilon_pattern={"q_proj": 0.02}, principal_rank_pattern={"k_proj": 2})
    adapter = read_adapter(folder)
    layer = "model.layers.1.self_attn"
    assert (adapter.epsilon(f"{layer}.q_proj"), adapter.epsilon(f"{layer}.v_proj")) == (0.02, 0.1)
    assert (adapter.principal_rank(f"{layer}.k_proj"), adapter.principal_rank(f"{layer}.v_proj")) == (2, 4)


def test_the_hash_is_that_of_the_base_weight(make, llama_base):
    adapter, base = read_adapter(make()[1]), open_base(llama_base)
    spectra = BaseSpectra(base)
    for module in adapter.modules:
        assert adapter.weight_hash(module) == spectra.weight_hash(base.weights[module])


def test_at_its_own_k_nothing_lies_in_the_mixed_blocks(make, llama_base):
    adapter = read_adapter(make()[1])
    spectra = BaseSpectra(open_base(llama_base))
    for module in adapter.modules:
        spectrum = spectra.get(spectra.base.weights[module], 4)
        found = channels(adapter.delta(module), spectrum.Ut, spectrum.Vt)
        assert found.share("pr") + found.share("rp") < 2 * numerics.kept_error(4)
        assert found.share("pp") > 0.01
        assert found.share("rr") > 0.01


def test_a_hard_budget_holds_in_the_measured_tightness(make, llama_base):
    adapter = read_adapter(make(budget_mode="hard", epsilon=1e-3)[1])
    spectra = BaseSpectra(open_base(llama_base))
    table = layer_table(measure_layers(spectra, placed(spectra, adapter), 4))
    assert list(table["epsilon"].unique()) == [1e-3]
    # The core comes back by two products with vectors kept in float32, and its budget by singular values that are.
    np.testing.assert_allclose(table["tightness"], 1, rtol=0, atol=3 * numerics.kept_error(4))


def test_another_k_than_its_own_is_noted(make, llama_base):
    adapter, spectra = read_adapter(make()[1]), BaseSpectra(open_base(llama_base))
    for k, expected in ((4, []), (8, ["It was trained at principal rank 4; at k = 8 its channels mix."])):
        table = layer_table(measure_layers(spectra, placed(spectra, adapter), k))
        assert caveats_on(spectra, *placed(spectra, adapter), table, k) == expected


def test_a_copy_of_the_base_in_another_precision_is_noted(make, llama_base, changed_copy):
    def round_to_half(tensors):
        return {key: array.astype(np.float16) for key, array in tensors.items()}

    copy = changed_copy(llama_base, "half", round_to_half, "model.safetensors")
    adapter, spectra = read_adapter(make()[1]), BaseSpectra(open_base(copy))
    table = layer_table(measure_layers(spectra, placed(spectra, adapter), 4))
    found = caveats_on(spectra, *placed(spectra, adapter), table, 4)
    count = len(adapter.modules)
    assert any(note.startswith(f"{count} of its modules were trained on other weights") for note in found)


def test_factors_left_out_of_the_file_come_from_the_cache_or_are_missed_in_words(make, cache_folder):
    model, folder = make(save_factors=False)
    assert not any("hiplora_Ut" in key for key in read_adapter(folder).tensors.shapes)
    for module, dW in deltas_of(model).items():
        assert_same(read_adapter(folder).delta(module), dW)
    SpectrumCache(cache_folder).clear()
    adapter = read_adapter(folder)
    with pytest.raises(HiploraError, match="saved without its singular vectors and the cache does not hold those of"):
        adapter.delta(adapter.modules[0])


def test_factors_other_than_those_it_was_trained_on_are_refused(make, cache_folder, llama_base, changed_copy):
    _, folder = make(save_factors=False)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    for entry in config["base_weights"].values():
        entry["factors"] = "0" * 64
    path.write_text(json.dumps(config))
    adapter = read_adapter(folder)
    with pytest.raises(HiploraError, match=r"singular vectors of model\.layers\.0.* differ in their last digits"):
        adapter.delta(adapter.modules[0])


@pytest.mark.parametrize(
    ("save_factors", "damage"),
    [
        (True, lambda key, array: array[::-1].copy() if key.endswith("hiplora_Ut") else array),
        (True, lambda key, array: array.astype(np.float16)),
        (False, lambda key, array: array.astype(np.float16)),
        (False, lambda key, array: array * np.float32(1.001) if key.endswith("hiplora_S") else array),
    ],
)
def test_a_damaged_or_cast_basis_is_refused(make, changed_copy, damage, save_factors):
    folder = make(save_factors=save_factors)[1]
    copy = changed_copy(folder, "copy", lambda tensors: {key: damage(key, array) for key, array in tensors.items()})
    adapter = read_adapter(copy)
    with pytest.raises(HiploraError, match=r"singular vectors of model\.layers\.0"):
        adapter.delta(adapter.modules[0])


def test_peft_prefix_twice_means_the_same_module(make, changed_copy):
    folder = make()[1]
    twice = changed_copy(
        folder, "twice", lambda tensors: {f"base_model.model.{key}": array for key, array in tensors.items()}
    )
    assert read_adapter(twice).modules == read_adapter(folder).modules


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lora_alpha": "16"}, "lora_alpha '16', not a positive number"),
        ({"epsilon": "0.05"}, "epsilon '0.05', not a positive number"),
        ({"epsilon": float("nan")}, "epsilon nan, not a positive number"),
        ({"r": 2.5}, "r 2.5, not a whole number"),
        ({"r": True}, "r True, not a whole number"),
        ({"r": 0}, "r 0, not a whole number of at least 1"),
        ({"budget_power": None}, "budget_power None, not 0 or a positive number"),
        ({"core": 3}, "core 3, not one of full, diagonal"),
        ({"core": "diag"}, "core 'diag', not one of full, diagonal"),
        ({"budget_mode": "firm"}, "budget_mode 'firm', not one of soft, hard"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern .*, not an object"),
        ({"epsilon_pattern": "q_proj"}, "epsilon_pattern 'q_proj', not an object"),
        ({"alpha_pattern": {"q_proj": "3"}}, r"alpha_pattern\['q_proj'\] '3', not a positive number"),
        ({"alpha_pattern": {"(": 3}}, "not a regular expression"),
        ({"base_weights": ["x"]}, "does not say which base weight"),
    ],
)
def test_a_config_of_wrong_types_is_refused(make, fields, message):
    path = make()[1] / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(HiploraError, match=message):
        read_adapter(path.parent)


@pytest.mark.parametrize("entry", [None, {}, 3, {"hash": "x"}, {"hash": 1, "principal_rank": 4, "factors": "x"}])
def test_a_config_that_does_not_name_the_base_weights_is_refused(make, entry):
    path = make()[1] / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_weights"]["model.layers.1.self_attn.q_proj"] = entry
    path.write_text(json.dumps(config))
    with pytest.raises(HiploraError, match=r"adapter_config\.json does not say which base weight .*layers\.1.*q_proj"):
        read_adapter(path.parent)


def test_nan_is_named_with_its_tensor(make, changed_copy):
    def spoil(tensors):
        key = next(key for key in tensors if key.endswith("hiplora_C"))
        tensors[key][:] = np.nan
        return tensors

    spoilt = read_adapter(changed_copy(make()[1], "spoilt", spoil))
    with pytest.raises(HiploraError, match=r"adapter_model\.safetensors: .*hiplora_C holds NaN"):
        [spoilt.delta(module) for module in spoilt.modules]


@pytest.mark.parametrize("tensor", ["hiplora_A", "hiplora_B", "hiplora_C", "hiplora_S"])
def test_a_missing_tensor_is_named(make, changed_copy, tensor):
    def drop(tensors):
        return {key: array for key, array in tensors.items() if not key.endswith(f"layers.0.self_attn.q_proj.{tensor}")}

    adapter = read_adapter(changed_copy(make()[1], "part", drop))
    with pytest.raises(HiploraError, match=tensor):
        adapter.delta("model.layers.0.self_attn.q_proj")
