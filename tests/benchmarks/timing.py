"""Two things timed in one process, turn by turn, and what a fresh process needs: every number is a ratio of these."""

import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


@dataclass(frozen=True)
class Ratio:
    """How one thing compares with another, from pairs of measurements taken in the same round.

    Attributes:
        median: of the ratios of the pairs.
        low: their 10th percentile.
        high: their 90th percentile.
        pairs: how many.
    """

    median: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.median:.3g}"
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """Return the ratio of two series whose elements of the same place were measured one after the other."""
    if not numerators or len(numerators) != len(denominators):
        raise ValueError(f"{len(numerators)} and {len(denominators)} measurements make no pairs")
    ratios = np.asarray(numerators, dtype=float) / np.asarray(denominators, dtype=float)
    low, median, high = np.percentile(ratios, (10, 50, 90))
    return Ratio(float(median), float(low), float(high), len(ratios))


def race(
    calls: Mapping[str, Callable[[], object]],
    seconds: float,
    *,
    least: int = 3,
    most: int = 200,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the seconds that each call took, round by round, in a new order each: A B C, C A B, ...

    What a call leaves in the processor's caches is the next one's luck: a fixed order would give it to the same one.

    Args:
        calls: what to time; a call must wait for its own work to end.
        seconds: rounds start until this time has passed,
        least: but at least so many
        most: and at most so many of them.
        warm_up: rounds before that, which do not count.
        clock: in seconds.
    """
    for _ in range(warm_up):
        for call in calls.values():
            call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    start, shuffle = clock(), random.Random(0)
    for done in range(most):
        if done >= least and clock() - start >= seconds:
            break
        for name in shuffle.sample(list(calls), len(calls)):
            before = clock()
            calls[name]()
            found[name].append(clock() - before)
    return found


@contextmanager
def busy_loops(count: int) -> Iterator[Callable[[int, Callable[[], object]], Callable[[], None]]]:
    """Hand out `beside(n, call)`, which returns the call with `n <= count` other processes busy meanwhile (POSIX).

    Each of them keeps a core busy as long as it gets one; between the calls they are stopped.
    """
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]

    def send(number: signal.Signals, chosen: Sequence[subprocess.Popen[bytes]]) -> None:
        for loop in chosen:
            loop.send_signal(number)

    def beside(n: int, call: Callable[[], object]) -> Callable[[], None]:
        def busy_call() -> None:
            send(signal.SIGCONT, loops[:n])
            try:
                call()
            finally:
                send(signal.SIGSTOP, loops[:n])

        return busy_call

    try:
        send(signal.SIGSTOP, loops)
        yield beside
    finally:
        send(signal.SIGKILL, loops)
        for loop in loops:
            loop.wait()


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, from here to the end of the process (glibc; elsewhere nothing happens).

    Otherwise a call that gives much back makes the next one ask the system for it again, page by page.
    """
    with suppress(AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def in_fresh_process(module: str, *arguments: object, threads: int) -> dict[str, float]:
    """Run `python -m module arguments` and return the JSON object on the last line that it prints.

    Memory that is given back goes to the system at once, so that a peak is what was in use and not what was kept.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak_bytes() -> int:
    """Return the largest resident size of this process since it started, or since `reset_peak` (Linux)."""
    return _status("VmHWM")


def resident_bytes() -> int:
    """Return the resident size of this process (Linux)."""
    return _status("VmRSS")


def reset_peak() -> None:
    """Let `peak_bytes` start again from the present size (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])
