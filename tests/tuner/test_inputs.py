"""HiP-LoRA in the geometry of the inputs: its core is what that geometry measures; else it is as any other."""

import json

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

import hiplora
from hiplora.budget import budget_cost, tightness
from hiplora.errors import HiploraError
from hiplora.geometry import Calibration
from hiplora.sources import open_base
from hiplora.sources.transformers_models import load_causal_lm
from hiplora.spectrum import BaseSpectra
from hiplora.tuner import HipLoraConfig, observe_inputs
from hiplora.tuner.export import export_lora
from tests import numerics
from tests.tuner.test_layer import exact, inputs_of, make_layer
from tests.tuner.test_model import layers, logits, logits_error, perturb, trainer

SMALL = {"r": 3, "principal_rank": 5, "target_modules": "all-linear", "geometry": "inputs"}
# The basis is float32, and R^-1 multiplies its rounding by the condition of R: 10 here, with k sums.
ROUNDING = 10 * 5 * numerics.gamma(4, "float32")


def root(inputs: torch.Tensor) -> np.ndarray:
    """A Cholesky root of the second moment: not the symmetric one of the code."""
    X = inputs.numpy()
    return np.linalg.cholesky(X.T @ X / len(X))


def adapted(model, tokens, **fields):
    observe_inputs(model, [{"input_ids": tokens}])
    return get_peft_model(model, HipLoraConfig(**SMALL | fields))


@pytest.mark.parametrize("core", ["full", "diagonal"])
def test_core_is_what_the_geometry_of_the_inputs_measures(core):
    W, X = torch.randn(9, 7, dtype=torch.float64), inputs_of(7)
    layer = exact(make_layer(W, inputs=X, geometry="inputs", r=2, principal_rank=4, core=core))
    K = root(X)
    U, s, Vt = np.linalg.svd(W.numpy() @ K)
    k, dW = 4, layer.get_delta_weight("a").detach().numpy()
    Ut = layer.hiplora_Ut["a"].numpy()
    signs = np.sign(np.sum(Ut * U.T[:k], axis=1))
    measured = (Ut @ dW @ K @ Vt[:k].T) * signs
    size = np.sqrt(np.trace(K @ K.T) / 7)
    want = layer.effective_core("a").detach().numpy() * size
    np.testing.assert_allclose(measured, want, atol=ROUNDING * np.abs(want).max())
    np.testing.assert_allclose(layer.hiplora_S["a"].numpy() * size, s[:k], rtol=ROUNDING)
    spent = tightness(budget_cost(measured, s[:k]), layer.hiplora_settings["a"].epsilon)
    assert spent == pytest.approx(float(layer.tightness("a")), rel=ROUNDING)


def test_residual_is_silent_on_the_inputs_of_principal_outputs():
    W, X = torch.randn(9, 7, dtype=torch.float64), inputs_of(7)
    layer = exact(make_layer(W, inputs=X, geometry="inputs", r=2, principal_rank=4))
    layer.hiplora_C["a"].data.zero_()
    K = root(X)
    Vt = np.linalg.svd(W.numpy() @ K)[2][:4]
    dW = layer.get_delta_weight("a").detach().numpy()
    assert np.abs(dW @ K @ Vt.T).max() < ROUNDING * np.linalg.norm(dW @ K)


def test_isotropic_inputs_of_any_size_give_the_adapter_of_the_weights():
    W = torch.randn(9, 7, dtype=torch.float64)
    isotropic = 100 * 7**0.5 * torch.linalg.qr(torch.randn(7, 7, dtype=torch.float64))[0]
    plain = exact(make_layer(W, geometry="weights", r=2, principal_rank=4))
    layer = exact(make_layer(W, inputs=isotropic, geometry="inputs", r=2, principal_rank=4))
    layer.hiplora_A["a"].data = plain.hiplora_A["a"].data
    torch.testing.assert_close(layer.hiplora_S["a"], plain.hiplora_S["a"], rtol=ROUNDING, atol=0)
    torch.testing.assert_close(layer.get_delta_weight("a"), plain.get_delta_weight("a"), rtol=0, atol=ROUNDING)


def test_size_of_the_inputs_does_not_matter():
    W, X = torch.randn(9, 7, dtype=torch.float64), inputs_of(7)
    one, other = (make_layer(W, inputs=size * X, geometry="inputs", r=2, principal_rank=4) for size in (1, 1000))
    for name, values in one.basis("a").items():
        torch.testing.assert_close(values, other.basis("a")[name], rtol=0, atol=ROUNDING * float(values.abs().max()))


