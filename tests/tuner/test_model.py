"""HiP-LoRA as a method of PEFT: training, saving, loading, switching, merging, on tiny models."""

import copy
import io
import json
import os
import subprocess
import sys
import warnings

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer, TrainingArguments

import hiplora.spectrum.cache
from hiplora.errors import HiploraError
from hiplora.tuner import HipLoraConfig, HipLoraLayer, budget_penalty
from hiplora.tuner.export import export_lora
from hiplora.tuner.penalty import add_penalty
from tests import numerics

SMALL = {"r": 3, "principal_rank": 5, "target_modules": "all-linear"}


def perturb(model: nn.Module, adapter: str = "default", size: float = 0.3) -> nn.Module:
    """Give an adapter the parameters of a training run, without one."""
    generator = torch.Generator().manual_seed(11)
    for layer in layers(model, adapter):
        for values in (layer.hiplora_A, layer.hiplora_B, layer.hiplora_C):
            values[adapter].data = size * torch.randn(values[adapter].shape, generator=generator)
    return model


def layers(model: nn.Module, adapter: str = "default") -> list[HipLoraLayer]:
    return [module for module in model.modules() if isinstance(module, HipLoraLayer) and adapter in module.hiplora_A]


@torch.no_grad()
def logits(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return model.eval()(input_ids=tokens).logits


def logits_error(model: nn.Module, tokens: torch.Tensor) -> float:
    return numerics.outputs_error(model, lambda model: logits(model, tokens))


def trainer(model: nn.Module, tokens: torch.Tensor, folder, **arguments) -> Trainer:
    data = [{"input_ids": row, "labels": row} for row in tokens]
    defaults = {"max_steps": 10, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "logging_steps": 1,
                "save_strategy": "no"}  # fmt: skip
    settings = TrainingArguments(
        output_dir=str(folder), use_cpu=True, report_to=[], disable_tqdm=True, seed=0,
        **(defaults | arguments),
    )  # fmt: skip
    return Trainer(model, settings, train_dataset=data, eval_dataset=data)


FRESH_PROCESS = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

for case in json.loads(sys.argv[1]):
    tokens = torch.load(case["tokens"])
    want = torch.load(case["logits"])
    base = lambda: AutoModelForCausalLM.from_pretrained(case["base"])

    assert "hiplora" not in sys.modules or case["name"] != "llama"
    exported = PeftModel.from_pretrained(base(), case["lora"]).eval()
    assert type(exported.peft_config["default"]).__name__ == "LoraConfig"
    with torch.no_grad():
        torch.testing.assert_close(exported(input_ids=tokens).logits, want, atol=case["error"], rtol=0)

        import hiplora
        loaded = PeftModel.from_pretrained(base(), case["adapter"]).eval()
        assert torch.equal(loaded(input_ids=tokens).logits, want)
        merged = loaded.merge_and_unload()
        torch.testing.assert_close(merged(input_ids=tokens).logits, want, atol=case["error"], rtol=0)
    assert not [name for name, _ in merged.named_parameters() if "hiplora" in name]
"""


def test_train_save_load_merge_export(base_folders, load_base, tokens, tmp_path):
    """The whole way, ending in a fresh process: bit for bit as itself, to float32 rounding merged and as LoRA."""
    cases = []
    for name in ("llama", "gpt2"):
        model = get_peft_model(load_base(name), HipLoraConfig(**SMALL))
        run = trainer(model, tokens, tmp_path / "run")
        run.train()
        losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
        assert losses[-1] < losses[0] - 0.05
        want = logits(model, tokens)
        assert (want - logits(load_base(name), tokens)).abs().max() > 0.05
        model.save_pretrained(tmp_path / name)
        export_lora(tmp_path / name, tmp_path / f"{name}-lora")
        torch.save(tokens, tmp_path / "tokens.pt")
        torch.save(want, tmp_path / f"{name}.pt")
        cases.append({
            "name": name,
            "base": str(base_folders[name]),
            "adapter": str(tmp_path / name),
            "lora": str(tmp_path / f"{name}-lora"),
            "tokens": str(tmp_path / "tokens.pt"),
            "logits": str(tmp_path / f"{name}.pt"),
            "error": logits_error(model, tokens),
        })  # fmt: skip
    command = [sys.executable, "-c", FRESH_PROCESS, json.dumps(cases)]
    # One thread, as here: another number of threads may add in another order.
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=one_thread)
    assert done.returncode == 0, done.stderr


def test_loading_needs_no_svd_and_no_cache(load_base, tokens, tmp_path, monkeypatch):
    model = perturb(get_peft_model(load_base(), HipLoraConfig(**SMALL)))
    want = logits(model, tokens)
    model.save_pretrained(tmp_path / "adapter")
    empty = tmp_path / "empty"
    monkeypatch.setenv("HIPLORA_CACHE", str(empty))

    def refuse(*args, **kwargs):
        raise AssertionError("an SVD was asked for")

    monkeypatch.setattr(hiplora.spectrum.prepare, "decompose", refuse)
    for low_memory in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            loaded = PeftModel.from_pretrained(load_base(), tmp_path / "adapter", low_cpu_mem_usage=low_memory)
        assert torch.equal(logits(loaded, tokens), want)
    inner = load_base()
    inner.load_adapter(str(tmp_path / "adapter"))
    assert torch.equal(logits(inner, tokens), want)
    assert not empty.exists()


def test_auto_class(load_base, tokens, tmp_path):
    model = perturb(get_peft_model(load_base(), HipLoraConfig(task_type="CAUSAL_LM", **SMALL)))
    want = logits(model, tokens)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(AutoPeftModelForCausalLM.from_pretrained(tmp_path), tokens), want)


@pytest.mark.parametrize("principal_rank", [5, 0.4])
def test_factors_left_out_come_back_the_same(load_base, tokens, tmp_path, principal_rank, monkeypatch):
    fields = SMALL | {"principal_rank": principal_rank}
    model = perturb(get_peft_model(load_base(), HipLoraConfig(save_factors=False, **fields)))
    want = logits(model, tokens)
    model.save_pretrained(tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {key.rpartition(".")[2] for key in saved} == {"hiplora_A", "hiplora_B", "hiplora_C", "hiplora_S"}
    for cache in ("warm", "cold"):
        if cache == "cold":
            monkeypatch.setenv("HIPLORA_CACHE", str(tmp_path / "cold"))
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            loaded = PeftModel.from_pretrained(load_base(), tmp_path / "adapter")
        assert torch.equal(logits(loaded, tokens), want)

    config_path = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(config_path.read_text())
    next(iter(config["base_weights"].values()))["factors"] = "0" * 64
    config_path.write_text(json.dumps(config))
    with pytest.raises(HiploraError, match="differ in their last digits"):
        PeftModel.from_pretrained(load_base(), tmp_path / "adapter")


def test_file_without_its_factors_is_not_used_blindly(load_base, tokens, tmp_path):
    model = perturb(get_peft_model(load_base(), HipLoraConfig(**SMALL)))
    want = logits(model, tokens)
    config = PeftConfig.from_pretrained(_save(model, tmp_path))
    fresh = get_peft_model(load_base(), config)
    for layer, trained in zip(layers(fresh), layers(model), strict=True):
        for name in "ABC":
            getattr(layer, f"hiplora_{name}")["default"].data = getattr(trained, f"hiplora_{name}")["default"].data
    assert torch.equal(logits(fresh, tokens), want)


def _save(model: nn.Module, folder):
    model.save_pretrained(folder)
    return folder


ENDLESS = {
    # `regex` sees that no name holds an X; `re` tries all ways to part the name first.
    "([a-z_.0-9]+)+X": None,
    r"(.+?)(.+?)(.+?)(.+?)(.+?)(.+?)(.+?)\3\4\5\6\7\8[A-Z]": "takes too long to match: write the names of the modules",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("pattern", ENDLESS)
@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern", "principal_rank_pattern", "epsilon_pattern"])
def test_a_saved_pattern_does_not_hold_up_who_loads_it(load_base, tokens, tmp_path, field, pattern):
    model = perturb(get_peft_model(load_base(), HipLoraConfig(**SMALL | {"alpha_pattern": {"q_proj": 9}})))
    path = _save(model, tmp_path) / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {field: config[field] | {pattern: 3}}))
    if ENDLESS[pattern]:
        with pytest.raises(HiploraError, match=f"{field}, which {ENDLESS[pattern]}"):
            PeftModel.from_pretrained(load_base(), tmp_path)
        return
    loaded = PeftModel.from_pretrained(load_base(), tmp_path)
    assert torch.equal(logits(loaded, tokens), logits(model, tokens))
    assert getattr(loaded.peft_config["default"], field) == config[field] | {pattern: 3}


@pytest.mark.parametrize("base", ["other", "bfloat16"])
def test_another_base_is_refused_and_left_alone(load_base, tmp_path, base):
    model = get_peft_model(load_base(), HipLoraConfig(**SMALL))
    model.save_pretrained(tmp_path)
    wrong = load_base("other") if base == "other" else load_base(dtype=torch.bfloat16)
    with pytest.raises(HiploraError, match=r"was trained on another weight than this base's model\.layers"):
        PeftModel.from_pretrained(wrong, tmp_path)
    assert not layers(wrong)
    with pytest.raises(HiploraError, match="which this base does not have"):
        PeftModel.from_pretrained(load_base("gpt2"), tmp_path)


def test_one_config_serves_two_bases(load_base):
    config = HipLoraConfig(**SMALL)
    get_peft_model(load_base(), config)
    get_peft_model(load_base("other"), config)
    assert config.base_weights == {}


def test_resuming_on_another_base_is_refused(load_base, tokens, tmp_path):
    run = trainer(get_peft_model(load_base(), HipLoraConfig(**SMALL)), tokens, tmp_path, save_strategy="steps",
                  save_steps=2, max_steps=2)  # fmt: skip
    run.train()
    want = logits(run.model, tokens)
    again = trainer(get_peft_model(load_base(), HipLoraConfig(**SMALL)), tokens, tmp_path, max_steps=2)
    again.train(resume_from_checkpoint=True)
    assert torch.equal(logits(again.model, tokens), want)
    wrong = trainer(get_peft_model(load_base("other"), HipLoraConfig(**SMALL)), tokens, tmp_path, max_steps=4)
    with pytest.raises(HiploraError, match="another base"):
        wrong.train(resume_from_checkpoint=True)


@pytest.fixture
def nudged_base(load_base):
    """The llama with weights 1e-5 off: singular values that agree to four digits, singular vectors that do not."""
    model = load_base()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 1e-5 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("save_factors", [True, False])
def test_weights_of_another_base_are_refused_by_an_adapter_made_before(load_base, tmp_path, save_factors, nudged_base):
    config = HipLoraConfig(save_factors=save_factors, **SMALL)
    perturb(get_peft_model(load_base(), config)).save_pretrained(tmp_path)
    wrong = get_peft_model(nudged_base, config)
    before = copy.deepcopy(wrong.state_dict())
    with pytest.raises(HiploraError, match="another base"):
        wrong.load_adapter(tmp_path, "default")
    assert all(torch.equal(value, before[key]) for key, value in wrong.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("save_factors", [True, False])
def test_weights_of_the_same_base_in_another_dtype_are_refused(load_base, tmp_path, save_factors, dtype):
    config = HipLoraConfig(save_factors=save_factors, **SMALL)
    perturb(get_peft_model(load_base(), config)).save_pretrained(tmp_path)
    with pytest.raises(HiploraError, match="another base"):
        get_peft_model(load_base(dtype=dtype), config).load_adapter(tmp_path, "default")


def flip_signs(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Another routine's basis of the same weights, with the core on it."""
    flipped = {}
    for key, value in tensors.items():
        signs = torch.tensor([-1.0, 1, -1, 1, 1])
        kind = key.rpartition("_")[2]
        flipped[key] = (
            value * signs[:, None]
            if kind in ("Ut", "Vt")
            else value * torch.outer(signs, signs)
            if kind == "C"
            else value
        )
    return flipped


def reverse_rows(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.flip(0).contiguous() if key.endswith("_Ut") else value for key, value in tensors.items()}


def cast(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.bfloat16() for key, value in tensors.items()}


def change(folder, how) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(how(load_file(path)), path, {"format": "pt"})


def test_without_the_vectors_the_values_must_be_the_same_bit_for_bit(load_base, tmp_path):
    config = HipLoraConfig(save_factors=False, **SMALL)
    perturb(get_peft_model(load_base(), config)).save_pretrained(tmp_path)
    get_peft_model(load_base(), config).load_adapter(tmp_path, "default")
    up = torch.tensor(float("inf"))
    change(tmp_path, lambda tensors: {k: v.nextafter(up) if k.endswith("_S") else v for k, v in tensors.items()})
    with pytest.raises(HiploraError, match="were left out"):
        get_peft_model(load_base(), config).load_adapter(tmp_path, "default")


def test_resuming_takes_over_another_routines_basis_of_the_same_base(load_base, tokens, tmp_path):
    model = perturb(get_peft_model(load_base(), HipLoraConfig(**SMALL)))
    want = logits(model, tokens)
    model.save_pretrained(tmp_path / "run")
    change(tmp_path / "run", flip_signs)
    again = get_peft_model(load_base(), HipLoraConfig(**SMALL))
    again.load_adapter(tmp_path / "run", "default")
    torch.testing.assert_close(logits(again, tokens), want)
    again.save_pretrained(tmp_path / "saved")
    loaded = PeftModel.from_pretrained(load_base(), tmp_path / "saved")
    assert torch.equal(logits(loaded, tokens), logits(again, tokens))


def test_a_refused_load_leaves_the_adapter_as_it_was(load_base, tokens, tmp_path):
    model = perturb(get_peft_model(load_base(), HipLoraConfig(**SMALL)))
    want = logits(model, tokens)
    model.save_pretrained(tmp_path / "run")
    change(tmp_path / "run", flip_signs)
    change(tmp_path / "run", lambda tensors: tensors | reverse_rows(dict(list(tensors.items())[-6:])))
    with pytest.raises(HiploraError, match="damaged"):
        model.load_adapter(tmp_path / "run", "default")
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits(PeftModel.from_pretrained(load_base(), tmp_path / "saved"), tokens), want)


