"""A run from start to end: what is written, that it can be interrupted anywhere, and what goes wrong in words."""

import json
import math
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

import hiplora
from hiplora import analyze
from hiplora.errors import HiploraError
from hiplora.paths import demo_base
from hiplora.training import METHODS, drift_history, layer_history, score_table, step_table
from hiplora.training.events import Caveat, Scores, Step
from hiplora.training.run import Status
from hiplora.training.train import train
from tests import numerics
from tests.training.conftest import step


def numbers(run):
    """All that a run wrote down, but for the clock."""
    return [{**vars(event), "seconds": None} for event in run.events()]


def weights(run):
    return load_file(run.adapter / "adapter_model.safetensors")


def stop_at(run, step):
    """Ask for a stop as anybody may, while a step is done."""

    def report(event):
        if isinstance(event, Step) and event.step == step - 1:
            run.request_stop()

    return report


def assert_same(first, second):
    assert numbers(first) == numbers(second)
    one, two = weights(first), weights(second)
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[key], two[key]) for key in one)


def test_finished_run_holds_losses_measurements_scores_and_an_adapter(finished_run):
    assert finished_run.status.state == "finished"
    steps, scores, layers = (table([finished_run]) for table in (step_table, score_table, layer_history))
    assert steps["step"].tolist() == list(range(1, 9))
    assert steps["task_loss"].iloc[-1] < steps["task_loss"].iloc[0]
    assert sorted(scores["step"].unique()) == [0, 4, 8]
    assert sorted(layers["step"].unique()) == [0, 2, 4, 6, 8]
    assert layers["module"].nunique() == 28
    assert finished_run.card.task == "swap"
    assert [checkpoint.step for checkpoint in finished_run.checkpoints] == [3, 6, 8]


def test_last_event_has_the_numbers_that_analyze_finds_in_the_saved_adapter(finished_run):
    last = layer_history([finished_run]).query("step == 8").set_index("module")
    table = analyze("demo", [finished_run.path], k=16).set_index("module")
    np.testing.assert_allclose(last["tightness"], table.loc[last.index, "tightness"])
    np.testing.assert_allclose(last["relative_norm"], table.loc[last.index, "relative_norm"])
    principal = table.loc[last.index, "norm"] * np.sqrt(table.loc[last.index, "pp"])
    np.testing.assert_allclose(last["principal_norm"], principal)
    assert table["adapter"].unique().tolist() == ["finished"]


@pytest.mark.parametrize("geometry", ["weights", "inputs"])
def test_last_point_of_the_drift_is_what_a_study_of_the_saved_adapter_says(finished_run, geometry):
    drift = drift_history([finished_run]).query("geometry == @geometry")
    assert drift["step"].tolist() == [2, 4, 6, 8]
    study = hiplora.open("demo", [finished_run.path], k=16, geometry=geometry)
    found, last = study.summary().iloc[0], drift.iloc[-1]
    columns = ["relative_norm", "pp", "pp_null", "pp_null_low", "pp_null_high", "enrichment"]
    np.testing.assert_allclose(last[columns].astype(float), found[columns].astype(float))
    assert last["text"] == (study.calibration.name if study.calibration else "")


def test_first_point_of_the_drift_is_the_first_update_and_not_zero(finished_run):
    assert finished_run.facts["modules"]
    assert layer_history([finished_run])["step"].min() == 0
    assert (drift_history([finished_run])["relative_norm"] > 0).all()


def test_drift_on_inputs_is_left_out_where_the_base_was_not_calibrated(small_run, tmp_path):
    base = shutil.copytree(demo_base(), tmp_path / "base", ignore=shutil.ignore_patterns("inputs"))
    run = train(small_run(base=str(base), steps=2))
    assert drift_history([run])["geometry"].tolist() == ["weights"]


def test_damaged_calibration_is_a_caveat_and_does_not_stop_a_run(small_run, tmp_path):
    base = shutil.copytree(demo_base(), tmp_path / "base")
    (base / "inputs" / "inputs.json").write_text("{}")
    said = []
    run = train(small_run(base=str(base), steps=2), report=said.append)
    assert run.status.state == "finished"
    assert any(isinstance(event, Caveat) and "drift on inputs is not recorded" in event.text for event in said)
    assert drift_history([run])["geometry"].tolist() == ["weights"]