@pytest.mark.parametrize("base", ["llama", "gpt2"])
def test_trains_saves_loads_merges_and_exports(load_base, tokens, tmp_path, base):
    model = adapted(load_base(base), tokens)
    run = trainer(model, tokens, tmp_path / "run")
    run.train()
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.05
    want, error = logits(model, tokens), logits_error(model, tokens)
    model.save_pretrained(tmp_path / "adapter")
    # No inputs are observed here: the file has all that it takes.
    for low_memory in (True, False):
        loaded = PeftModel.from_pretrained(load_base(base), tmp_path / "adapter", low_cpu_mem_usage=low_memory)
        assert torch.equal(logits(loaded, tokens), want)
    export_lora(tmp_path / "adapter", tmp_path / "lora")
    exported = PeftModel.from_pretrained(load_base(base), tmp_path / "lora")
    torch.testing.assert_close(logits(exported, tokens), want, atol=error, rtol=0)
    torch.testing.assert_close(logits(loaded.merge_and_unload(), tokens), want, atol=error, rtol=0)


def change(folder, **how):
    path = folder / "adapter_model.safetensors"
    changes = {f"hiplora_{name}": change for name, change in how.items()}
    tensors = load_file(path)
    save_file({key: changes.get(key.rpartition(".")[2], torch.clone)(value) for key, value in tensors.items()}, path)


def test_resuming_takes_over_another_routines_basis_of_the_same_base(load_base, tokens, tmp_path):
    model = perturb(adapted(load_base(), tokens))
    model.save_pretrained(tmp_path)
    # The same update: signs of singular vectors are free.
    change(tmp_path, Ut=torch.neg, Rinv=torch.neg)
    again = adapted(load_base(), tokens)
    again.load_adapter(tmp_path, "default")
    torch.testing.assert_close(logits(again, tokens), logits(model, tokens))
    again.save_pretrained(tmp_path / "saved")
    loaded = PeftModel.from_pretrained(load_base(), tmp_path / "saved")
    assert torch.equal(logits(loaded, tokens), logits(again, tokens))


def test_resuming_takes_over_the_basis_of_other_inputs(load_base, tokens, tmp_path):
    """A shuffled loader observes other inputs: the basis that was trained on is one of this base all the same."""
    model = perturb(adapted(load_base(), tokens))
    model.save_pretrained(tmp_path)
    again = adapted(load_base(), tokens.flip(0)[:5])
    again.load_adapter(tmp_path, "default")
    torch.testing.assert_close(logits(again, tokens), logits(model, tokens))
    assert {entry["inputs"] for entry in again.peft_config["default"].base_weights.values()} == {""}


def test_few_tokens_are_told(load_base, tokens):
    with pytest.warns(UserWarning, match="96 tokens are few to observe inputs on"):
        observe_inputs(load_base(), [{"input_ids": tokens}])


def test_long_rows_are_read_in_windows(load_base):
    row = torch.randint(0, 40, (1, 24), generator=torch.Generator().manual_seed(0))
    whole, parts = load_base(), load_base()
    observe_inputs(whole, [{"input_ids": row.repeat(1, 43)[:, :1024]}])
    observe_inputs(parts, [{"input_ids": row.repeat(1, 43)[:, :1024].reshape(2, 512)}])
    one, other = (get_peft_model(model, HipLoraConfig(**SMALL)) for model in (whole, parts))
    assert one.peft_config["default"].base_weights == other.peft_config["default"].base_weights


def test_inputs_of_zeros_are_named():
    with pytest.raises(HiploraError, match="All observed inputs of x are zeros"):
        make_layer(torch.randn(6, 5), inputs=torch.zeros(10, 5), geometry="inputs", r=2, principal_rank=3)


@pytest.mark.parametrize("name", ["Rinv", "Ut", "Vt"])
def test_damaged_basis_is_refused(load_base, tokens, tmp_path, name):
    perturb(adapted(load_base(), tokens)).save_pretrained(tmp_path)
    change(tmp_path, **{name: lambda value: value.bfloat16().float()})
    with pytest.raises(HiploraError, match="damaged"):
        adapted(load_base(), tokens).load_adapter(tmp_path, "default")
    with pytest.raises(HiploraError, match="damaged or cast"):
        logits(PeftModel.from_pretrained(load_base(), tmp_path), tokens)


def test_file_without_the_inverse_is_refused(load_base, tokens, tmp_path):
    perturb(adapted(load_base(), tokens)).save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    save_file({key: value for key, value in load_file(path).items() if not key.endswith("Rinv")}, path)
    with pytest.raises(HiploraError, match=r"lacks the basis of model\.layers\.0"):
        logits(PeftModel.from_pretrained(load_base(), tmp_path), tokens)
    adapter = hiplora.read_adapter(tmp_path)
    with pytest.raises(HiploraError, match=r"not those its core was trained on|hiplora_Rinv"):
        adapter.delta(adapter.modules[0])


def test_padding_does_not_count(load_base, tokens):
    mask = torch.ones_like(tokens)
    mask[::2, 6:] = 0
    padded, cut = (load_base() for _ in range(2))
    observe_inputs(padded, [{"input_ids": tokens, "attention_mask": mask}])
    rows = [{"input_ids": row[None, : int(kept.sum())]} for row, kept in zip(tokens, mask, strict=True)]
    observe_inputs(cut, rows)
    one, other = (get_peft_model(model, HipLoraConfig(**SMALL)) for model in (padded, cut))
    entries = [model.peft_config["default"].base_weights for model in (one, other)]
    assert entries[0] == entries[1]


