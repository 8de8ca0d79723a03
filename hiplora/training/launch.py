"""Start runs in separate processes, as the app does; a run can be read and resumed without the app.

Separate processes keep the random numbers of two runs independent and the app responsive. Spare processes wait with
torch already loaded: the first step of a run then comes after 4 s instead of 7 s.
"""

import subprocess
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hiplora.errors import HiploraError
from hiplora.paths import own_process, runs_root
from hiplora.training.config import RunConfig
from hiplora.training.run import Run, list_runs


class Launcher:
    """Starts runs; when it is deleted, or its process dies, they stop with a checkpoint.

    Args:
        root: folder of the runs; the user's own by default.
    """

    def __init__(self, root: Path | None = None):
        self.root = root or runs_root()
        self._lock = threading.Lock()
        self._spares: list[subprocess.Popen[str]] = []
        self._workers: dict[Path, subprocess.Popen[str]] = {}
        self._before: dict[Path, int] = {}
        weakref.finalize(self, _release, self._workers)

    def warm_up(self, count: int = 1) -> None:
        """Keep spare processes ready for the next start: the first step comes after 4 s instead of 7 s.

        Args:
            count: number of runs that may be started side by side.
        """
        with self._lock:
            self._spares = [spare for spare in self._spares if spare.poll() is None]
            while len(self._spares) < count:
                self._spares.append(self._new_worker())

    def start(self, configs: Sequence[RunConfig]) -> list[Run]:
        """Start new runs, side by side.

        Raises:
            HiploraError: a run is already in progress, or the folder cannot be written.
        """
        with self._lock:
            self._require_idle()
            runs = [Run.create_in(self.root, config) for config in configs]
            for run in runs:
                self._send(run)
        return runs

    def resume(self, runs: Sequence[Run]) -> None:
        """Resume runs from their last checkpoints, side by side.

        Raises:
            HiploraError: a run is already in progress, or one of these is finished.
        """
        with self._lock:
            self._require_idle()
            for run in runs:
                _ = run.own_config
                if not run.resumable:
                    raise HiploraError(f"{run.name} is {run.status.state}: there is nothing to resume.")
                self._send(run)

    def starting(self, run: Run) -> bool:
        """Whether a process was given this run but has not begun it yet."""
        worker = self._workers.get(run.path)
        return worker is not None and worker.poll() is None and _last_word(run) == self._before[run.path]

    def running(self) -> list[Run]:
        """Return the runs in progress, started here or elsewhere."""
        return [run for run in list_runs(self.root) if run.status.state == "running" or self.starting(run)]

    def _require_idle(self) -> None:
        # One that another script trains is not the app's to wait for.
        if busy := [run for run in self.running() if not run.watched]:
            raise HiploraError(
                f"{busy[0].name} is running: stop it, or wait for it to end, before you start or resume another run."
            )

    def _send(self, run: Run) -> None:
        with suppress(OSError):
            (run.path / "stop").unlink(missing_ok=True)
        self._before[run.path] = _last_word(run)
        for _ in range(len(self._spares) + 1):
            process = self._spares.pop() if self._spares else self._new_worker()
            try:
                assert process.stdin is not None
                process.stdin.write(f"{run.path.resolve()}\n")
                process.stdin.flush()
            except OSError:
                continue  # This spare process has died: use the next one.
            self._workers[run.path] = process
            return
        raise HiploraError(f"Could not start a process for {run.name}: is the machine out of memory?")

    def _new_worker(self) -> "subprocess.Popen[str]":
        command, environment = own_process("hiplora.training.worker")
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            # Ctrl-C in the app's terminal reaches only the app; the worker notices when the app ends.
            start_new_session=True,
        )


def _last_word(run: Run) -> int:
    """Return the time of a run's last status; 0 before the first one."""
    try:
        return (run.path / "status.json").stat().st_mtime_ns
    except OSError:
        return 0


def _release(workers: dict[Path, "subprocess.Popen[str]"]) -> None:
    for worker in workers.values():
        with suppress(OSError):
            if worker.stdin is not None:
                worker.stdin.close()
