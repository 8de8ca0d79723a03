"""Shadow prices, against what the loss does when a core grows."""

import copy
import io
import json
from dataclasses import replace

import pytest
import torch
from peft import get_peft_model
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainerCallback, TrainingArguments

from hiplora.errors import HiploraError
from hiplora.tuner import HipLoraConfig, HipLoraLayer, ShadowPrices
from tests import numerics

BINDING = 0.02
MODES = {
    "soft": {},
    "soft, diagonal": {"core": "diagonal"},
    "hard, binding": {"budget_mode": "hard", "epsilon": BINDING},
    "hard, binding, diagonal": {"budget_mode": "hard", "epsilon": BINDING, "core": "diagonal"},
    "hard, not binding": {"budget_mode": "hard", "epsilon": 50.0},
}
each_mode = pytest.mark.parametrize("fields", MODES.values(), ids=MODES.keys())


def adapt(base: nn.Module, **fields) -> nn.Module:
    """The base in training mode, without dropout, with an adapter at random on every linear map."""
    model = get_peft_model(
        base, HipLoraConfig(**{"r": 3, "principal_rank": 5, "target_modules": "all-linear"} | fields)
    )
    generator = torch.Generator().manual_seed(11)
    for layer in layers(model).values():
        for values in (layer.hiplora_A, layer.hiplora_B, layer.hiplora_C):
            values["default"].data = 0.3 * torch.randn(values["default"].shape, generator=generator)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()


def layers(model: nn.Module) -> dict[str, HipLoraLayer]:
    return {m.hiplora_records["default"].module: m for m in model.modules() if isinstance(m, HipLoraLayer)}


def backward(model: nn.Module, tokens: torch.Tensor) -> None:
    model(input_ids=tokens, labels=tokens).loss.backward()