def test_inputs_are_those_of_the_layer(load_base, tokens):
    """Against a forward hook of our own, at a layer that reads what others have computed."""
    model, seen = load_base(), []
    layer = model.model.layers[1].mlp.down_proj
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].reshape(-1, args[0].shape[-1])))
    logits(model, tokens)
    hook.remove()
    X = seen[0].double()
    K = root(X)
    model = adapted(model, tokens)
    S = model.base_model.model.model.layers[1].mlp.down_proj.hiplora_S["default"]
    want = np.linalg.svd(layer.weight.double().numpy() @ K, compute_uv=False)[:5] / np.sqrt(np.trace(K @ K.T) / len(K))
    # The model computes its inputs in float32, and the moment has a ridge of 1e-6 of its mean.
    np.testing.assert_allclose(S.numpy(), want, rtol=1e-4)


def test_observed_inputs_are_used_up(load_base, tokens):
    model = adapted(load_base(), tokens)
    with pytest.raises(HiploraError, match="were not observed"):
        model.add_adapter("second", HipLoraConfig(**SMALL))


def test_inputs_that_were_not_observed_are_named(load_base):
    with pytest.raises(HiploraError, match=r"model.layers.0.self_attn.q_proj were not observed.*observe_inputs"):
        get_peft_model(load_base(), HipLoraConfig(**SMALL))


def test_config_says_what_cannot_be():
    with pytest.raises(HiploraError, match="save_factors=False cannot be used with geometry='inputs'"):
        HipLoraConfig(geometry="inputs", save_factors=False)
    with pytest.raises(HiploraError, match="geometry must be one of weights, inputs, got 'outputs'"):
        HipLoraConfig(geometry="outputs")


@pytest.mark.parametrize("batches", [[], [{"input_ids": torch.zeros((1, 0), dtype=torch.long)}]])
def test_batches_without_tokens_are_refused(load_base, batches):
    with pytest.raises(HiploraError, match="hold no tokens"):
        observe_inputs(load_base(), batches)


def test_adapters_of_before_the_choice_are_those_of_the_weights(load_base, tokens, tmp_path):
    model = perturb(get_peft_model(load_base(), HipLoraConfig(**SMALL | {"geometry": "weights"})))
    model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text())
    assert config.pop("geometry") == "weights"
    path.write_text(json.dumps(config))
    assert torch.equal(logits(PeftModel.from_pretrained(load_base(), tmp_path), tokens), logits(model, tokens))
    assert hiplora.read_adapter(tmp_path).trained_inputs("model.layers.0.self_attn.q_proj") is None


@pytest.fixture(scope="module")
def demo_adapter(tmp_path_factory):
    """An adapter on the demo base, in the geometry of the inputs that come with it."""
    base = open_base("demo")
    model = load_causal_lm(base.path)
    count = observe_inputs(model, Calibration(BaseSpectra(base)))
    assert count == 28
    fields = {"r": 3, "principal_rank": 16, "target_modules": "all-linear", "geometry": "inputs"}
    model = perturb(get_peft_model(model, HipLoraConfig(**fields)), size=0.03)
    folder = tmp_path_factory.mktemp("adapters") / "on-inputs"
    model.save_pretrained(folder)
    return model, folder


def test_the_study_measures_the_tightness_that_training_held(demo_adapter):
    model, folder = demo_adapter
    table = hiplora.open("demo", [folder], k=16, geometry="inputs").layers().set_index("module")
    own = {layer.hiplora_records["default"].module: float(layer.tightness("default")) for layer in layers(model)}
    # Float32 bases and R^-1, whose condition on the demo's inputs stays below 100.
    want = [own[module] for module in table.index]
    np.testing.assert_allclose(table["tightness"], want, rtol=100 * numerics.gamma(16, "float32"))


def test_a_study_says_where_another_geometry_was_trained(demo_adapter):
    _, folder = demo_adapter
    on_inputs = hiplora.open("demo", [folder], k=16, geometry="inputs")
    assert on_inputs.layers()["method"].unique() == ["HiP-LoRA on inputs"]
    assert on_inputs.cards()["budget"].tolist() == ["λ = 10.0, on inputs"]
    assert not [caveat for caveat in on_inputs.caveats["on-inputs"] if "geometry" in caveat or "inputs" in caveat]
    assert any(
        "geometry of its inputs (our extension)" in each
        for each in on_inputs.at(geometry="weights").caveats["on-inputs"]
    )
    other = hiplora.open("demo", ["swap-hiplora"], k=16, geometry="inputs")
    assert any("geometry of the weights" in caveat for caveat in other.caveats["swap-hiplora"])


def test_a_calibration_of_another_base_is_refused(load_base):
    calibration = Calibration(BaseSpectra(open_base("demo")))
    with pytest.raises(HiploraError, match=r"whose .* is not this model's"):
        observe_inputs(load_base(), calibration)