@pytest.mark.parametrize("damage", [reverse_rows, cast])
def test_a_damaged_or_cast_basis_is_refused(load_base, tokens, tmp_path, damage):
    perturb(get_peft_model(load_base(), HipLoraConfig(**SMALL))).save_pretrained(tmp_path)
    change(tmp_path, damage)
    for low_memory in (False, True):
        with pytest.raises(HiploraError, match="the file was damaged or cast to another dtype, save the adapter again"):
            logits(PeftModel.from_pretrained(load_base(), tmp_path, low_cpu_mem_usage=low_memory), tokens)
    inner = load_base()
    inner.load_adapter(str(tmp_path))
    with pytest.raises(HiploraError, match="the file was damaged or cast"):
        logits(inner, tokens)
    resumed = get_peft_model(load_base(), HipLoraConfig(**SMALL))
    with pytest.raises(HiploraError, match="damaged"):
        resumed.load_adapter(tmp_path, "default")


def test_a_model_cast_after_its_adapter_was_made_saves_a_whole_basis(load_base, tokens, tmp_path):
    model = perturb(get_peft_model(load_base(), HipLoraConfig(**SMALL)), size=0.1).to(torch.bfloat16)
    assert {layer.hiplora_Ut["default"].dtype for layer in layers(model)} == {torch.float32}
    model.train()(input_ids=tokens, labels=tokens).loss.backward()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(load_base(), tmp_path)
    # The logits of 16 bits would hide what is lost: the updates, which are computed in float32, are the same.
    for layer, found in zip(layers(model), layers(loaded), strict=True):
        want = layer.get_delta_weight("default")
        assert want.dtype == torch.float32
        error = numerics.product_error(*layer.delta_factors("default"), dtype="float32", steps=2 * sum(want.shape))
        torch.testing.assert_close(found.get_delta_weight("default"), want, atol=error, rtol=0)
    exported = PeftModel.from_pretrained(load_base(), export_lora(tmp_path, tmp_path.with_name("lora")))
    error = logits_error(loaded, tokens)
    torch.testing.assert_close(logits(exported, tokens), logits(loaded, tokens), atol=error, rtol=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("base_weights", ["x"]), ("base_weights", {"model.layers.0.mlp.up_proj": 3}), ("rank_pattern", ["q_proj"])],
)
def test_a_config_of_wrong_types_is_refused(load_base, tmp_path, name, value):
    get_peft_model(load_base(), HipLoraConfig(**SMALL)).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(HiploraError, match=name):
        PeftModel.from_pretrained(load_base(), tmp_path)


