"""A run on top of earlier adapters: what it starts from, what it may spend, and that all of them are one sum."""

import shutil

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file, save_file

import hiplora
from hiplora.adapters import place, read_adapter
from hiplora.demo.scoring import right_answers
from hiplora.demo.skills import evaluation_examples
from hiplora.errors import HiploraError
from hiplora.measures import ledger_table
from hiplora.settings import LEAST_EPSILON
from hiplora.sources import open_base
from hiplora.sources.transformers_models import load_causal_lm, load_tokenizer
from hiplora.spectrum import BaseSpectra
from hiplora.training import layer_history, step_table
from hiplora.training.on_top import add_updates, budgets_left, digest_of, earlier_updates
from hiplora.training.train import check, train
from tests import numerics
from tests.training.test_train import assert_same, stop_at


def test_the_model_with_earlier_adapters_is_the_sum_of_what_peft_merges():
    base = open_base("demo")
    names = ("swap-hiplora", "rot-lora")
    model = load_causal_lm(base.path)
    add_updates(model, [place(base, read_adapter(name)) for name in names])
    merged = [
        PeftModel.from_pretrained(load_causal_lm(base.path), str(read_adapter(name).folder)).merge_and_unload()
        for name in names
    ]
    models = (model, load_causal_lm(base.path), *merged)
    for (name, found), before, one, other in zip(
        model.named_parameters(), *(each.parameters() for each in models[1:]), strict=True
    ):
        want = (one.double() + other.double() - before.double()).detach()
        # Products of at most 64 terms in float32 by PEFT, and three rounded sums.
        error = numerics.gamma(64 + 3, "float32") * max(float(want.abs().max()), 1.0)
        torch.testing.assert_close(found.double(), want, atol=error, rtol=0, msg=name)


def test_a_run_starts_from_the_base_with_the_earlier_adapters(small_run):
    on_top = train(small_run("top", on_top=["swap-lora"], learning_rate=1e-8))
    alone = train(small_run("alone", learning_rate=1e-8))
    first, want = (step_table([run])["task_loss"].iloc[0] for run in (on_top, alone))
    # The earlier adapter has learned this very task.
    assert first < 0.1 * want
    assert on_top.card.more["on_top"] == ["swap-lora"]


def test_the_sum_of_all_is_what_the_run_scored(small_run):
    run = train(small_run(on_top=["rot-lora"], learning_rate=1e-2))
    base = open_base("demo")
    study = hiplora.open("demo", ["rot-lora", run.path])
    model = load_causal_lm(base.path).eval()
    add_updates(model, [place(base, study.merged("sum"))])
    examples = evaluation_examples("swap", run.config.evaluation_size, 0)
    score = right_answers(model, load_tokenizer(base.path), examples).mean()
    # An answer that is a tie but for rounding may fall either way.
    assert score == pytest.approx(run.card.task_score, abs=2 / len(examples))
    assert "It was trained on top of rot-lora" in " ".join(study.caveats[run.name])


def test_what_earlier_adapters_leave_is_the_budget_and_is_kept(small_run):
    run = small_run(on_top=["swap-hiplora"], budget_mode="hard", epsilon=0.05, learning_rate=1e-1)
    base = open_base("demo")
    spectra, earlier = BaseSpectra(base), earlier_updates(base, run.config)
    left = budgets_left(spectra, earlier, run.config)
    train(run)
    adapter = read_adapter(run.path)
    assert {module: adapter.epsilon(module) for module in adapter.modules} == pytest.approx(left)
    table = ledger_table(spectra, [*earlier, place(base, adapter)], 16, epsilon=0.05)
    before, after = (table[table["position"] == position].set_index("module") for position in (1, 2))
    # Held in float32, and measured on float32 vectors.
    error = 1 + 4 * numerics.kept_error(16) + numerics.gamma(16 * 16, "float32")
    assert (after["tightness"] <= before["left"] * error).all()
    assert (after["together"] <= error).all()
    assert after["tightness"].max() > 0.1


