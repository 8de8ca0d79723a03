"""Background work: progress is seen, a stop is obeyed, an error becomes a sentence, and the process can exit."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

from hiplora.errors import HiploraError
from hiplora.ui.background import BackgroundTask
from tests.waiting import LIMIT


def count_until(stopped: Callable[[], bool]) -> Iterator[int]:
    number = 0
    while not stopped():
        number += 1
        yield number


def test_latest_result_is_kept_when_the_work_ends() -> None:
    job = BackgroundTask(lambda _: iter([1, 2, 3]))
    assert job.wait(LIMIT)
    snapshot = job.snapshot()
    assert (snapshot.latest, snapshot.running, snapshot.stopped, snapshot.error) == (3, False, False, None)


def test_progress_is_seen_while_it_runs() -> None:
    gate, seen = threading.Event(), threading.Event()

    def work(_: Callable[[], bool]) -> Iterator[int]:
        yield 1
        seen.set()
        gate.wait(LIMIT)

    job = BackgroundTask(work)
    assert seen.wait(LIMIT)
    assert (job.snapshot().latest, job.snapshot().running) == (1, True)
    gate.set()
    assert job.wait(LIMIT)


def test_stop_ends_the_work_and_says_so() -> None:
    job = BackgroundTask(count_until)
    job.stop()
    assert job.wait(LIMIT)
    assert job.snapshot().stopped


def test_error_of_the_user_is_one_sentence() -> None:
    def work(_: Callable[[], bool]) -> Iterator[int]:
        yield 1
        raise HiploraError("x.safetensors is missing.")

    job = BackgroundTask(work)
    job.wait(LIMIT)
    snapshot = job.snapshot()
    assert (snapshot.error, snapshot.details, snapshot.latest) == ("x.safetensors is missing.", None, 1)


def test_error_of_ours_keeps_its_traceback() -> None:
    job = BackgroundTask(lambda _: iter([1 // 0]))
    job.wait(LIMIT)
    snapshot = job.snapshot()
    assert snapshot.error is not None
    assert snapshot.error.startswith("ZeroDivisionError")
    assert "1 // 0" in (snapshot.details or "")


def test_process_exits_while_a_job_runs() -> None:
    code = "import tests.ui.test_background as t; t.BackgroundTask(t.count_until)"
    assert subprocess.run([sys.executable, "-c", code], timeout=LIMIT, check=False).returncode == 0


def test_process_exits_while_a_job_multiplies_in_torch() -> None:
    code = """
import time, torch
from hiplora.ui.background import BackgroundTask

def multiply(stopped):
    matrix = torch.ones(800, 800)
    while not stopped():
        yield matrix @ matrix

job = BackgroundTask(multiply)
while job.snapshot().latest is None:
    time.sleep(0.01)
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=LIMIT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