def test_two_adapters_switch_sum_disable_and_delete(load_base, tokens, tmp_path):
    plain = logits(load_base(), tokens)
    model = get_peft_model(load_base(), HipLoraConfig(**SMALL), adapter_name="one")
    model.add_adapter("two", HipLoraConfig(r=2, principal_rank=3, core="diagonal", budget_mode="hard",
                                           target_modules=["q_proj", "down_proj"]))  # fmt: skip
    perturb(model, "one", 0.1)
    perturb(model, "two", 0.2)
    one = logits(model, tokens)
    model.set_adapter("two")
    two = logits(model, tokens)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable
    assert all(name.endswith(".two") for name in trainable)
    with model.disable_adapter():
        assert torch.equal(logits(model, tokens), plain)
    assert not torch.equal(one, two)

    model.base_model.set_adapter(["one", "two"])
    both = logits(model, tokens)
    merged = copy.deepcopy(model).merge_and_unload(adapter_names=["one", "two"])
    torch.testing.assert_close(logits(merged, tokens), both, atol=logits_error(model, tokens), rtol=0)

    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(load_base(), tmp_path / "one", adapter_name="one")
    loaded.load_adapter(tmp_path / "two", adapter_name="two")
    assert torch.equal(logits(loaded, tokens), one)
    loaded.set_adapter("two")
    assert torch.equal(logits(loaded, tokens), two)

    model.set_adapter("two")
    model.delete_adapter("one")
    assert torch.equal(logits(model, tokens), two)
    assert not layers(model, "one")


