"""Training runs as the pages see them. A page only reads folders: a run outlives page, tab and server."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import pandas as pd
import streamlit as st

from hiplora.card import Card
from hiplora.errors import HiploraError
from hiplora.files import atomic_path
from hiplora.sources import canonical
from hiplora.training import (
    METHODS,
    Launcher,
    Run,
    RunConfig,
    drift_history,
    layer_history,
    list_runs,
    score_table,
    step_table,
)
from hiplora.training.events import Scores

MOST = 2
"""Largest number of runs trained or shown side by side."""
TRAINING = "Training"
"""Phase of a run that takes optimizer steps."""
# Number of last steps that the shown speed is computed from.
_RECENT = 20
_Stamp = tuple[tuple[str, int, int], ...]


@st.cache_resource(show_spinner=False)
def launcher() -> Launcher:
    """Return the launcher of runs, one for all visitors of this server."""
    return Launcher()


def found() -> list[Run]:
    """Return the runs on this machine, the newest first; other folders are left out."""
    return list_runs(launcher().root)


def phase(run: Run) -> str:
    """Return the present work of a run in words; empty when it is idle."""
    status = run.status
    if status.state == "running":
        return "Stopping" if run.stop_requested else status.phase or "Starting"
    # The process of a stopped run ends a moment later than the run.
    return "Starting" if launcher().starting(run) and not run.stop_requested else ""


def stamp(runs: Sequence[Run]) -> tuple[object, ...]:
    """Return a value that changes when a page must be redrawn: runs appear, start, stop, end or have an adapter."""
    return tuple(
        (run.name, run.status.state, bool(phase(run)), run.stop_requested, run.adapter is not None) for run in runs
    )


def of_base(base: str) -> dict[str, Path]:
    """Return `{name: folder}` of the runs on a base that have an adapter, the newest first.

    Args:
        base: known name, folder or hub name.
    """
    here = canonical(base)
    return {run.name: run.path for run in list_runs() if run.adapter is not None and canonical(run.config.base) == here}


def same_base(one: str, other: str) -> bool:
    """Whether two names or paths mean the same base."""
    return canonical(one) == canonical(other)


def latest_group(runs: Sequence[Run]) -> list[Run]:
    """Return the newest run, and the next one too if the two differ only in method.

    Args:
        runs: the newest first.
    """
    newest = runs[0].config
    group = [run for run in runs[:MOST] if run.config == newest or _same_but_for_method(run.config, newest)]
    return sorted(group, key=lambda run: list(METHODS).index(run.config.method) if run.config.method in METHODS else -1)


def _same_but_for_method(one: object, other: object) -> bool:
    return isinstance(one, RunConfig) and isinstance(other, RunConfig) and replace(one, method=other.method) == other


@dataclass(frozen=True)
class Pace:
    """Progress and speed of a run.

    Attributes:
        step: optimizer steps done.
        steps: steps in total.
        tokens_per_second: recent speed; None where `remaining` is, and where tokens are not counted.
        remaining: seconds of training left at this speed; None while it does not train, and before the second step
            since it was started or resumed.
    """

    step: int
    steps: int
    tokens_per_second: float | None = None
    remaining: float | None = None


def pace(run: Run) -> Pace:
    """Return the progress of a run, and while it trains its speed over its last steps since it was resumed."""
    table, status = steps([run]), run.status
    total = run.config.steps
    if table.empty:
        return Pace(0, total)
    done = int(table["step"].iloc[-1])
    recent = table[table["step"] > status.since].tail(_RECENT)
    if phase(run) != TRAINING or len(recent) < 2:
        return Pace(done, total)
    first, last = recent.iloc[0], recent.iloc[-1]
    seconds = last["seconds"] - first["seconds"]
    if not seconds > 0:
        return Pace(done, total)
    per_step = seconds / (last["step"] - first["step"])
    # A script that is only watched need not count its tokens.
    tokens = (last["tokens"] - first["tokens"]) / seconds if last["tokens"] else None
    return Pace(done, total, tokens, per_step * (total - done))


def overview(runs: Sequence[Run]) -> pd.DataFrame:
    """Return one row per run.

    Columns: `run, method, task, state, step, steps, task_score, retention, note, when` (when it last changed).
    """
    return pd.DataFrame(
        [_row(run) for run in runs],
        columns=["run", "method", "task", "state", "step", "steps", "task_score", "retention", "note", "when"],
    )


def _row(run: Run) -> dict[str, object]:
    step, task, retention = _last(_stamps([run]))
    state = run.status.state
    if state == "finished":
        # The card's scores use more examples than those during training.
        card = _card(run)
        task = task if card.task_score is None else card.task_score
        retention = retention if card.retention is None else card.retention
    files = [run.path / name for name in ("events.jsonl", "status.json", "run.json")]
    changed = max(path.stat().st_mtime for path in files if path.is_file())
    return {
        "run": run.name,
        "method": run.config.title,
        "task": run.config.goal,
        "state": (phase(run) and "running") or state,
        "step": step,
        "steps": run.config.steps,
        "task_score": task,
        "retention": retention,
        "note": run.note,
        "when": datetime.fromtimestamp(changed),
    }


def _card(run: Run) -> Card:
    try:
        return run.card
    except HiploraError:
        return Card()


def steps(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the step table, read again only after new events."""
    return _table(_stamps(runs), step_table)


def scores(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the score table, read again only after new events."""
    return _table(_stamps(runs), score_table)


def layers(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the layer history, read again only after new events."""
    return _table(_stamps(runs), layer_history)


def drift(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the drift of runs, read again only after new events."""
    return _table(_stamps(runs), drift_history)


def measured_after_start(run: Run) -> bool:
    """Return whether a run has measured an update that had been trained."""
    return bool((layers([run])["step"] > 0).any())


def _stamps(runs: Sequence[Run]) -> _Stamp:
    return tuple((str(run.path), *run.events_stamp) for run in runs)


def _table(stamps: _Stamp, table: Callable[..., pd.DataFrame]) -> pd.DataFrame:
    return _read(stamps, table.__name__, table)


@st.cache_data(max_entries=32, show_spinner=False)
def _read(stamps: _Stamp, name: str, _table: Callable[..., pd.DataFrame]) -> pd.DataFrame:
    return _table([Run(path) for path, *_ in stamps])


@st.cache_data(max_entries=512, show_spinner=False)
def _last(stamps: _Stamp) -> tuple[int, float | None, float | None]:
    """Return the last step, task score and retention of one run."""
    try:
        events = [event for path, *_ in stamps for event in Run(path).events()]
    except HiploraError:
        return 0, None, None
    last = max((event.step for event in events), default=0)
    scores = next((event for event in reversed(events) if isinstance(event, Scores)), None)
    return (last, scores.task_score, scores.retention) if scores else (last, None, None)


def keep_file(name: str, content: bytes) -> Path:
    """Write an uploaded training file beside the runs, so that a run can be resumed after the server has ended.

    Args:
        name: the visitor's file name.
        content: of the file; identical content is kept once.

    Raises:
        HiploraError: the folder cannot be written.
    """
    clean = re.sub(r"[^\w.-]", "-", Path(name).name)
    path = launcher().root / "uploads" / hashlib.sha256(content).hexdigest()[:12] / clean
    if not path.is_file():
        with atomic_path(path) as draft:
            draft.write_bytes(content)
    return path
