"""Work that outlives a page: one thread, a stop signal, and a snapshot that any thread may read."""

import atexit
import threading
import traceback
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from hiplora.errors import HiploraError

T = TypeVar("T")
_alive: "weakref.WeakSet[BackgroundTask]" = weakref.WeakSet()


@dataclass(frozen=True)
class Snapshot(Generic[T]):
    """The state of a task at one moment.

    Attributes:
        latest: the last value it yielded, None before the first.
        running: whether it is still running.
        stopped: whether it ended because a stop was requested.
        error: one sentence for the user, None without an error.
        details: the traceback of an unexpected error.
    """

    latest: T | None
    running: bool
    stopped: bool
    error: str | None = None
    details: str | None = None


class BackgroundTask(Generic[T]):
    """Run a generator in a daemon thread, keeping the last value it yields.

    It ends when the generator ends or raises, or after `stop()`. Before the process exits it is stopped and waited for,
    since a live numerical thread would abort the exit.

    Args:
        work: called with a function `stopped() -> bool`, returns the iterable.
    """

    def __init__(self, work: Callable[[Callable[[], bool]], Iterable[T]]):
        self._work = work
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._snapshot: Snapshot[T] = Snapshot(None, running=True, stopped=False)
        self._thread = threading.Thread(target=self._run, daemon=True)
        _alive.add(self)
        self._thread.start()

    def snapshot(self) -> Snapshot[T]:
        """Return the state now; immutable."""
        with self._lock:
            return self._snapshot

    def stop(self) -> None:
        """Ask the work to end at its next step."""
        self._stop.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end, at most `seconds`; return whether the task has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        latest: T | None = None
        error = details = None
        try:
            for latest in self._work(self._stop.is_set):
                self._set(Snapshot(latest, running=True, stopped=False))
        except HiploraError as problem:
            error = str(problem)
        except Exception as problem:
            error, details = f"{type(problem).__name__}: {problem}", traceback.format_exc()
        self._set(Snapshot(latest, running=False, stopped=self._stop.is_set(), error=error, details=details))

    def _set(self, snapshot: Snapshot[T]) -> None:
        with self._lock:
            self._snapshot = snapshot


@atexit.register
def _stop_all() -> None:
    for job in list(_alive):
        job.stop()
    for job in list(_alive):
        job.wait(10)
