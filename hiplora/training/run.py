"""A run as a folder: settings, state, events, checkpoints, adapter. Read and written without torch.

    RUN/run.json                     settings (`RunConfig`, or `WatchedConfig`) and facts: versions, modules, hashes
    RUN/status.json                  state, phase, message
    RUN/events.jsonl                 one event per line, appended as it happens
    RUN/checkpoints/checkpoint-N/    PEFT's adapter files, and for the last one the state to resume from
    RUN/adapter/                     the last checkpoint's adapter with its card: what `hiplora analyze` reads
    RUN/log.txt                      output of the libraries
    RUN/note.txt                     a line of the user's, if there is one

A checkpoint is valid once it holds the file `complete`, which is written last. A run holds a lock while it trains. The
system releases it however the process ends: a run whose state is "running" without the lock was killed.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock, Timeout

from hiplora.card import Card
from hiplora.errors import HiploraError
from hiplora.files import atomic_path, read_json, user_path
from hiplora.paths import RUN_ADAPTER, RUN_FILE, runs_root
from hiplora.training.config import RunConfig
from hiplora.training.events import Recorded, from_json, to_json
from hiplora.training.watched import WatchedConfig

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

State = Literal["new", "running", "finished", "stopped", "failed", "killed"]
COMPLETE = "complete"
_RESUMABLE: tuple[State, ...] = ("new", "stopped", "failed", "killed")
# Readers hold the lock for a moment to test whether it is free: a process that wants to train waits that long.
_PATIENCE = 2.0
_LOCK = ".lock"
NOTE_LENGTH = 200
"""Most characters of a note on a run."""


@dataclass(frozen=True)
class Status:
    """The state of a run.

    Attributes:
        state: `new` (never started), `running`, `finished`, `stopped` (on request), `failed`, or `killed`.
        phase: the present work, while it runs.
        message: one sentence for the user; may be empty.
        device: the device it trains on, once known.
        since: optimizer steps that were done when its process began.
    """

    state: State
    phase: str = ""
    message: str = ""
    device: str = ""
    since: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """One complete checkpoint.

    Attributes:
        step: optimizer steps done.
        path: a PEFT adapter folder.
    """

    step: int
    path: Path


class FolderTakenError(HiploraError):
    """The folder for a new run is taken."""


class Run:
    """A run's folder.

    Args:
        path: the folder.

    Raises:
        HiploraError: it is not a run folder, or its `run.json` is damaged.
    """

    def __init__(self, path: str | Path):
        self.path = user_path(path)
        if not (self.path / RUN_FILE).is_file():
            raise HiploraError(f"{self.path} is not a run folder: pass the folder that `hiplora train --out` wrote.")
        try:
            self.config = _config_of(read_json(self.path / RUN_FILE).get("config"))
        except HiploraError as error:
            raise HiploraError(f"{self.path / RUN_FILE} cannot be used ({error}) Start a new run.") from None

    @classmethod
    def create(cls, path: str | Path, config: RunConfig | WatchedConfig) -> "Run":
        """Create a new run's folder. Paths in the settings are made absolute, so a run can be resumed from anywhere.

        Raises:
            HiploraError: the folder is taken or cannot be written.
        """
        target = user_path(path)
        try:
            target.mkdir(parents=True, exist_ok=True)
            # Of two processes that want the same folder, one is refused.
            with FileLock(target / _LOCK, timeout=_PATIENCE):
                if (target / RUN_FILE).exists():
                    if isinstance(config, WatchedConfig):
                        raise FolderTakenError(
                            f"{target} already holds a run: choose another name for this one, or delete the folder."
                        )
                    raise FolderTakenError(
                        f"{target} already holds a run: resume it with `hiplora train --resume {target}`, or choose "
                        "another folder."
                    )
                if any(found.name != _LOCK for found in target.iterdir()):
                    raise FolderTakenError(f"{target} holds other files: choose a new folder for the run.")
                with atomic_path(target / RUN_FILE) as draft:
                    _write_json(draft, {"config": config.with_absolute_paths().to_dict()})
        except Timeout:
            raise FolderTakenError(f"{target} is being used by another process: choose another folder.") from None
        except OSError as error:
            raise HiploraError(f"{target} cannot be created ({error.strerror}): choose another place.") from None
        return cls(target)

    @classmethod
    def create_in(cls, root: Path | None, config: RunConfig | WatchedConfig) -> "Run":
        """Create a new run's folder in `root` (the user's runs by default), numbered if its name is taken.

        Raises:
            HiploraError: the folder cannot be written.
        """
        root = root or runs_root()
        for number in count(1):
            name = config.default_name + (f"-{number}" if number > 1 else "")
            if not (root / name).exists():
                with suppress(FolderTakenError):
                    return cls.create(root / name, config)
        raise AssertionError

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def status(self) -> Status:
        """The run's current state."""
        path = self.path / "status.json"
        if not path.is_file():
            return Status("running") if self._locked() else Status("new")
        try:
            fields, locked = read_json(path), self._locked()
        except HiploraError as error:
            return Status("failed", message=str(error))
        if fields.get("state") == "running" and not locked:
            # It may have ended between the two checks.
            fields = read_json(path)
            if fields.get("state") == "running":
                last = self.checkpoints[-1].step if self.checkpoints else 0
                message = f"Killed while running; its last checkpoint is at step {last}."
                return Status("killed", "", message, str(fields.get("device", "")))
        state: State = fields["state"] if fields.get("state") in get_args(State) else "failed"
        phase, message, device = (str(fields.get(name, "")) for name in ("phase", "message", "device"))
        since = fields.get("since", 0)
        return Status(state, phase, message, device, since if type(since) is int else 0)

    @property
    def own_config(self) -> RunConfig:
        """The settings of a run that is trained here.

        Raises:
            HiploraError: another script trains it.
        """
        if isinstance(self.config, WatchedConfig):
            raise HiploraError(
                f"{self.name} was trained by a script of your own, and only watched here: continue it there, with "
                "resume_from_checkpoint."
            )
        return self.config

    @property
    def watched(self) -> bool:
        """Whether another script trains it."""
        return isinstance(self.config, WatchedConfig)

    @property
    def resumable(self) -> bool:
        """Whether it can resume here from its last checkpoint, or from the start."""
        return not self.watched and self.status.state in _RESUMABLE

    @property
    def adapter(self) -> Path | None:
        """The adapter folder of the last checkpoint; None before the first."""
        path = self.path / RUN_ADAPTER
        return path if (path / "adapter_config.json").is_file() else None

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """Complete checkpoints, by step."""
        found = []
        for path in (self.path / "checkpoints").glob("checkpoint-*"):
            step = _step_of(path)
            if step is not None and (path / COMPLETE).is_file():
                found.append(Checkpoint(step, path))
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    @property
    def card(self) -> Card:
        """The adapter's card at the last checkpoint; empty before the first."""
        return Card.read(self.path / RUN_ADAPTER)

    @cached_property
    def _events_path(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def events_stamp(self) -> tuple[int, int]:
        """Size and modification time of the events file: changes with every event."""
        try:
            stat = self._events_path.stat()
        except OSError:
            return 0, 0
        return stat.st_size, stat.st_mtime_ns

    def events(self) -> list[Recorded]:
        """Return all events, in order; an incomplete last line is left out.

        Raises:
            HiploraError: a line before the last is damaged.
        """
        if not self._events_path.is_file():
            return []
        lines = self._events_path.read_bytes().split(b"\n")
        found = []
        for number, line in enumerate(lines, start=1):
            if not line:
                continue
            try:
                found.append(from_json(json.loads(line)))
            except (ValueError, RecursionError):
                # The last line may be incomplete if the process was killed or is still writing.
                if number < len(lines):
                    raise HiploraError(
                        f"{self._events_path}: line {number} is damaged: remove it, or start a new run."
                    ) from None
        return found

    def append(self, event: Recorded) -> None:
        """Write one event.

        Raises:
            HiploraError: the disk is full, or the folder cannot be written or is gone.
        """
        self.require()
        try:
            with self._events_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(to_json(event), allow_nan=False) + "\n")
        except OSError as error:
            raise self.unwritable(error) from None

    def rewind(self, step: int) -> list[Recorded]:
        """Delete the events after `step`, and return the others."""
        kept = [event for event in self.events() if event.step <= step]
        with atomic_path(self._events_path) as draft:
            draft.write_text("".join(json.dumps(to_json(event)) + "\n" for event in kept), encoding="utf-8")
        for path in (self.path / "checkpoints").glob("checkpoint-*"):
            number = _step_of(path)
            if not (path / COMPLETE).is_file() or (number is not None and number > step):
                shutil.rmtree(path)
        return kept

    def require(self) -> None:
        """Raise if the folder was removed, so that no write recreates a part of it.

        Raises:
            HiploraError: it was removed.
        """
        if not (self.path / RUN_FILE).is_file():
            raise HiploraError(f"{self.path} was removed during training: start a new run.")

    def set_status(self, status: Status) -> None:
        """Write the run's state.

        Raises:
            HiploraError: the folder cannot be written or is gone.
        """
        self.require()
        with atomic_path(self.path / "status.json") as draft:
            _write_json(draft, vars(status))

    def record_facts(self, **facts: Any) -> None:
        """Write facts about the run into `run.json`, next to its settings.

        Raises:
            HiploraError: the folder cannot be written or is gone.
        """
        self.require()
        with atomic_path(self.path / RUN_FILE) as draft:
            _write_json(draft, {"config": self.config.to_dict(), **self.facts, **facts})

    @property
    def facts(self) -> dict[str, Any]:
        """Facts about the run: versions, modules, hashes; empty before the first start.

        Raises:
            HiploraError: the file is damaged.
        """
        fields = read_json(self.path / RUN_FILE)
        modules = fields.get("modules", [])
        if not isinstance(modules, list) or not all(isinstance(module, str) for module in modules):
            raise HiploraError(f"{self.path / RUN_FILE} does not list the names of its modules: start a new run.")
        return {name: value for name, value in fields.items() if name != "config"}

    def request_stop(self) -> None:
        """Request a stop after the current step, with a checkpoint."""
        try:
            (self.path / "stop").touch()
        except OSError as error:
            raise self.unwritable(error) from None

    @property
    def stop_requested(self) -> bool:
        """Whether a stop was requested."""
        return (self.path / "stop").exists()

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Lock the run for training; the system releases the lock however the process ends.

        Raises:
            HiploraError: another process is training it.
        """
        try:
            with FileLock(self.path / _LOCK, timeout=_PATIENCE):
                (self.path / "stop").unlink(missing_ok=True)
                # Drafts that a killed process was writing.
                for draft in self.path.glob(".*-*"):
                    shutil.rmtree(draft, ignore_errors=True)
                yield
        except Timeout:
            raise HiploraError(
                f"{self.name} is being trained by another process: wait for it, or stop it first."
            ) from None

    @property
    def note(self) -> str:
        """The user's line on the run; empty where there is none."""
        try:
            with (self.path / "note.txt").open(encoding="utf-8", errors="replace") as file:
                return " ".join(file.read(NOTE_LENGTH).split())
        except OSError:
            return ""

    def write_note(self, text: str) -> None:
        """Write a line on the run, or remove it with an empty one; also while it trains.

        Args:
            text: up to `NOTE_LENGTH` characters; line breaks become spaces.

        Raises:
            HiploraError: it is longer, or the folder cannot be written or is gone.
        """
        words = " ".join(text.split())
        if len(words) > NOTE_LENGTH:
            raise HiploraError(f"The note on {self.name} has {len(words)} characters: use up to {NOTE_LENGTH}.")
        self._require_there()
        path = self.path / "note.txt"
        if words:
            with atomic_path(path) as draft:
                draft.write_text(words + "\n", encoding="utf-8")
            return
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise HiploraError(f"{path} cannot be removed ({error.strerror}): remove it by hand.") from None

    def based_on_it(self) -> list["Run"]:
        """Return the runs beside it that train on top of its adapter, and name its folder in their settings."""
        home = self.path.resolve()
        return [
            run
            for run in list_runs(home.parent)
            if isinstance(run.config, RunConfig)
            and any(home in (Path(name), *Path(name).parents) for name in run.config.on_top)
        ]

    def rename(self, name: str) -> "Run":
        """Give the folder another name, and return the run there.

        Args:
            name: a plain name, not a path; nothing else beside the run may have it.

        Raises:
            HiploraError: the name is not plain or is taken, the run is being trained, other runs train on top of it
                and name its folder, or the folder cannot be moved.
        """
        home = self.path.resolve()
        if name == home.name:
            return self
        if not name or name.startswith(".") or not name.isprintable() or set(name) & set('/\\:*?"<>|'):
            raise HiploraError(
                f"{name!r} cannot be the name of a run: use letters, digits, spaces, dashes and underscores."
            )
        if others := self.based_on_it():
            raise HiploraError(
                f"{self.name} keeps its name: {', '.join(run.name for run in others)} was trained on top of it and "
                "names its folder."
            )
        target = home.with_name(name)
        with self._at_rest("rename"):
            if target.exists() or target.is_symlink():
                raise FolderTakenError(f"{target} exists already: choose another name.")
            try:
                home.rename(target)
            except OSError as error:
                raise HiploraError(f"{home} cannot be renamed to {name} ({error.strerror}).") from None
        return type(self)(target)

    def delete(self) -> None:
        """Delete the folder with all checkpoints.

        It is moved out of sight first: a run is there whole, or not at all.

        Raises:
            HiploraError: the run is being trained, or the folder cannot be moved or emptied.
        """
        home = self.path.resolve()
        with self._at_rest("delete"):
            try:
                # Two levels down: `list_runs` does not look there.
                holder = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
            except OSError as error:
                raise HiploraError(f"{home} cannot be deleted ({error.strerror}).") from None
            try:
                home.rename(holder / home.name)
            except OSError as error:
                holder.rmdir()
                raise HiploraError(f"{home} cannot be deleted ({error.strerror}).") from None
        try:
            shutil.rmtree(holder)
        except OSError as error:
            raise HiploraError(
                f"{home.name} is no longer a run, but {holder} cannot be emptied ({error.strerror}): delete it by hand."
            ) from None

    @contextmanager
    def _at_rest(self, verb: str) -> Iterator[None]:
        """Hold the lock of a run that is not trained, so that nothing begins meanwhile.

        Raises:
            HiploraError: a process trains it, or the folder is gone.
        """
        self._require_there()
        lock = FileLock(self.path / _LOCK, timeout=_PATIENCE)
        try:
            lock.acquire()
        except Timeout:
            raise HiploraError(f"{self.name} is being trained: stop it before you {verb} it.") from None
        except OSError as error:
            raise HiploraError(f"{self.path} cannot be locked ({error.strerror}): nothing was changed.") from None
        try:
            if fcntl is None:
                # Windows moves no folder with an open file in it.
                lock.release()
            yield
        finally:
            lock.release()

    def _require_there(self) -> None:
        if not (self.path / RUN_FILE).is_file():
            raise HiploraError(f"{self.path} is no longer there: it was moved or deleted.")

    def _locked(self) -> bool:
        """Whether a process is training it. Concurrent checks do not block each other."""
        if fcntl is None:
            try:
                with FileLock(self.path / _LOCK, timeout=0):
                    return False
            except Timeout:
                return True
        try:
            with (self.path / _LOCK).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return False
        except BlockingIOError:
            return True
        except OSError:
            return False

    def unwritable(self, error: OSError) -> HiploraError:
        """Return the error for a folder that cannot be written."""
        return HiploraError(
            f"{self.path} cannot be written ({error.strerror or error}): make room, then resume the run from its last "
            "checkpoint."
        )


def list_runs(root: Path | None = None) -> list[Run]:
    """Return the runs in a folder, the newest first; unreadable ones are left out.

    Args:
        root: the folder; the user's runs by default.
    """
    found = []
    for path in (root or runs_root()).glob(f"*/{RUN_FILE}"):
        try:
            found.append((path.stat().st_ctime_ns, Run(path.parent)))
        except (HiploraError, OSError):
            continue
    return [run for _, run in sorted(found, key=lambda pair: pair[0], reverse=True)]


def _config_of(fields: Any) -> RunConfig | WatchedConfig:
    """Return the settings of a run, of either kind.

    Raises:
        HiploraError: a field is unknown, missing or out of range.
    """
    if isinstance(fields, dict) and fields.get("watched") is True:
        return WatchedConfig.from_dict(fields)
    return RunConfig.from_dict(fields)


def _step_of(checkpoint: Path) -> int | None:
    """Return the step in the name of a checkpoint's folder; None if it is not one that a Trainer writes."""
    match = re.fullmatch(r"checkpoint-([0-9]{1,15})", checkpoint.name)
    return int(match[1]) if match else None


def _write_json(path: Path, fields: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(fields, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