def task_loss(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """The loss of transformers, which would round it to float32."""
    logits = model(input_ids=tokens).logits[:, :-1]
    return cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def prices_of(model: nn.Module, tokens: torch.Tensor) -> dict[str, float]:
    with ShadowPrices(model) as recorder:
        backward(model, tokens)
        recorder.step()
        return recorder.prices()


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@each_mode
@pytest.mark.filterwarnings("ignore:The model returned no loss")
def test_a_price_is_the_fall_of_the_task_loss_per_cost_as_the_core_grows(load_base, tokens, fields):
    """In float64 throughout: GPT-2 keeps to it, while a Llama rounds its norms to float32."""
    model = adapt(load_base("gpt2"), **fields).double()
    with ShadowPrices(model) as recorder:
        task_loss(model, tokens).backward()
        recorder.step()
        prices = recorder.prices()
    assert prices.keys() == layers(model).keys()

    @torch.no_grad()
    def loss_and_cost(layer, growth):
        """With the effective core `growth` times as large: by its budget where that binds, else by its parameter."""
        settings, core = layer.hiplora_settings["default"], layer.hiplora_C["default"].data
        if fields.get("epsilon") == BINDING:
            layer.hiplora_settings["default"] = replace(settings, epsilon=growth * BINDING)
        else:
            layer.hiplora_C["default"].data = growth * core
        found = task_loss(model, tokens).item(), layer.cost("default").item()
        layer.hiplora_settings["default"], layer.hiplora_C["default"].data = settings, core
        return found

    h, size = 1e-4, max(map(abs, prices.values()))
    assert size > 0
    # Each loss is a mean over the labels. What the Taylor series leaves is of the order of h^2, far below h.
    rounding = 2 * numerics.gamma(tokens.numel()) * task_loss(model, tokens).item()
    for module, layer in layers(model).items():
        (above, cost_above), (below, cost_below) = (loss_and_cost(layer, 1 + sign * h) for sign in (1, -1))
        assert cost_above > cost_below
        cost = cost_above - cost_below
        assert prices[module] == pytest.approx(-(above - below) / cost, abs=rounding / cost + h * size)


def test_a_binding_budget_has_a_price_where_the_raw_core_has_no_radial_gradient(load_base, tokens):
    model = adapt(load_base(), budget_mode="hard", epsilon=BINDING)
    prices = prices_of(model, tokens)
    size = max(map(abs, prices.values()))
    assert size > 1e-2
    for module, layer in layers(model).items():
        core = layer.hiplora_C["default"]
        # A float32 sum of 5 x 5 products that cancel, of a gradient that the radial part was taken off.
        terms = (core.grad * core).abs().sum() + 2 * layer.cost("default") * abs(prices[module])
        assert abs((core.grad * core).sum()) < 2 * numerics.gamma(5 * 5 + 2, "float32") * terms


def test_the_penalty_has_no_part_in_the_price(load_base, tokens):
    with_penalty, without = (adapt(load_base(), budget_lambda=weight) for weight in (1e6, 0.0))
    assert prices_of(with_penalty, tokens) == prices_of(without, tokens)
    core_gradients = (next(iter(layers(model).values())).hiplora_C["default"].grad for model in (with_penalty, without))
    assert not torch.allclose(*core_gradients)


@each_mode
@pytest.mark.filterwarnings("ignore:The model returned no loss")
def test_micro_batches_add_up_to_one_sample(load_base, tokens, fields):
    model = adapt(load_base("gpt2"), **fields).double()
    with ShadowPrices(model) as recorder:
        task_loss(model, tokens).backward()
        recorder.step()
        whole = recorder.prices()
        for half in tokens.split(4):
            (0.5 * task_loss(model, half)).backward()
        recorder.step()
        # In float64: two orders of adding, of sums that may cancel.
        assert recorder.prices() == pytest.approx(whole, abs=1e-10 * max(map(abs, whole.values())))


def test_prices_are_means_over_the_steps_since_the_last_call(load_base, tokens):
    model = adapt(load_base())
    first, second = (prices_of(model, half) for half in tokens.split(4))
    with ShadowPrices(model) as recorder:
        for half in tokens.split(4):
            backward(model, half)
            recorder.step()
        recorder.step()
        # The same passes; a sum and a quotient in float32.
        mean = {name: (first[name] + second[name]) / 2 for name in first}
        assert recorder.prices() == pytest.approx(mean, rel=numerics.gamma(2, "float32"))
        assert recorder.prices() == {}
        backward(model, tokens[:4])
        recorder.step()
        assert recorder.prices() == first


def test_a_recorder_goes_on_from_the_state_of_another(load_base, tokens):
    model = adapt(load_base())
    first, second = tokens.split(4)
    with ShadowPrices(model) as whole:
        for half in (first, second):
            backward(model, half)
            whole.step()
    with ShadowPrices(model) as before:
        backward(model, first)
        before.step()
    with ShadowPrices(model) as after:
        after.load_state(json.loads(json.dumps(before.state())))
        backward(model, second)
        after.step()
    assert after.prices() == whole.prices()


@each_mode
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_prices(load_base, tokens, fields, reentrant):
    model = adapt(load_base(), **fields)
    want = prices_of(model, tokens)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    # The same operations again.
    assert prices_of(model, tokens) == pytest.approx(want, rel=1e-5, abs=1e-7)


def test_under_bfloat16_autocast_prices_are_taken_in_float32_from_its_gradients(load_base, tokens):
    model = adapt(load_base(), budget_lambda=0.0)
    in_float32 = prices_of(model, tokens)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        prices = prices_of(model, tokens)
    assert prices != in_float32
    for module, layer in layers(model).items():
        core = layer.hiplora_C["default"]
        want = -(core.grad * core).sum() / (2 * layer.cost("default"))
        assert prices[module] == pytest.approx(want.item(), rel=1e-5)


@each_mode
def test_recording_changes_no_gradient(load_base, tokens, fields):
    recorded, plain = (adapt(load_base(), **fields) for _ in range(2))
    prices_of(recorded, tokens)
    backward(plain, tokens)
    want = gradients(plain)
    assert len(want) == 3 * len(layers(plain))
    assert all(torch.equal(gradient, want[name]) for name, gradient in gradients(recorded).items())


def test_at_the_start_every_price_is_zero(load_base, tokens):
    model = get_peft_model(load_base(), HipLoraConfig(r=3, principal_rank=5, target_modules="all-linear")).train()
    prices = prices_of(model, tokens)
    assert prices == dict.fromkeys(layers(model), 0.0)


def test_nothing_is_recorded_without_training(load_base, tokens):
    model = adapt(load_base())
    with ShadowPrices(model) as recorder:
        with torch.no_grad():
            model(input_ids=tokens, labels=tokens)
        backward(model.eval(), tokens)
        recorder.step()
        assert recorder.prices() == {}


def test_a_frozen_core_is_not_recorded(load_base, tokens):
    model = adapt(load_base(), budget_mode="hard")
    frozen, *others = layers(model)
    layers(model)[frozen].hiplora_C["default"].requires_grad_(False)
    assert list(prices_of(model, tokens)) == others


def test_nothing_is_recorded_after_close(load_base, tokens):
    model = adapt(load_base())
    recorder = ShadowPrices(model)
    loss = model(input_ids=tokens, labels=tokens).loss
    recorder.close()
    loss.backward()
    backward(model, tokens)
    recorder.step()
    assert recorder.prices() == {}
    assert not any("price_recorder" in vars(layer) for layer in layers(model).values())


def test_a_later_recorder_takes_over_and_the_earlier_does_not_close_it(load_base, tokens):
    model = adapt(load_base())
    want = prices_of(model, tokens)
    earlier, later = ShadowPrices(model), ShadowPrices(model)
    earlier.close()
    backward(model, tokens)
    for recorder in (earlier, later):
        recorder.step()
    assert earlier.prices() == {}
    assert later.prices() == want


def test_copies_files_and_state_are_those_of_a_model_that_is_not_recorded(load_base, tokens, tmp_path):
    model = adapt(load_base())
    names = model.state_dict().keys()
    with ShadowPrices(model) as recorder:
        assert model.state_dict().keys() == names
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        for other in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
            assert not any("price_recorder" in vars(layer) for layer in layers(other).values())
            backward(other, tokens)
        recorder.step()
        assert recorder.prices() == {}
        backward(model, tokens)
        recorder.step()
        assert recorder.prices()
        model.add_adapter("two", HipLoraConfig(r=2, principal_rank=3, target_modules=["q_proj"]))
        model.delete_adapter("two")
        model.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()


def test_two_adapters_trained_at_once_are_refused(load_base, tokens):
    model = adapt(load_base())
    model.add_adapter("two", HipLoraConfig(r=2, principal_rank=3, target_modules=["q_proj"]))
    model.base_model.set_adapter(["default", "two"])
    with pytest.raises(HiploraError, match="but default and two were trained"):
        prices_of(model, tokens)


class Watch(TrainerCallback):
    """What a user writes."""

    def on_train_begin(self, args, state, control, *, model, **_):
        self.recorder = ShadowPrices(model)
        self.found = []

    def on_step_end(self, args, state, control, **_):
        self.recorder.step()

    def on_log(self, args, state, control, **_):
        self.found.append(self.recorder.prices())

    def on_train_end(self, args, state, control, **_):
        self.recorder.close()


def train(base, tokens, folder, steps):
    """The prices logged in three optimiser steps of 8, each in so many micro-batches, with an evaluation after each."""
    model, watch = adapt(base, budget_mode="hard", epsilon=BINDING), Watch()
    settings = TrainingArguments(
        output_dir=str(folder), use_cpu=True, report_to=[], disable_tqdm=True, seed=0, save_strategy="no",
        max_steps=3, logging_steps=1, learning_rate=1e-3, eval_strategy="steps", eval_steps=1,
        per_device_train_batch_size=8 // steps, gradient_accumulation_steps=steps,
    )  # fmt: skip
    # Answers of different lengths: a micro-batch counts by the labels that are in it.
    rows = [
        {"input_ids": row, "labels": torch.where(torch.arange(12) < 4 + i, row, -100)} for i, row in enumerate(tokens)
    ]
    Trainer(model, settings, train_dataset=rows, eval_dataset=rows, callbacks=[watch]).train()
    return model, [prices for prices in watch.found if prices]


def test_an_unchanged_trainer_with_a_callback(load_base, tokens, tmp_path):
    model, whole = train(load_base(), tokens, tmp_path, steps=1)
    _, halves = train(load_base(), tokens, tmp_path, steps=2)
    assert [prices.keys() for prices in whole] == 3 * [layers(model).keys()]
    assert whole[0] != whole[1] != whole[2]
    for one, two in zip(whole, halves, strict=True):
        # Float32 moves them by parts in a million, and Adam's first steps may enlarge that; a wrong weight by tenths.
        assert two == pytest.approx(one, rel=1e-2, abs=1e-3 * max(map(abs, one.values())))
