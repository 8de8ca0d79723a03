"""A run's folder: what it says of itself, and what it refuses."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from hiplora.card import Card
from hiplora.errors import HiploraError
from hiplora.training import Run, RunConfig, list_runs
from hiplora.training.run import Status
from hiplora.training.watched import WatchedConfig
from tests.training.conftest import step


def test_new_run_can_be_read_back(small_run):
    run = small_run(seed=3, epsilon_pattern={"model.layers.0.self_attn.q_proj": 0.1})
    assert Run(run.path).config == run.config
    assert run.status.state == "new"
    assert run.adapter is None
    assert run.events() == []
    assert run.card == Card()


def test_run_is_running_as_long_as_somebody_holds_it(small_run):
    run = small_run()
    with run.exclusively():
        assert run.status.state == "running"
    assert run.status.state == "new"


def test_run_whose_process_was_killed_says_so(small_run):
    run = small_run()
    script = f"""
import os, signal
from hiplora.training.run import Run, Status
run = Run({str(run.path)!r})
with run.exclusively():
    run.set_status(Status("running"))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script], check=False)
    assert run.status.state == "killed"
    assert "last checkpoint is at step 0" in run.status.message


def test_request_to_stop_is_forgotten_at_the_next_start(small_run):
    run = small_run()
    run.request_stop()
    assert run.stop_requested
    with run.exclusively():
        assert not run.stop_requested


def test_last_event_cut_short_is_left_out_and_an_earlier_one_is_an_error(small_run):
    run = small_run()
    run.append(step(1))
    with (run.path / "events.jsonl").open("a") as file:
        file.write('{"event": "st')
    assert [event.step for event in run.events()] == [1]
    (run.path / "events.jsonl").write_text('{"event": \n{"event": "step", "step": 2}\n')
    with pytest.raises(HiploraError, match=r"events.jsonl: line 1 is damaged"):
        run.events()


def test_rewinding_forgets_what_came_later(small_run):
    run = small_run()
    for number in range(1, 6):
        run.append(step(number))
    assert [event.step for event in run.rewind(3)] == [1, 2, 3]
    assert [event.step for event in run.events()] == [1, 2, 3]


def test_folder_with_a_run_or_other_files_is_not_written_over(small_run, tmp_path):
    run = small_run()
    with pytest.raises(HiploraError, match="already holds a run"):
        Run.create(run.path, run.config)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(HiploraError, match="holds other files"):
        Run.create(tmp_path / "other", run.config)


def test_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(HiploraError, match="is not a run folder: pass the folder"):
        Run(tmp_path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"nonsense": 1}, "'nonsense'"),
        ({"r": 0}, "r must be"),
        ({"base": None}, "base must be a name"),
        ({"data": 5}, "data must be a name"),
        ({"epsilon_pattern": 5}, "epsilon_pattern must be"),
        ({"epsilon_pattern": {"a": -1}}, r"epsilon_pattern\['a'\] must be"),
        ({"learning_rate": 10**400}, "learning_rate must be"),
        (None, "It does not hold a run's settings"),
    ],
)
def test_damaged_settings_are_refused_in_words(small_run, fields, words):
    run = small_run()
    content = {"config": {**run.config.to_dict(), **fields}} if fields else {}
    (run.path / "run.json").write_text(json.dumps(content))
    with pytest.raises(HiploraError, match=words):
        Run(run.path)


def test_list_holds_what_can_be_read_the_newest_first(small_run, tmp_path):
    first, second = small_run("first"), small_run("second")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    assert [run.name for run in list_runs(tmp_path)] == [second.name, first.name]
    assert list_runs(tmp_path / "nowhere") == []


def test_new_folders_are_numbered(small_run, tmp_path):
    config = small_run().config
    names = [Run.create_in(tmp_path / "runs", config).name for _ in range(3)]
    assert names == ["swap-hiplora-s0", "swap-hiplora-s0-2", "swap-hiplora-s0-3"]


def test_of_many_that_want_a_folder_at_once_each_gets_its_own(small_run, tmp_path):
    config = small_run().config
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: Run.create_in(tmp_path / "runs", config).path, range(16)))
    assert len(set(made)) == 16


def test_paths_in_the_settings_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("words")
    run = Run.create("run", RunConfig(base="demo", data="notes.txt"))
    assert run.config.data == str(tmp_path / "notes.txt")
    assert run.config.base == "demo"


def test_nothing_is_written_into_a_run_that_was_removed(small_run):
    run = small_run()
    shutil.rmtree(run.path)
    for write in (lambda: run.append(step(1)), lambda: run.set_status(run.status)):
        with pytest.raises(HiploraError, match="was removed during training"):
            write()
    assert not run.path.exists()


@pytest.mark.parametrize(
    "line",
    [
        "null",
        "[1]",
        '{"event": "step"}',
        '{"event": 3, "step": 1}',
        '{"event": "a", "step": "b"}',
        '{"event": "scores", "step": 1, "task_score": "high", "retention": null, "skills": {}}',
    ],
)
def test_event_of_another_shape_is_an_error_with_its_line(small_run, line):
    run = small_run()
    run.append(step(1))
    with (run.path / "events.jsonl").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(HiploraError, match=r"events.jsonl: line 2 is damaged"):
        run.events()


@pytest.mark.parametrize("content", ['{"state": "banana"}', "{", "[]"])
def test_damaged_status_counts_as_failed(small_run, content):
    run = small_run()
    (run.path / "status.json").write_text(content)
    assert run.status.state == "failed"


def test_what_a_killed_process_was_writing_is_removed_at_the_next_start(small_run):
    run = small_run()
    (run.path / ".adapter-x1").mkdir()
    with run.exclusively():
        assert not list(run.path.glob(".*-*"))