def test_loss_in_soft_mode_is_the_task_loss_and_the_penalty(small_run):
    run = train(small_run(budget_lambda=1e3, learning_rate=1e-2))
    layers = layer_history([run]).query("step == 6")
    cost = ((layers["tightness"] * layers["epsilon"]) ** 2).mean()
    # The loss of step 7 is of the update that six steps have made.
    step = step_table([run]).query("step == 7").iloc[0]
    # Charged are float32 sums of 16 x 16 products of four and their mean, measured is what their bases say.
    error = numerics.gamma(16 * 16 + 4 + 28, "float32") + 4 * numerics.kept_error(16)
    assert step["penalty"] == pytest.approx(1e3 * cost, rel=error)
    assert step["loss"] == pytest.approx(step["task_loss"] + step["penalty"])


@pytest.mark.parametrize("method", [*METHODS, "hiplora-hard"])
def test_stopped_run_goes_on_to_the_same_numbers(small_run, method):
    config = {"method": method.removesuffix("-hard"), "budget_mode": "hard" if method.endswith("hard") else "soft"}
    whole, parts = small_run("whole", **config), small_run("parts", **config)
    train(whole)
    train(parts, report=stop_at(parts, 5))
    assert parts.status.state == "stopped"
    assert parts.resumable
    assert [checkpoint.step for checkpoint in parts.checkpoints] == [3, 5]
    train(parts)
    assert parts.status.state == "finished"
    assert_same(whole, parts)


def test_run_on_inputs_is_stopped_and_resumed_to_the_same_numbers(small_run):
    whole, parts = train(small_run("whole", geometry="inputs")), small_run("parts", geometry="inputs")
    train(parts, report=stop_at(parts, 4))
    begun = set()
    train(parts, report=lambda event: begun.add(parts.status.since))
    assert begun == {4}
    assert_same(whole, parts)
    assert whole.config.default_name == "swap-hiplora-inputs-s0"


def test_run_on_inputs_is_what_the_geometry_of_the_inputs_measures(small_run):
    run = train(small_run(geometry="inputs", budget_mode="hard", epsilon=1e-3, learning_rate=1e-2))
    study = hiplora.open("demo", [run.path], k=16, geometry="inputs")
    # The budget binds, and is spent to rounding: float32 bases, and R^-1 of a condition below 100.
    assert study.layers()["tightness"].max() == pytest.approx(1.0, rel=100 * numerics.gamma(16, "float32"))
    assert not [caveat for caveat in study.caveats["run"] if "geometry" in caveat or "inputs" in caveat]