def test_a_spent_budget_leaves_the_least_epsilon(small_run):
    base = open_base("demo")
    config = small_run(on_top=["swap-lora"], epsilon=1e-4).config
    left = budgets_left(BaseSpectra(base), earlier_updates(base, config), config)
    assert min(left.values()) == LEAST_EPSILON


@pytest.mark.parametrize("method", ["hiplora", "pissa"])
def test_stopped_run_on_top_goes_on_to_the_same_numbers(small_run, method):
    whole, parts = (small_run(name, method=method, on_top=["swap-lora"]) for name in ("whole", "parts"))
    train(whole)
    train(parts, report=stop_at(parts, 4))
    train(parts)
    assert_same(whole, parts)
    assert layer_history([parts])["step"].max() == 8


def test_an_earlier_adapter_that_changed_stops_a_resumed_run(small_run):
    earlier = train(small_run("earlier"))
    run = small_run(on_top=[str(earlier.path)])
    train(run, report=stop_at(run, 4))
    file = earlier.adapter / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(HiploraError, match=r"The earlier adapter .*earlier of run has changed since the run began"):
        train(run)


@pytest.mark.parametrize("changed", ["adapter_config.json", "adapter_model.safetensors"])
def test_all_that_makes_an_update_is_in_its_digest(tmp_path, changed):
    shutil.copytree(read_adapter("swap-lora").folder, tmp_path / "copy")
    before = digest_of(read_adapter(tmp_path / "copy"))
    path = tmp_path / "copy" / changed
    if changed == "adapter_config.json":
        path.write_text(path.read_text().replace('"lora_alpha": 16', '"lora_alpha": 48'))
    else:
        save_file({key: 2 * value for key, value in load_file(path).items()}, path)
    assert digest_of(read_adapter(tmp_path / "copy")) != before


def test_an_adapter_of_another_base_is_refused_where_it_is_known(small_run, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(open_base("demo").path, base)
    tensors = load_file(base / "model.safetensors")
    noise = np.random.default_rng(0)
    save_file(
        {key: value * noise.normal(1, 0.3, value.shape).astype(value.dtype) for key, value in tensors.items()},
        base / "model.safetensors",
    )
    with pytest.raises(HiploraError, match="swap-hiplora was trained on another"):
        earlier_updates(open_base(base), small_run(on_top=["swap-hiplora"]).config)


def test_two_runs_with_adapters_of_one_name_are_told_apart(small_run):
    base = open_base("demo")
    names = [str(read_adapter(name).folder) for name in ("swap-lora", "rot-lora")]
    config = small_run(on_top=names).config
    earlier = earlier_updates(base, config)
    for placement in earlier:
        placement.update.name = "adapter"
    assert len(budgets_left(BaseSpectra(base), earlier, config)) == 28


def test_a_basis_of_other_last_digits_is_taken_over_on_top_too(small_run):
    """As another machine, whose SVD differs in them, would resume the run."""
    run = small_run(on_top=["swap-lora"])
    train(run, report=stop_at(run, 4))
    path = run.checkpoints[-1].path / "adapter_model.safetensors"
    moved = {key: value for key, value in load_file(path).items() if key.endswith("hiplora_Ut")}
    moved = {key: np.nextafter(value, np.float32(2)) for key, value in moved.items()}
    save_file(load_file(path) | moved, path)
    assert train(run).status.state == "finished"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"on_top": ["swap-lora", "swap-lora"]}, "on_top must be names or paths of adapters"),
        ({"on_top": "swap-lora"}, "on_top must be names or paths of adapters"),
        ({"on_top": ["nowhere"]}, "nowhere"),
        ({"on_top": ["swap-lora"], "epsilon_pattern": {"q_proj": 0.1}}, "exclude each other"),
        ({"on_top": ["swap-lora"], "method": "dora"}, "choose another method on top of them"),
    ],
)
def test_what_cannot_be_below_a_run_is_said_before_it_begins(small_run, fields, message):
    with pytest.raises(HiploraError, match=message):
        check(open_base("demo"), small_run(**fields).config)
