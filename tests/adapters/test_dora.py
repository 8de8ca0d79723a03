import json

import numpy as np
import pytest
from peft import LoraConfig

from hiplora.adapters import DenseDelta, place, read_adapter
from hiplora.errors import HiploraError
from hiplora.sources import open_base
from tests import numerics

VARIANTS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 7}, "alpha_pattern": {"up_proj": 3}},
}


def updates(adapter, base):
    """Return `{module: (m, n) update}` on the weights of a base."""
    return {module: adapter.delta(module, base.read(base.find(module))).dense() for module in adapter.modules}


@pytest.fixture
def dora(train, llama_base):
    return train(llama_base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", use_dora=True))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_update_is_what_pefts_merge_adds(variant, train, llama_base, gap):
    fields = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "use_dora": True} | VARIANTS[variant]
    trained = train(llama_base, LoraConfig(**fields))
    adapter = read_adapter(trained.folder)
    found = updates(adapter, open_base(llama_base))
    assert len(found) == 14
    for module, dW in found.items():
        assert gap(dW, trained.changes[module]) < 1e-12, module  # both in float64
        assert adapter.shape(module) == dW.shape
    assert (adapter.method, adapter.caveats, adapter.needs_weight(adapter.modules[0])) == ("DoRA", [], True)


def test_conv1d_magnitudes_are_of_outputs_too(train, gpt2_base, gap):
    config = LoraConfig(r=3, target_modules=["c_attn", "c_proj"], use_dora=True, fan_in_fan_out=True)
    trained = train(gpt2_base, config)
    found = updates(read_adapter(trained.folder), open_base(gpt2_base))
    assert len(found) == 6
    for module, dW in found.items():
        assert gap(dW, trained.changes[module]) < 1e-12, module  # both in float64


def test_before_the_first_step_the_update_is_zero_to_rounding(train, llama_base):
    trained = train(llama_base, LoraConfig(r=4, target_modules=["q_proj"], use_dora=True), move=0.0)
    base = open_base(llama_base)
    for module, dW in updates(read_adapter(trained.folder), base).items():
        # PEFT takes the norms of the rows in float32.
        error = numerics.gamma(dW.shape[1] + 2, "float32")
        assert np.linalg.norm(dW) < error * np.linalg.norm(base.read(base.find(module)))


def test_it_is_dense_and_of_full_rank(dora, llama_base):
    adapter, base = read_adapter(dora.folder), open_base(llama_base)
    module = "model.layers.0.self_attn.k_proj"
    delta = adapter.delta(module, base.read(base.find(module)))
    assert isinstance(delta, DenseDelta)
    assert np.linalg.matrix_rank(delta.dense()) == delta.rank == 16


def test_without_the_bases_weight_it_says_which_base_it_needs(dora, llama_base):
    adapter = read_adapter(dora.folder)
    with pytest.raises(
        HiploraError, match=rf"adapter is a DoRA, whose update depends on .*: open it on its base, {llama_base}"
    ):
        adapter.delta(adapter.modules[0])


@pytest.mark.parametrize("ending", [".weight", ".default.weight", ".default", ""])
def test_keys_of_older_files_are_read(dora, llama_base, changed_copy, ending):
    def rename(key):
        module, magnitude, _ = key.partition("lora_magnitude_vector")
        return f"{module}{magnitude}{ending}" if magnitude else key

    old = changed_copy(dora.folder, "old", lambda tensors: {rename(key): array for key, array in tensors.items()})
    base = open_base(llama_base)
    found, expected = (updates(read_adapter(folder), base) for folder in (old, dora.folder))
    for module, dW in expected.items():
        np.testing.assert_array_equal(found[module], dW)
    assert read_adapter(old).caveats == []


def test_magnitudes_count_even_where_the_config_is_silent(dora):
    path = dora.folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": False}))
    assert read_adapter(dora.folder).method == "DoRA"


def test_a_module_without_magnitudes_is_named(dora, changed_copy):
    def drop(tensors):
        return {key: array for key, array in tensors.items() if "0.self_attn.q_proj.lora_magnitude" not in key}

    with pytest.raises(HiploraError, match=r"lora_magnitude_vector of model\.layers\.0\.self_attn\.q_proj is missing"):
        read_adapter(changed_copy(dora.folder, "part", drop))


def test_magnitudes_that_do_not_fit_are_named(write_adapter, rng):
    folder = write_adapter("odd", {
        "base_model.model.a.lora_A.weight": rng.normal(size=(2, 5)),
        "base_model.model.a.lora_B.weight": rng.normal(size=(4, 2)),
        "base_model.model.a.lora_magnitude_vector": rng.normal(size=5),
    }, use_dora=True)  # fmt: skip
    with pytest.raises(HiploraError, match=r"adapter_model\.safetensors: a has 5 magnitudes for 4 outputs"):
        read_adapter(folder).delta("a", rng.normal(size=(4, 5)))


def test_a_row_of_zeros_stays_one(write_adapter, rng):
    B, W0 = rng.normal(size=(4, 2)), rng.normal(size=(4, 5))
    B[1] = W0[1] = 0
    folder = write_adapter("pruned", {
        "base_model.model.a.lora_A.weight": rng.normal(size=(2, 5)),
        "base_model.model.a.lora_B.weight": B,
        "base_model.model.a.lora_magnitude_vector": np.ones(4),
    }, use_dora=True)  # fmt: skip
    dW = read_adapter(folder).delta("a", W0).dense()
    np.testing.assert_array_equal(dW[1], 0)
    np.testing.assert_allclose(np.linalg.norm((W0 + dW)[[0, 2, 3]], axis=1), 1)


def test_the_bases_weight_is_read_in_any_precision(dora, llama_base):
    adapter, base = read_adapter(dora.folder), open_base(llama_base)
    module = adapter.modules[0]
    W0 = base.read(base.find(module)).astype(np.float16)
    exact = adapter.delta(module, W0.astype(np.float64)).dense()
    np.testing.assert_array_equal(adapter.delta(module, W0).dense(), exact)


def test_an_embeddings_magnitudes_are_read_with_its_factors(train, llama_base):
    trained = train(llama_base, LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"], use_dora=True))
    adapter = read_adapter(trained.folder)
    placement = place(open_base(llama_base), adapter)
    assert [weight.module for weight in placement.weights][-1] == "model.embed_tokens"
    assert adapter.caveats == []
