"""Runs as the pages see them, from folders alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hiplora.errors import HiploraError
from hiplora.paths import demo_base
from hiplora.training import Run, RunConfig
from hiplora.training.events import Scores, Step
from hiplora.training.run import Status
from hiplora.training.watched import WatchedConfig
from hiplora.ui import runs


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody else's runs."""
    monkeypatch.setenv("HIPLORA_RUNS", str(tmp_path / "runs"))
    runs.launcher.clear()
    return tmp_path / "runs"


def create(root: Path, name: str, **fields: object) -> Run:
    return Run.create(root / name, RunConfig(**({"base": "demo", "task": "swap", "steps": 100} | fields)))  # type: ignore[arg-type]


def add_steps(run: Run, first: int, last: int) -> None:
    """Steps of half a second with 30 tokens each."""
    for step in range(first, last + 1):
        run.append(
            Step(
                step=step,
                loss=8 / step,
                task_loss=8 / step,
                penalty=0.0,
                learning_rate=1e-3,
                grad_norm=None,
                seconds=step / 2,
                tokens=30 * step,
            )
        )


@contextmanager
def training(run: Run, phase: str = "Training", since: int = 0) -> Iterator[None]:
    """Be the process that trains a run."""
    with run.exclusively():
        run.set_status(Status("running", phase, since=since))
        yield


def give_adapter(run: Run) -> None:
    (run.path / "adapter").mkdir()
    (run.path / "adapter" / "adapter_config.json").write_text("{}")


def test_runs_with_an_adapter_are_offered_for_their_base_alone(root: Path, llama_base: Path) -> None:
    done, elsewhere = create(root, "done"), create(root, "elsewhere", base=str(llama_base), task=None, data="x.txt")
    create(root, "waits")
    for run in (done, elsewhere):
        give_adapter(run)
    assert runs.of_base("demo") == {"done": done.path}
    assert runs.of_base(str(llama_base)) == {"elsewhere": elsewhere.path}


def test_damaged_run_does_not_hide_the_others(root: Path) -> None:
    create(root, "good")
    for name, file in (("torn", "status.json"), ("broken", "run.json")):
        (create(root, name).path / file).write_text("{")
    assert {run.name: run.status.state for run in runs.found()} == {"good": "new", "torn": "failed"}


def test_name_and_path_of_a_base_are_one(llama_base: Path) -> None:
    assert runs.same_base("demo", str(demo_base()))
    assert runs.same_base(str(llama_base), f"{llama_base}/../{llama_base.name}")
    assert not runs.same_base("demo", str(llama_base))


def test_runs_that_differ_in_their_method_alone_belong_together(root: Path) -> None:
    one, two = create(root, "one", method="lora"), create(root, "two", method="hiplora")
    other = create(root, "other", seed=1)
    assert [run.name for run in runs.latest_group([two, one, other])] == ["one", "two"]
    assert [run.name for run in runs.latest_group([other, two, one])] == ["other"]


def test_pace_is_that_of_the_last_steps(root: Path) -> None:
    run = create(root, "run")
    with training(run):
        assert runs.pace(run) == runs.Pace(0, 100)
        add_steps(run, 1, 1)
        assert runs.pace(run) == runs.Pace(1, 100)
        add_steps(run, 2, 40)
        assert runs.pace(run) == runs.Pace(40, 100, 60.0, 30.0)


def test_pace_forgets_the_steps_before_the_run_was_resumed(root: Path) -> None:
    run = create(root, "run")
    add_steps(run, 1, 40)
    assert runs.pace(run) == runs.Pace(40, 100)
    with training(run, "Loading the model", since=40):
        assert runs.pace(run) == runs.Pace(40, 100)
    with training(run, since=40):
        for step, seconds in ((41, 30.0), (42, 32.0)):
            assert runs.pace(run) == runs.Pace(step - 1, 100)
            run.append(Step(step, 1.0, 1.0, 0.0, None, None, seconds=seconds, tokens=30 * step))
        assert runs.pace(run) == runs.Pace(42, 100, 15.0, 116.0)


