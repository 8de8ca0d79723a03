"""Runs in processes of their own, as the app starts them."""

import os
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager

import pytest

from hiplora.errors import HiploraError
from hiplora.training import Launcher, Run, RunConfig, step_table
from tests.training.conftest import SMALL
from tests.waiting import until


def has_step(run, step):
    return lambda: len(step_table([run])) >= step


@contextmanager
def launcher_in(folder):
    launcher = Launcher(folder)
    try:
        yield launcher
    finally:
        for run in launcher.running():
            run.request_stop()


def test_two_methods_run_side_by_side_and_nothing_else_starts_meanwhile(tmp_path):
    with launcher_in(tmp_path) as launcher:
        configs = [RunConfig(**SMALL, steps=5000, method=method) for method in ("lora", "hiplora")]
        lora, hiplora = launcher.start(configs)
        assert launcher.starting(lora)
        with pytest.raises(HiploraError, match="is running: stop it, or wait for it to end"):
            launcher.start(configs)
        until(has_step(lora, 2))
        until(has_step(hiplora, 2))
        assert {run.name for run in launcher.running()} == {"swap-lora-s0", "swap-hiplora-s0"}
        for run in (lora, hiplora):
            run.request_stop()
        until(lambda: not launcher.running())
        assert lora.status.state == hiplora.status.state == "stopped"
        assert lora.adapter
        # The same data in the same order: the first loss is that of the unchanged base, to float32 rounding.
        first = step_table([lora, hiplora]).groupby("run", observed=True)["task_loss"].first()
        assert first.iloc[0] == pytest.approx(first.iloc[1], rel=1e-5)


def test_process_kept_waiting_begins_at_once_and_what_was_stopped_is_resumed(tmp_path):
    with launcher_in(tmp_path) as launcher:
        launcher.warm_up()
        (run,) = launcher.start([RunConfig(**SMALL, steps=60)])
        until(has_step(run, 3))
        run.request_stop()
        until(lambda: run.status.state == "stopped")
        until(lambda: not launcher.running())
        launcher.resume([run])
        until(lambda: run.status.state == "finished")
        assert step_table([run])["step"].tolist() == list(range(1, 61))
        with pytest.raises(HiploraError, match="is finished: there is nothing to resume"):
            launcher.resume([run])


def test_run_stops_with_a_checkpoint_when_its_launcher_is_killed(tmp_path):
    script = f"""
        import sys
        from hiplora.training import Launcher, RunConfig
        launcher = Launcher(__import__("pathlib").Path({str(tmp_path)!r}))
        launcher.start([RunConfig(**{SMALL!r}, steps=5000)])
        print("started", flush=True)
        sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "started\n"
    run = Run(tmp_path / "swap-hiplora-s0")
    until(has_step(run, 2))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    until(lambda: run.status.state == "stopped")
    assert run.checkpoints[-1].step == len(step_table([run]))
