"""Watching a training that is not ours: what it writes, and that it never stands in the way."""

import copy
import gc
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments, set_seed

import hiplora
from hiplora import SpectralCallback, SpectralRecorder
from hiplora.errors import HiploraError
from hiplora.training import Run, drift_history, layer_history, list_runs, score_table, step_table
from hiplora.training.train import train

K, STEPS = 4, 6
METHODS = {
    "LoRA": {},
    "rsLoRA": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "PiSSA": {"init_lora_weights": "pissa"},
}


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    """The folder of the runs, with nobody else's in it."""
    monkeypatch.setenv("HIPLORA_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def adapted(llama_base):
    """Return `adapted(**fields)`: a tiny Llama with a LoRA of these fields, the same each time."""

    def make(config=None, **fields):
        set_seed(0)
        model = AutoModelForCausalLM.from_pretrained(llama_base)
        named = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
        return get_peft_model(model, config or LoraConfig(**({"r": 2, "lora_alpha": 4} | named | fields)))

    return make


@pytest.fixture
def trainer(tmp_path):
    """Return `trainer(model, *callbacks, **arguments)`: a short training on noise."""

    def make(model, *callbacks, **arguments):
        ids = torch.randint(0, 40, (STEPS * 4, 12), generator=torch.Generator().manual_seed(1))
        data = [{"input_ids": row, "labels": row} for row in ids]
        chosen = {"max_steps": STEPS, "logging_steps": 1, "report_to": "none", "save_strategy": "no"} | arguments
        settings = TrainingArguments(
            str(tmp_path / "out"), per_device_train_batch_size=4, learning_rate=1e-2, use_cpu=True, disable_tqdm=True,
            **chosen,
        )  # fmt: skip
        return Trainer(model, settings, train_dataset=data, eval_dataset=data[:4], callbacks=list(callbacks))

    return make


def principal_share(model, base_folder, k):
    """The share of `W - W0` in the leading blocks, dense in float64, with `W` as PEFT itself merges it."""
    base = dict(AutoModelForCausalLM.from_pretrained(base_folder).named_parameters())
    inside = total = 0.0
    for name, weight in copy.deepcopy(model).merge_and_unload().named_parameters():
        W0 = base[name].detach().double().numpy()
        dW = weight.detach().double().numpy() - W0
        if dW.any():
            U, _, Vt = np.linalg.svd(W0)
            inside += np.linalg.norm(U[:, :k].T @ dW @ Vt[:k].T) ** 2
            total += np.linalg.norm(dW) ** 2
    return inside / total


@pytest.mark.parametrize("method", METHODS)
def test_any_method_is_measured_as_peft_merges_it(adapted, trainer, llama_base, runs, method):
    model = adapted(**METHODS[method])
    trainer(model, SpectralCallback(run="watched", every=3, k=K)).train()
    run = Run(runs / "watched")
    drift = drift_history([run])
    assert list(drift["step"]) == [3, STEPS]
    # The weights that PEFT merges are float32, which limits an update of a hundredth of their size.
    assert drift["pp"].iloc[-1] == pytest.approx(principal_share(model, llama_base, K), rel=1e-3)
    assert set(drift["method"]) == {method}


@pytest.mark.parametrize("method", METHODS)
def test_its_adapter_is_opened_like_that_of_any_run(adapted, trainer, llama_base, runs, method):
    trainer(adapted(**METHODS[method]), SpectralCallback(run="watched", every=3, k=K)).train()
    study = hiplora.open(llama_base, [runs / "watched"], k=K)
    assert study.summary()["pp"].item() == pytest.approx(study.drift()["pp"].iloc[-1], rel=1e-9)


def test_a_watched_run_is_a_run(adapted, trainer, llama_base, runs):
    arguments = {"eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 3}
    trained = trainer(adapted(), SpectralCallback(run="watched", every=2, k=K), **arguments)
    trained.train()
    (run,) = list_runs()
    assert (run.name, run.status.state, run.config.steps, run.config.base) == (
        "watched",
        "finished",
        6,
        str(llama_base),
    )
    assert list(layer_history([run])["step"].unique()) == [0, 2, 4, 6]
    losses = [entry["loss"] for entry in trained.state.log_history if "loss" in entry]
    assert list(step_table([run])["loss"]) == losses
    held_out = [entry["eval_loss"] for entry in trained.state.log_history if "eval_loss" in entry]
    assert list(score_table([run])["score"]) == pytest.approx(np.exp(-np.array(held_out)))
    assert [checkpoint.step for checkpoint in run.checkpoints] == [3, 6]
    assert run.card.steps == STEPS


def test_training_is_the_same_with_and_without(adapted, trainer, runs):
    plain, watched = adapted(), adapted()
    trainer(plain).train()
    trainer(watched, SpectralCallback(every=1, k=K)).train()
    assert all(torch.equal(one, other) for one, other in zip(plain.parameters(), watched.parameters(), strict=True))


def test_hiplora_has_its_prices_and_its_penalty_apart(adapted, trainer, runs):
    config = hiplora.HipLoraConfig(
        r=2, principal_rank=K, epsilon=0.01, budget_lambda=100, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    trainer(adapted(config), SpectralCallback(run="watched", every=3, k=K)).train()
    run = Run(runs / "watched")
    steps, layers = step_table([run]), layer_history([run])
    assert steps["penalty"].iloc[0] == 0 < steps["penalty"].iloc[-1]
    assert np.allclose(steps["task_loss"] + steps["penalty"], steps["loss"])
    assert set(layers["epsilon"]) == {0.01}
    assert layers.loc[layers["step"] == 3, "shadow_price"].abs().max() > 0


def test_a_stop_asked_for_on_the_page_ends_it_with_a_checkpoint(adapted, trainer, runs):
    class Visitor(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 2:
                Run(runs / "watched").request_stop()

    trained = trainer(adapted(), Visitor(), SpectralCallback(run="watched", every=2, k=K))
    trained.train()
    run = Run(runs / "watched")
    assert trained.state.global_step == 3
    assert (run.status.state, run.status.message) == ("stopped", f"Stopped at step 3 of {STEPS}.")
    assert [checkpoint.step for checkpoint in run.checkpoints] == [3]
    assert not run.resumable
    with pytest.raises(HiploraError, match=r"script of your own.*continue it there"):
        train(run)
    assert run.status.state == "stopped"


def test_a_training_that_goes_on_goes_on_with_its_run(adapted, trainer, runs):
    arguments = {"save_strategy": "steps", "save_steps": 3}
    trainer(adapted(), SpectralCallback(run="whole", every=2, k=K), **arguments).train()
    trainer(adapted(), SpectralCallback(run="parts", every=2, k=K), **arguments).train()
    # As if it had been killed at the end: what came after the checkpoint is done again.
    again = trainer(adapted(), SpectralCallback(run="parts", every=2, k=K), **arguments)
    again.train(resume_from_checkpoint=str(Path(again.args.output_dir) / "checkpoint-3"))
    whole, parts = Run(runs / "whole"), Run(runs / "parts")
    assert parts.status.state == "finished"
    assert list(step_table([parts])["step"]) == list(range(1, STEPS + 1))
    numbers = ["step", "pp", "enrichment"]
    assert np.allclose(drift_history([parts])[numbers], drift_history([whole])[numbers], rtol=1e-6)


class Logger(TrainerCallback):
    """What a service named in `report_to` would get."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **_):
        self.logs.append((state.global_step, dict(logs)))


def test_what_is_measured_goes_to_the_trainers_loggers(adapted, trainer):
    logger = Logger()
    trained = trainer(adapted(), logger)
    SpectralCallback(every=3, k=K).attach(trained)
    trained.train()
    measured = {step: logs["hiplora/enrichment"] for step, logs in logger.logs if "hiplora/enrichment" in logs}
    assert list(measured) == [3, STEPS]
    history = [entry for entry in trained.state.log_history if "hiplora/enrichment" in entry]
    assert [entry["hiplora/enrichment"] for entry in history] == list(measured.values())
    # Its own lines are all there too.
    assert [step for step, logs in logger.logs if "loss" in logs] == list(range(1, STEPS + 1))


def loop(model, watch, steps=STEPS):
    """A plain loop, as short as one can be."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    ids = torch.randint(0, 40, (4, 12), generator=torch.Generator().manual_seed(1))
    for step in range(1, steps + 1):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        watch.record(step, loss=loss)


def test_two_calls_watch_a_plain_loop(adapted, llama_base, runs):
    model = adapted()
    watch = SpectralRecorder(model, steps=STEPS, run="plain", every=4, k=K)
    assert Run(runs / "plain").status.state == "running"
    loop(model, watch)
    watch.close()
    run = Run(runs / "plain")
    assert run.status.state == "finished"
    assert list(drift_history([run])["step"]) == [4, STEPS]
    assert len(step_table([run])) == STEPS
    assert drift_history([run])["pp"].iloc[-1] == pytest.approx(principal_share(model, llama_base, K), rel=1e-3)
    assert hiplora.open(llama_base, [run.path], k=K).updates[0].name == "plain"


def failing_loop(model):
    with SpectralRecorder(model, steps=STEPS, run="plain", k=K) as watch:
        loop(model, watch, 2)
        raise RuntimeError("out of batches")


def test_a_loop_that_fails_says_so(adapted, runs):
    with pytest.raises(RuntimeError):
        failing_loop(adapted())
    status = Run(runs / "plain").status
    assert (status.state, status.message) == ("failed", "RuntimeError: out of batches")


def test_a_recorder_that_is_dropped_counts_as_stopped(adapted, runs):
    model = adapted()
    watch = SpectralRecorder(model, steps=STEPS, run="plain", k=K)
    loop(model, watch, 2)
    del watch
    gc.collect()
    assert Run(runs / "plain").status.state == "stopped"


def test_training_goes_on_where_watching_cannot(adapted, trainer, runs):
    class Thief(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 2:
                shutil.rmtree(runs / "watched")

    trained = trainer(adapted(), Thief(), SpectralCallback(run="watched", every=2, k=K))
    with pytest.warns(UserWarning, match="watched is not recorded any more, while its training goes on: .*removed"):
        trained.train()
    assert trained.state.global_step == STEPS
    assert not (runs / "watched").exists()


def test_a_loss_that_is_no_number_ends_the_record_and_says_so(adapted, runs):
    watch = SpectralRecorder(adapted(), steps=STEPS, run="plain", k=K)
    with pytest.warns(UserWarning, match="The loss is nan at step 1"):
        watch.record(1, loss=math.nan)
    watch.record(2, loss=1.0)
    watch.close()
    run = Run(runs / "plain")
    assert (run.status.state, run.status.message) == ("failed", "The loss is nan at step 1.")


def test_weights_that_are_trained_whole_are_left_out(adapted, trainer, runs):
    model = adapted(target_modules=["q_proj", "v_proj"], modules_to_save=["o_proj"])
    with torch.no_grad():
        # As after some steps: until then it is a copy.
        for layer in model.get_base_model().model.layers:
            layer.self_attn.o_proj.modules_to_save["default"].weight += 0.1
    trainer(model, SpectralCallback(run="watched", every=3, k=K)).train()
    modules = set(layer_history([Run(runs / "watched")])["module"])
    assert {module.rpartition(".")[2] for module in modules} == {"q_proj", "v_proj"}


def bad(adapted, llama_base, what):
    """A recorder of something that cannot be watched."""
    model, more = adapted(), {}
    if what == "no adapter":
        model = AutoModelForCausalLM.from_pretrained(llama_base)
    elif what == "no base":
        model.get_base_model().config._name_or_path = ""
        model.peft_config["default"].base_model_name_or_path = None
    elif what == "another base":
        more["base"] = "demo"
    elif what == "other weights":
        with torch.no_grad():
            model.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight += 0.1
    elif what == "k":
        more["k"] = 17
    elif what == "inputs":
        more["geometry"] = "inputs"
    elif what == "every":
        more["every"] = 0
    return SpectralRecorder(model, steps=STEPS, **({"run": "bad", "k": K} | more))


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("no adapter", "LlamaForCausalLM is not a PEFT model: wrap the base with peft.get_peft_model"),
        ("no base", "does not say from where its base was loaded: pass base="),
        ("another base", "The model's weight of .* is not the one of demo: pass base="),
        ("other weights", "The model's weight of .*q_proj is not the one of"),
        ("k", r"k=17 is larger than .*, which is 16 x 32: choose a k of at most 16"),
        ("inputs", "have not been observed: run `hiplora calibrate .*` first, or leave out geometry='inputs'"),
        ("every", "every must be a whole number of at least 1, got 0"),
    ],
)
def test_what_cannot_be_watched_is_refused_before_the_first_step(adapted, llama_base, runs, what, sentence):
    with pytest.raises(HiploraError, match=sentence):
        bad(adapted, llama_base, what)
    assert not (runs / "bad").exists()


def test_a_name_that_is_taken_is_refused(adapted, runs):
    with SpectralRecorder(adapted(), steps=STEPS, run="taken", k=K):
        pass
    before = (runs / "taken" / "events.jsonl").read_bytes()
    with pytest.raises(HiploraError, match="taken already holds a run: choose another name"):
        SpectralRecorder(adapted(), steps=STEPS, run="taken", k=K)
    assert (runs / "taken" / "events.jsonl").read_bytes() == before
    assert Run(runs / "taken").status.state == "finished"