def test_tables_follow_the_events(root: Path) -> None:
    run = create(root, "run")
    add_steps(run, 1, 2)
    assert len(runs.steps([run])) == 2
    add_steps(run, 3, 3)
    assert runs.steps([run])["step"].tolist() == [1, 2, 3]


def test_stamp_changes_when_a_run_comes_begins_ends_or_has_an_adapter(root: Path) -> None:
    run = create(root, "run")
    seen = [runs.stamp([]), runs.stamp([run])]
    with run.exclusively():
        run.set_status(Status("running", "Training"))
        seen.append(runs.stamp([run]))
        add_steps(run, 1, 1)
        assert runs.stamp([run]) == seen[-1]
        run.request_stop()
        seen.append(runs.stamp([run]))
    run.set_status(Status("stopped"))
    seen.append(runs.stamp([run]))
    give_adapter(run)
    seen.append(runs.stamp([run]))
    assert len(set(seen)) == len(seen)


def test_phase_says_what_a_run_does(root: Path) -> None:
    run = create(root, "run")
    assert runs.phase(run) == ""
    with run.exclusively():
        run.set_status(Status("running", "Decomposing the base"))
        assert runs.phase(run) == "Decomposing the base"
        run.request_stop()
        assert runs.phase(run) == "Stopping"


def test_overview_tells_the_card_of_a_finished_run_and_the_last_score_of_another(root: Path) -> None:
    going, done = create(root, "going"), create(root, "done", method="lora")
    for run in (going, done):
        run.append(Scores(5, 0.5, 0.75, {}))
    give_adapter(done)
    (done.path / "adapter" / "card.json").write_text('{"task_score": 0.875, "retention": 0.625}')
    done.set_status(Status("finished"))
    table = runs.overview([going, done]).set_index("run")
    assert table.loc["going", ["state", "step", "task_score", "retention"]].tolist() == ["new", 5, 0.5, 0.75]
    assert table.loc["done", ["state", "task_score", "retention"]].tolist() == ["finished", 0.875, 0.625]
    assert table["method"].tolist() == ["HiP-LoRA", "LoRA"]


def test_uploaded_file_is_kept_once_beside_the_runs_and_is_no_run(root: Path) -> None:
    first, again = (runs.keep_file("../my text.txt", b"hello") for _ in range(2))
    assert first == again
    assert first.read_bytes() == b"hello"
    assert first.is_relative_to(root)
    assert runs.keep_file("my text.txt", b"other") != first


def test_run_of_another_script_is_listed_beside_ours(root: Path) -> None:
    ours = create(root, "ours")
    theirs = Run.create(root / "theirs", WatchedConfig(base="demo", method="rsLoRA", steps=40))
    theirs.set_status(Status("stopped"))
    table = runs.overview([theirs, ours]).set_index("run")
    assert table.loc["theirs", ["method", "task", "steps"]].tolist() == ["rsLoRA", "your own script", 40]
    assert runs.latest_group([theirs, ours]) == [theirs]
    assert runs.latest_group([ours, theirs]) == [ours]
    with pytest.raises(HiploraError, match=r"theirs was trained by a script of your own"):
        runs.launcher().resume([theirs])


def test_speed_without_tokens_is_that_of_the_steps(root: Path) -> None:
    run = Run.create(root / "theirs", WatchedConfig(base="demo", method="LoRA", steps=10))
    for step in (1, 3):
        run.append(Step(step, 1.0, 1.0, 0.0, None, None, seconds=step / 2, tokens=0))
    with training(run):
        assert runs.pace(run) == runs.Pace(3, 10, None, 3.5)


def test_run_of_another_script_does_not_keep_ours_waiting(root: Path) -> None:
    run = Run.create(root / "theirs", WatchedConfig(base="demo", method="LoRA", steps=10))
    with run.exclusively():
        run.set_status(Status("running"))
        assert [each.name for each in runs.launcher().running()] == ["theirs"]
        runs.launcher()._require_idle()