def test_run_on_a_text_observes_that_text_and_refuses_to_go_on_with_another(small_run, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("upper: a b c = A B C\n" * 60)
    run = small_run(geometry="inputs", text=str(text))
    train(run, report=stop_at(run, 4))
    text.write_text("lower: A B C = a b c\n" * 60)
    with pytest.raises(HiploraError, match="The text of run has changed since the run began"):
        train(run)


def test_text_without_the_geometry_of_the_inputs_is_refused(small_run):
    with pytest.raises(HiploraError, match="A text belongs to geometry='inputs'"):
        small_run(text="notes.txt")


def test_killed_run_is_marked_and_goes_on_to_the_same_numbers(small_run, tmp_path):
    killed = small_run("killed")
    script = f"""
        import os, signal
        from hiplora.training import Run
        from hiplora.training.events import Step
        from hiplora.training.train import train
        import torch; torch.set_num_threads(1)

        def report(event):
            if isinstance(event, Step) and event.step == 5:
                os.kill(os.getpid(), signal.SIGKILL)

        train(Run({str(killed.path)!r}), report=report)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True)
    assert ended.returncode == -signal.SIGKILL
    assert killed.status.state == "killed"
    assert "step 3" in killed.status.message
    assert step_table([killed])["step"].max() == 5
    assert analyze("demo", [killed.path])["norm"].max() > 0
    train(killed)
    assert_same(train(small_run("whole")), killed)


def test_half_written_checkpoint_does_not_count(small_run):
    run = small_run()
    train(run, report=stop_at(run, 4))
    half = run.path / "checkpoints" / "checkpoint-5"
    half.mkdir()
    (half / "adapter_model.safetensors").write_bytes(b"half")
    run.append(step(5))
    with (run.path / "events.jsonl").open("a") as file:
        file.write('{"event": "st')
    train(run)
    assert_same(train(small_run("whole")), run)


def test_run_stopped_before_its_first_checkpoint_starts_over(small_run):
    run = small_run()
    with pytest.raises(KeyboardInterrupt):
        train(run, report=interrupt_at(2))
    assert run.status.state == "stopped"
    assert not run.checkpoints
    train(run)
    assert_same(train(small_run("whole")), run)


def interrupt_at(step):
    def report(event):
        if isinstance(event, Step) and event.step == step:
            raise KeyboardInterrupt

    return report


def test_run_killed_before_its_last_words_has_only_these_to_say(small_run):
    run = small_run("parts")
    train(run)
    run.set_status(Status("running"))
    (run.adapter / "card.json").unlink()
    train(run)
    assert run.status.state == "finished"
    assert_same(train(small_run("whole")), run)
    assert run.card.scored_at == run.card.steps == 8


@pytest.mark.parametrize("name", ["optimizer.pt", "trainer_state.json", "shadow_prices.json"])
def test_checkpoint_that_lacks_something_is_refused_before_anything_is_changed(small_run, name):
    run = small_run()
    train(run, report=stop_at(run, 4))
    before = numbers(run)
    (run.checkpoints[-1].path / name).write_bytes(b"{")
    with pytest.raises(HiploraError, match=f"{name} is missing or damaged, and training cannot resume"):
        train(run)
    assert numbers(run) == before


def test_data_that_changed_since_the_start_is_refused(small_run, tmp_path):
    (tmp_path / "data.txt").write_text("one two three four five six seven " * 40)
    run = small_run(task=None, data=str(tmp_path / "data.txt"), max_length=16)
    train(run, report=stop_at(run, 4))
    (tmp_path / "data.txt").write_text("something else " * 100)
    with pytest.raises(HiploraError, match="The data of run has changed since the run began"):
        train(run)


def test_run_on_a_file_goes_on_to_the_same_numbers(small_run, tmp_path):
    (tmp_path / "data.txt").write_text("".join(f"fact number {i} is {i * i}\n" for i in range(120)))
    whole, parts = (small_run(name, task=None, data=str(tmp_path / "data.txt"), max_length=24) for name in "ab")
    train(whole)
    train(parts, report=stop_at(parts, 5))
    train(parts)
    assert_same(whole, parts)
    parts.set_status(Status("running"))
    train(parts)
    assert_same(whole, parts)
    assert parts.card == replace(whole.card, seconds=parts.card.seconds)


def test_methods_with_one_seed_see_the_same_examples_in_the_same_order(small_run):
    """The first loss is of the unchanged base: the same batch gives the same number."""
    first = {
        method: step_table([train(small_run(method, method=method, steps=2))])["task_loss"].iloc[0]
        for method in ("lora", "dora", "hiplora")
    }
    # To float32 rounding: an update of zeros is added, and a DoRA divides rows by their own norms.
    assert first["dora"] == pytest.approx(first["lora"], rel=1e-5)
    assert first["hiplora"] == pytest.approx(first["lora"], rel=1e-5)
    other = step_table([train(small_run("other", method="lora", steps=2, seed=1))])["task_loss"].iloc[0]
    assert other != pytest.approx(first["lora"], rel=1e-2)


def test_hard_budget_is_never_exceeded_in_any_event(small_run):
    run = train(small_run(budget_mode="hard", epsilon=0.002, learning_rate=2e-2, measure_every=1))
    tightness = layer_history([run])["tightness"]
    # The core comes back by two products with vectors kept in float32, and its budget by singular values that are.
    assert tightness.max() <= 1 + 3 * numerics.kept_error(16)
    assert tightness.max() > 0.999


def test_tightness_falls_as_lambda_grows(small_run):
    runs = [
        train(small_run(f"lambda-{value}", budget_lambda=value, learning_rate=1e-2, steps=20))
        for value in (0, 1e3, 1e5)
    ]
    last = [layer_history([run]).query("step == 20")["tightness"].mean() for run in runs]
    assert last[0] > 1.2 * last[1] > 1.2 * last[2]


@pytest.mark.parametrize("method", ["pissa", "dora"])
def test_run_is_analysed_as_what_it_changes_in_the_original_base(small_run, method):
    run = train(small_run(method=method, learning_rate=1e-2))
    from peft import PeftModel

    from hiplora.adapters import read_adapter
    from hiplora.sources import open_base

    base = open_base("demo")
    original = AutoModelForCausalLM.from_pretrained(base.path).state_dict()
    # PEFT makes PiSSA's start anew on loading, and so the base that its factors belong to.
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.path), run.adapter)
    merged = loaded.double().merge_and_unload()
    adapter, name = read_adapter(run.path), "model.layers.2.mlp.down_proj"
    change = (merged.state_dict()[f"{name}.weight"] - original[f"{name}.weight"]).numpy()
    delta = adapter.delta(name, base.read(base.weights[name])).dense()
    assert adapter.method == METHODS[method].title
    # In float64, but for what PiSSA takes off the weight: a product of rank r, no larger than the weight.
    rank, size = run.config.r, np.linalg.norm(original[f"{name}.weight"].numpy(), 2)
    np.testing.assert_allclose(delta, change, rtol=0, atol=numerics.gamma(rank + 3, "float32") * 2 * size)
    assert np.linalg.norm(change) > 1e-2


@pytest.mark.parametrize("every", [1, 8])
def test_nan_loss_stops_the_run_and_keeps_the_last_good_checkpoint(small_run, every):
    """Good: a checkpoint whose own loss was seen to be a number."""
    run = small_run(
        learning_rate=1e30, method="lora", save_every=1, warmup_steps=2, measure_every=every, score_every=every
    )
    with pytest.raises(
        HiploraError, match=r"The loss of run is .* at step \d: its last good checkpoint is at step \d;"
    ):
        train(run)
    assert run.status.state == "failed"
    seen = step_table([run])["step"].max()
    last = run.checkpoints[-1].step
    assert last < seen
    assert f"at step {last};" in run.status.message
    kept = load_file(run.checkpoints[-1].path / "adapter_model.safetensors")
    assert all(np.array_equal(value, kept[key]) for key, value in weights(run).items())
    assert math.isfinite(analyze("demo", [run.path])["norm"].max())


# 10 kB stops the adapter's own file, 400 kB the optimiser's, which torch writes.
@pytest.mark.parametrize("limit", [10_000, 400_000])
def test_full_disk_is_one_sentence_and_what_was_done_is_kept(small_run, limit):
    """A limit on file sizes stands in for a full disk: the system refuses the write alike."""
    run = small_run(save_every=1, method="lora")
    script = f"""
        import resource, signal
        from hiplora.errors import HiploraError
        from hiplora.training import Run
        from hiplora.training.events import Step
        from hiplora.training.train import train

        def report(event):
            if isinstance(event, Step) and event.step == 3:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))

        try:
            train(Run({str(run.path)!r}), report=report)
        except HiploraError as error:
            print(error)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    sentence = ended.stdout.strip()
    assert sentence.startswith(str(run.path))
    assert "cannot be written" in sentence
    assert run.status.state == "failed"
    assert [checkpoint.step for checkpoint in run.checkpoints] == [1, 2]
    train(run)
    assert_same(train(small_run("whole", save_every=1, method="lora")), run)