def test_merge_adapter_and_back(load_base, tokens):
    model = perturb(get_peft_model(load_base("gpt2"), HipLoraConfig(**SMALL)))
    before, plain = logits(model, tokens), {k: v.clone() for k, v in model.state_dict().items()}
    error = logits_error(model, tokens)
    model.merge_adapter(safe_merge=True)
    torch.testing.assert_close(logits(model, tokens), before, atol=error, rtol=0)
    with pytest.raises(HiploraError, match="is merged into"):
        model.add_adapter("late", HipLoraConfig(**SMALL))
    model.unmerge_adapter()
    for key, value in model.state_dict().items():
        # A sum and a difference, of a weight and an update that is smaller than five.
        rounding = numerics.gamma(2, "float32") * (plain[key].abs().max().item() + 5)
        torch.testing.assert_close(value, plain[key], atol=rounding, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_base(load_base, tokens, tmp_path, dtype):
    model = get_peft_model(load_base(dtype=dtype), HipLoraConfig(**SMALL), autocast_adapter_dtype=False)
    trainer(model, tokens, tmp_path, max_steps=3).train()
    adapter = {name: value for name, value in model.state_dict().items() if "hiplora_" in name}
    assert {value.dtype for value in adapter.values()} == {torch.float32}
    want = logits(model, tokens)
    assert want.dtype == dtype
    model.save_pretrained(tmp_path / "adapter")
    assert torch.equal(logits(PeftModel.from_pretrained(load_base(dtype=dtype), tmp_path / "adapter"), tokens), want)
    inner = load_base(dtype=dtype)
    inner.load_adapter(str(tmp_path / "adapter"))
    assert torch.equal(logits(inner, tokens), want)


def test_gradient_checkpointing_gives_the_same_gradients(load_base, tokens):
    gradients = []
    for checkpointing in (False, True):
        model = perturb(get_peft_model(load_base(), HipLoraConfig(budget_mode="hard", **SMALL)))
        if checkpointing:
            model.gradient_checkpointing_enable()
            model.enable_input_require_grads()
        model.train()(input_ids=tokens, labels=tokens).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


@pytest.mark.parametrize("task_type", [None, "CAUSAL_LM"])
@pytest.mark.parametrize("steps", [1, 2])
def test_penalty_reaches_the_trainer_and_only_its_training_loss(load_base, tokens, tmp_path, task_type, steps):
    """With and without gradient accumulation: training loss = task loss + lambda * mean cost, once per step."""
    model = perturb(get_peft_model(load_base(), HipLoraConfig(budget_lambda=3.0, task_type=task_type, **SMALL)))
    padded = [{"input_ids": row, "labels": torch.where(torch.arange(12) < 4 + i, row, -100)}
              for i, row in enumerate(tokens)]  # fmt: skip
    run = trainer(model, tokens, tmp_path, max_steps=1, learning_rate=0.0, per_device_train_batch_size=8 // steps,
                  gradient_accumulation_steps=steps, per_device_eval_batch_size=8)  # fmt: skip
    run.train_dataset = run.eval_dataset = padded
    run.train()
    task_loss = run.evaluate()["eval_loss"]
    penalty = 3.0 * torch.stack([layer.cost("default") for layer in layers(model)]).mean().item()
    assert penalty > 0.1
    # A cross-entropy moves by at most twice as much as the logits, and is a float32 mean over the labels.
    of_loss = 2 * logits_error(model, tokens) + numerics.gamma(tokens.numel(), "float32") * (task_loss + penalty)
    assert run.state.log_history[0]["loss"] == pytest.approx(task_loss + penalty, abs=of_loss)
    assert budget_penalty(model).item() == pytest.approx(penalty, rel=numerics.gamma(len(layers(model)) + 2, "float32"))


def test_penalty_with_adapters_added_by_transformers(load_base, tokens):
    model = load_base()
    model.add_adapter(HipLoraConfig(**SMALL))
    perturb(model)
    bare = model(input_ids=tokens, labels=tokens).loss
    loss = model.train()(input_ids=tokens, labels=tokens).loss
    torch.testing.assert_close(loss, bare + budget_penalty(model))
    loss.backward()


def test_penalty_reaches_the_first_of_a_tuple(load_base, tokens):
    model = perturb(get_peft_model(load_base(), HipLoraConfig(**SMALL)))
    bare, values, *_ = model(input_ids=tokens, labels=tokens, return_dict=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        outputs = model.train()(input_ids=tokens, labels=tokens, return_dict=False)
    assert type(outputs) is tuple
    assert budget_penalty(model) > 0.1
    torch.testing.assert_close(outputs[0], bare + budget_penalty(model))
    assert torch.equal(outputs[1], values)
    with pytest.warns(UserWarning, match="penalty is not in it"):
        outputs = model(input_ids=tokens, return_dict=False)
    assert torch.equal(outputs[0], values)


@pytest.mark.parametrize(("labels", "first"), [(False, torch.ones(())), (True, torch.ones(2, 3))])
def test_the_first_of_a_tuple_is_a_loss_only_with_labels_and_as_a_scalar(load_base, tokens, labels, first):
    model = perturb(get_peft_model(load_base(), HipLoraConfig(**SMALL))).train()
    with pytest.warns(UserWarning, match="penalty is not in it"):
        outputs = add_penalty(model, (), {"labels": tokens if labels else None}, (first, tokens))
    assert outputs[0] is first


def test_adapters_added_by_transformers_save_and_load(load_base, tokens, tmp_path):
    model = load_base()
    model.add_adapter(HipLoraConfig(**SMALL))
    want = logits(perturb(model), tokens)
    model.save_pretrained(tmp_path)
    again = load_base()
    again.load_adapter(str(tmp_path))
    assert torch.equal(logits(again, tokens), want)
    with pytest.raises(HiploraError, match="another weight"):
        load_base("other").load_adapter(str(tmp_path))


def test_no_penalty_where_none_is_due(load_base, tokens):
    model = perturb(get_peft_model(load_base(), HipLoraConfig(**SMALL))).train()
    with model.disable_adapter():
        assert budget_penalty(model) is None
    model.set_requires_grad("default", False)
    assert budget_penalty(model) is None
    hard = perturb(get_peft_model(load_base(), HipLoraConfig(budget_mode="hard", **SMALL)))
    assert budget_penalty(hard) is None
    # Two float32 sums of 5 x 5 products of four, and a root and two products of their quotient.
    limit = 1 + numerics.gamma(5 * 5 + 4 + 3, "float32")
    assert max(layer.tightness("default") for layer in layers(hard)) <= limit


def test_a_lost_penalty_is_said(load_base, tokens):
    model = get_peft_model(load_base(), HipLoraConfig(**SMALL)).train()
    with pytest.warns(UserWarning, match="penalty is not in it"):
        model(input_ids=tokens)


def test_patterns_and_selection(load_base):
    config = HipLoraConfig(
        r=3,
        principal_rank=5,
        target_modules=["q_proj", "v_proj"],
        layers_to_transform=[1],
        rank_pattern={"q_proj": 2},
        alpha_pattern={"v_proj": 6},
        principal_rank_pattern={r"layers\.1\.self_attn\.v_proj": 4},
        epsilon_pattern={"q_proj": 0.2},
    )
    model = get_peft_model(load_base(), config)
    found = {layer.hiplora_records["default"].module: layer for layer in layers(model)}
    assert set(found) == {"model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj"}
    q, v = (found[f"model.layers.1.self_attn.{name}_proj"] for name in "qv")
    assert q.hiplora_A["default"].shape == (2, 32)
    assert v.hiplora_A["default"].shape == (3, 32)
    assert [len(layer.hiplora_S["default"]) for layer in (q, v)] == [5, 4]
    assert [layer.hiplora_settings["default"].scaling for layer in (q, v)] == [8.0, 2.0]
    assert [layer.hiplora_settings["default"].epsilon for layer in (q, v)] == [0.2, 0.05]


def test_default_targets_and_count(load_base):
    model = get_peft_model(load_base(), HipLoraConfig(r=3, principal_rank=5))
    assert {layer.hiplora_records["default"].module.rpartition(".")[2] for layer in layers(model)} == {
        "q_proj",
        "v_proj",
    }
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == 2 * (3 * (32 + 32) + 25 + 3 * (32 + 16) + 25)


def test_generate_copy_and_pickle(load_base, tokens):
    model = perturb(get_peft_model(load_base(), HipLoraConfig(task_type="CAUSAL_LM", **SMALL))).eval()
    want = logits(model, tokens)
    assert model.generate(input_ids=tokens[:1], max_new_tokens=3, do_sample=False).shape[1] > tokens.shape[1]
    assert torch.equal(logits(copy.deepcopy(model), tokens), want)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    assert torch.equal(logits(torch.load(buffer, weights_only=False), tokens), want)


def test_unload_leaves_nothing_behind(load_base, tokens):
    base = load_base()
    plain = logits(base, tokens)
    unloaded = perturb(get_peft_model(base, HipLoraConfig(**SMALL))).unload()
    assert torch.equal(logits(unloaded, tokens), plain)
    assert not unloaded._forward_hooks
    assert not [name for name in vars(unloaded) if "hiplora" in name]


def test_another_method_on_the_same_layer_is_refused(load_base):
    model = load_base()
    model.add_adapter(LoraConfig(target_modules=["q_proj"]), adapter_name="lora")
    with pytest.raises(HiploraError, match="another method"):
        model.add_adapter(HipLoraConfig(r=2, principal_rank=2, target_modules=["q_proj"]), adapter_name="hip")