def test_deleted_run_leaves_nothing(small_run, tmp_path):
    gone, kept = small_run("gone"), small_run("kept")
    gone.append(step(1))
    gone.delete()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert [run.name for run in list_runs(tmp_path)] == [kept.name]
    with pytest.raises(HiploraError, match="gone is no longer there"):
        gone.delete()


@pytest.mark.parametrize("watched", [False, True])
def test_run_in_training_is_neither_deleted_nor_renamed(small_run, tmp_path, watched):
    run = small_run()
    if watched:
        run = Run.create(tmp_path / "theirs", WatchedConfig(base="demo", method="LoRA", steps=3))
    with run.exclusively():
        run.set_status(Status("running", "Training"))
        with pytest.raises(HiploraError, match=f"{run.name} is being trained: stop it before you delete it"):
            run.delete()
        with pytest.raises(HiploraError, match="stop it before you rename it"):
            run.rename("other")
        assert run.status.state == "running"
    run.rename("other").delete()
    assert not run.path.exists()
    assert not (tmp_path / "other").exists()


def test_renamed_run_is_the_same_run_under_its_new_name(small_run, tmp_path):
    run = small_run("old", seed=3)
    run.append(step(1))
    found = run.rename("new name")
    assert (found.name, found.path) == ("new name", tmp_path / "new name")
    assert (found.config, found.events()) == (run.config, [step(1)])
    assert not run.path.exists()
    with found.exclusively():
        assert found.status.state == "running"


def test_name_that_is_taken_or_not_plain_is_refused(small_run, tmp_path):
    run, _ = small_run("one"), small_run("two")
    (tmp_path / "empty").mkdir()
    for name in ("two", "empty"):
        with pytest.raises(HiploraError, match=f"{name} exists already: choose another name"):
            run.rename(name)
    for name in ("", ".", "..", ".hidden", "a/b", "a\\b", "/tmp/x", "a\nb"):
        with pytest.raises(HiploraError, match="cannot be the name of a run"):
            run.rename(name)
    assert run.rename("one") is run


def test_run_that_another_was_trained_on_top_of_keeps_its_name(small_run):
    below = small_run("below")
    (below.path / "adapter").mkdir()
    for place in (below.path, below.path / "adapter"):
        above = small_run("above", on_top=(str(place),))
        assert [run.name for run in below.based_on_it()] == ["above"]
        with pytest.raises(HiploraError, match="below keeps its name: above was trained on top of it"):
            below.rename("other")
        above.delete()
    assert below.based_on_it() == []
    assert below.rename("other").name == "other"


def test_note_is_one_line_that_stays_with_the_run(small_run):
    run = small_run()
    assert run.note == ""
    with run.exclusively():
        run.write_note("  lower rate,\n  longer  ")
    assert run.rename("other").note == "lower rate, longer"
    run = Run(run.path.with_name("other"))
    with pytest.raises(HiploraError, match=r"note on other has 201 characters: use up to 200"):
        run.write_note("a" * 201)
    assert run.note == "lower rate, longer"
    run.write_note(" ")
    assert run.note == ""
    assert not list(run.path.glob("*note*"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"task": None}, "either a task of the demo world or a data file"),
        ({"data": "x.txt"}, "either a task of the demo world or a data file"),
        ({"task": "prev"}, "Unknown task 'prev': choose one of swap, rot, edit"),
        ({"probe": "x.txt"}, "A probe file needs a data file"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"steps": 1.5}, "steps must be a whole number"),
        ({"epsilon": 0.0}, "epsilon must be a positive number"),
        ({"learning_rate": float("nan")}, "learning_rate must be a positive number"),
        ({"budget_lambda": -1}, "budget_lambda must be 0 or a positive number"),
        ({"core": "square"}, "core must be one of full, diagonal"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
    ],
)
def test_settings_out_of_range_are_refused_in_words(fields, words):
    with pytest.raises(HiploraError, match=words):
        RunConfig(**{"base": "demo", "task": "swap", **fields})


def test_defaults_are_those_of_the_demo_world_for_a_task_and_gentler_for_a_file():
    task, file = RunConfig(base="demo", task="swap"), RunConfig(base="demo", data="notes.txt")
    assert (task.batch_size, task.learning_rate, task.warmup_steps, task.threads) == (64, 2e-3, 15, 1)
    assert (file.batch_size, file.learning_rate) == (4, 2e-4)
    assert task.default_name == "swap-hiplora-s0"
    assert file.default_name == "notes-hiplora-s0"


def test_settings_of_an_earlier_version_are_read(tmp_path):
    """Flat fields, in another order."""
    fields = (
        '"base": "demo", "method": "hiplora", "task": "swap", "data": null, "probe": null, "r": 8, "lora_alpha": 16.0, '
        '"principal_rank": 16, "core": "diagonal", "budget_mode": "hard", "budget_lambda": 10.0, "epsilon": 0.1, '
        '"epsilon_pattern": {"q_proj": 0.2}, "budget_power": 1.0, "steps": 300, "batch_size": 64, '
        '"learning_rate": 0.002, "warmup_steps": 15, '
        ' "weight_decay": 0.0, "max_length": 256, "seed": 0, "device": "auto", "threads": 1, '
        '"measure_every": 10, "score_every": 25, "save_every": 25, "evaluation_size": 400'
    )
    (tmp_path / "run.json").write_text(f'{{"config": {{{fields}}}, "modules": []}}')
    config = Run(tmp_path).config
    assert (config.core, config.budget_mode, config.epsilon) == ("diagonal", "hard", 0.1)
    assert config.epsilon_pattern == {"q_proj": 0.2}
    assert config == RunConfig.from_dict(config.to_dict())