def test_second_process_is_refused(small_run):
    run = small_run()
    with run.exclusively(), pytest.raises(HiploraError, match="being trained by another process"):
        train(run)


def test_task_needs_a_base_trained_on_the_demo_world(small_run, llama_base, tmp_path):
    with pytest.raises(HiploraError, match="was not trained on the demo world"):
        train(small_run(base=str(llama_base), r=2, principal_rank=4))


@pytest.mark.parametrize(("field", "value"), [("r", 200), ("principal_rank", 129)])
def test_rank_larger_than_a_layer_is_refused_before_anything_is_loaded(small_run, field, value):
    with pytest.raises(HiploraError, match=rf"={value} is larger than .* \(128 x 128\): use at most 128"):
        train(small_run(**{field: value}))


def test_encoder_is_refused(small_run, tmp_path, write_base):
    base = write_base("encoder", {}, architectures=["BertModel"])
    with pytest.raises(HiploraError, match=r"encoder is not a causal language model \(BertModel\)"):
        train(small_run(base=str(base)))


def test_checkpoints_hold_nothing_that_runs_code_when_opened(finished_run):
    assert not list(finished_run.path.rglob("training_args.bin"))
    for earlier in finished_run.checkpoints[:-1]:
        assert {path.suffix for path in earlier.path.iterdir()} <= {".json", ".safetensors", ""}


def test_run_on_a_file_is_scored_on_what_is_held_out_and_on_a_probe(small_run, tmp_path):
    from hiplora.demo.skills import evaluation_examples

    def lines(name, count):
        return [{"prompt": e.prompt, "completion": e.answer} for e in evaluation_examples(name, count)]

    for name, skill in (("data", "swap"), ("probe", "rev")):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines(skill, 40)))
    run = small_run(
        task=None, data=str(tmp_path / "data.jsonl"), probe=str(tmp_path / "probe.jsonl"), learning_rate=5e-3, steps=20
    )
    train(run)
    scores = score_table([run]).pivot_table(index="step", columns="role", values="score", observed=True)
    assert scores.loc[20, "task"] > 1.5 * scores.loc[0, "task"]
    assert scores.loc[0, "retention"] == pytest.approx(1.0)
    assert scores.loc[20, "retention"] < 1
    last = [event for event in run.events() if isinstance(event, Scores)][-1]
    assert last.task_score == pytest.approx(math.exp(-last.more["validation_loss"]))
