"""From the sidebar's choices to a study: opened once, prepared in the background, stoppable."""

import logging
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from hiplora.effects import TaskLosses, TextLosses
from hiplora.errors import HiploraError
from hiplora.files import user_path
from hiplora.geometry import Calibration, read_text
from hiplora.measures import Inspection
from hiplora.paths import demo_adapters, demo_base
from hiplora.sources import open_base
from hiplora.spectrum import BaseSpectra
from hiplora.spectrum.cache import stored_k
from hiplora.spectrum.prepare import Progress
from hiplora.study import Study
from hiplora.training.run import Run, list_runs
from hiplora.ui import runs
from hiplora.ui.background import BackgroundTask
from hiplora.ui.session import Session
from hiplora.ui.shell import freeze_imports
from hiplora.ui.text import plain

_LOG = logging.getLogger(__name__)
_KEPT_TABLES = 32
_KEPT_TEXTS = 4
_Growing = tuple[int, pd.DataFrame]
"""How many rows a table will have, and those that it has."""
_Identity = tuple[tuple[str, int, int], ...]


def load(session: Session) -> Study:
    """Open the base and the adapters. If one adapter cannot be used, the others are shown all the same.

    Raises:
        HiploraError: the base cannot be opened.
    """
    study = _base(session.base, session.download)
    geometry = _calibration(study, session.text) if session.geometry == "inputs" else None
    return study.on(session.adapters, strict=False).at(session.k, epsilon=session.epsilon, geometry=geometry)


def _calibration(study: Study, text: str) -> Calibration:
    """Return the inputs of the base on a text file, or on the base's own text; kept while both stay as they are."""
    path = user_path(text) if text else None
    key = (study.base.identity, str(path), _stamp(path))
    kept = _calibrations()
    if key not in kept:
        kept[key] = Calibration(study.spectra, None if path is None else read_text(path))
        for old in list(kept)[:-_KEPT_TABLES]:
            kept.pop(old, None)
    return kept[key]


def text_losses(task: str, kept: str, tokens: int) -> TextLosses:
    """Return the way to score by loss on two text files, read once while they stay as they are.

    Args:
        task: path of the task's text.
        kept: of the text of what should be kept; empty for English that comes with Python.
        tokens: of each, at most.

    Raises:
        HiploraError: a file cannot be read as text, or the two are the same.
    """
    found: TextLosses = _scores(lambda texts, kept: TextLosses(texts[""], kept, tokens), {"": task}, kept, tokens)
    return found


def task_losses(tasks: Mapping[str, str], kept: str, tokens: int) -> TaskLosses:
    """Return the way to score merges by loss on text files, read once while they stay as they are.

    Args:
        tasks: path of the text of each adapter's task.
        kept: of the text of what should be kept; empty for English that comes with Python.
        tokens: of each, at most.

    Raises:
        HiploraError: a file cannot be read as text, or a task has the text of what should be kept.
    """
    found: TaskLosses = _scores(lambda texts, kept: TaskLosses(texts, kept, tokens), tasks, kept, tokens)
    return found


def _scores(make: Callable[[dict[str, str], str | None], Any], tasks: Mapping[str, str], kept: str, tokens: int) -> Any:
    """Return what scores by loss on files, with its texts read."""
    paths = {name: user_path(path) for name, path in tasks.items()}
    beside = user_path(kept) if kept else None
    stamped = [(name, path, _stamp(path)) for name, path in paths.items()]
    key = (*stamped, beside, _stamp(beside), tokens)
    remembered = _texts()
    if key not in remembered:
        scores = make({name: str(path) for name, path in paths.items()}, None if beside is None else str(beside))
        _ = scores.identity
        remembered[key] = scores
        for old in list(remembered)[:-_KEPT_TEXTS]:
            remembered.pop(old, None)
    return remembered[key]


def _stamp(path: Path | None) -> tuple[int, int] | None:
    """Return what changes when a file does."""
    if path is None or not path.is_file():
        return None
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


@st.cache_resource
def _texts() -> dict[Hashable, Any]:
    return {}


@st.cache_resource
def _calibrations() -> dict[Hashable, Calibration]:
    return {}


def show_problems(study: Study) -> None:
    """Show a sentence for each unusable adapter."""
    for problem in study.problems:
        st.error(plain(problem), icon=":material/error:")


def require_adapters(study: Study) -> None:
    """Show the problems of the chosen adapters, and stop the page here when none is left to be shown."""
    show_problems(study)
    for _, reason in study.strangers:
        st.warning(plain(reason), icon=":material/link_off:")
    if not study.updates:
        st.info("Choose an adapter of this base in the sidebar.", icon=":material/arrow_back:")
        st.stop()


def measured(study: Study, *, optional: Sequence[str] = ()) -> Study:
    """Return the study, measured; or show the preparation of the spectra in place of the page.

    An adapter that cannot be measured (NaN) is left out, with its sentence shown.

    Args:
        study: with at least one update.
        optional: columns of optional measures that the page shows.
    """
    _prepare(study, optional)
    with st.spinner("Measuring…", show_time=True):
        left = study.measurable(optional=optional)
    for problem in left.problems[len(study.problems) :]:
        st.error(plain(problem), icon=":material/error:")
    if not left.updates:
        st.stop()
    return left


def show_damaged_cards(study: Study) -> None:
    """Show one sentence for each adapter whose card cannot be read."""
    for update in study.updates:
        try:
            _ = update.card
        except HiploraError as error:
            st.warning(plain(str(error)), icon=":material/error:")


def at_hand(study: Study) -> list[Path]:
    """Return the folders on this base with possible scores: its runs and the demo adapters."""
    shipped = demo_adapters() if study.base.path == demo_base() else []
    return [*shipped, *(run.path for run in runs_on(study))]


def runs_on(study: Study) -> list[Run]:
    """Return the runs trained on this base, the newest first."""
    return [run for run in list_runs() if runs.same_base(run.config.base, study.source)]


def playable_runs(study: Study) -> dict[str, Run]:
    """Return the runs with two checkpoints or more by name: first those chosen as adapters, then the others here."""
    found: dict[str, Run] = {}
    seen = set()
    for name, run in study.runs.items():
        found[name] = run
        seen.add(run.path.resolve())
    for run in runs_on(study):
        if run.path.resolve() not in seen:
            found[run.name if run.name not in found else f"{run.path.resolve().parent.name}/{run.name}"] = run
    return {name: run for name, run in found.items() if len(run.checkpoints) > 1}


def _prepare(study: Study, optional: Sequence[str]) -> None:
    """Compute missing spectra in the background; meanwhile show the progress and stop the page here."""
    missing = study.missing(optional=optional)
    # Keyed by what is computed, not by what is requested: steps of k, stops and page switches find the same task.
    needed = {
        (weight.module, stored_k(weight.shape, None if optional else min(study.k, *weight.shape)))
        for weight in study.weights
    }
    key = (study.base.identity, study.seen_as, frozenset(needed))
    if not missing:
        _tasks().pop(key, None)
        return
    calibration = study.calibration
    if calibration is not None and not calibration.ready:
        title = f"Observing the inputs of {plain(study.base.name)}"
        caption = f"Once for {calibration.name}: what reaches each map is kept on disk, for every adapter."
    else:
        title = f"Decomposing {plain(study.base.name)}"
        caption = (
            "Once per weight: the singular vectors are kept on disk and shared by every page, adapter and session."
        )
    left = f"{len(missing)} maps of {plain(study.base.name)} remaining. Finished ones are cached."
    _wait_for(key, lambda stopped: study.prepare(stopped, optional=optional), title, caption, left)


def inspections(study: Study) -> list[Inspection]:
    """Return what was read of each adapter; or show the progress of reading in place of the page."""
    if not study.inspected:
        strangers = [update for update, _ in study.strangers]
        _wait_for(
            ("inspect", study.base.identity, tuple(update.identity for update in (*study.updates, *strangers))),
            study.inspect_ahead,
            "Reading every tensor",
            "Once per adapter: what is read is kept for every page and session.",
            "Some adapters are not read yet. Those that are finished are kept.",
        )
    return study.inspections()


def _wait_for(
    key: Hashable, work: Callable[[Callable[[], bool]], Iterator[Progress]], title: str, caption: str, left: str
) -> None:
    """Do some work in the background; while it goes on, show its progress and stop the page here.

    Args:
        key: of the work: pages and sessions that ask for the same find the same task.
        work: yields its progress, and is given a function that says whether to stop.
        title: of the progress.
        caption: below it.
        left: what is said after a stop.
    """
    tasks = _tasks()
    if key not in tasks:
        tasks[key] = BackgroundTask(work)
        tasks[key].wait(1.0)
    snapshot = tasks[key].snapshot()
    if snapshot.running:
        _show_progress(tasks[key], title, caption)
        st.stop()
    tasks.pop(key, None)
    if snapshot.details:
        _LOG.error(snapshot.details)
    if snapshot.error:
        raise HiploraError(snapshot.error)
    if snapshot.stopped:
        st.info(f"Stopped; {left}")
        st.button("Continue", type="primary")
        st.stop()


def background_table(
    key: Hashable,
    make: Callable[[], Iterator[pd.DataFrame]],
    rows: Callable[[], int],
    label: str,
    unit: str = "edits",
) -> pd.DataFrame | None:
    """Show a button, then the progress of a table that grows in the background, and return it when it is whole.

    The work survives a page switch, is shared by sessions that ask for the same, and is kept.

    Args:
        key: of what is computed.
        make: yields the table as it grows.
        rows: says how many it will have; called once, in the background.
        label: of the button.
        unit: what a row is, in the plural.
    """
    tasks = _tables()
    if key not in tasks:
        if not st.button(label, type="primary", icon=":material/play_arrow:", key=f"start-{label}"):
            return None
        for old in [each for each, task in tasks.items() if not task.snapshot().running][:-_KEPT_TABLES]:
            tasks.pop(old, None)
        tasks[key] = BackgroundTask(lambda stopped: _until(make(), rows(), stopped))
        # The button goes away.
        st.rerun()
    task = tasks[key]
    snapshot = task.snapshot()
    if snapshot.running:
        _show_rows(task, label, unit)
        return None
    if snapshot.error or snapshot.stopped:
        # Another session may have seen the same end.
        tasks.pop(key, None)
    if snapshot.details:
        _LOG.error(snapshot.details)
    if snapshot.error:
        raise HiploraError(snapshot.error)
    if snapshot.stopped:
        st.button(label, type="primary", icon=":material/play_arrow:", key=f"start-{label}")
        return None
    return None if snapshot.latest is None else snapshot.latest[1]


def _until(made: Iterator[pd.DataFrame], rows: int, stopped: Callable[[], bool]) -> Iterator[_Growing]:
    for place, table in enumerate(made):
        if place == 0:
            # The last of what it imports: see `_show_rows`.
            freeze_imports()
        yield rows, table
        if stopped():
            return


@st.fragment(run_every=0.5)
def _show_rows(task: BackgroundTask[_Growing], label: str, unit: str) -> None:
    snapshot = task.snapshot()
    if not snapshot.running:
        st.rerun()
    if snapshot.latest is None:
        # Streamlit collects garbage after each run, and would look through all that the work is importing.
        freeze_imports()
        st.progress(0.0, f"{label}: getting ready…")
    else:
        rows, table = snapshot.latest
        st.progress(len(table) / rows, f"{label}: {len(table)} of {rows} {unit}")
    if st.button("Stop", key=f"stop-{label}"):
        task.stop()


@st.cache_resource
def _tables() -> dict[Hashable, BackgroundTask[_Growing]]:
    return {}


@st.fragment(run_every=0.5)
def _show_progress(task: BackgroundTask[Progress], title: str, caption: str) -> None:
    snapshot = task.snapshot()
    if not snapshot.running:
        st.rerun()
    st.subheader(title)
    st.caption(plain(caption))
    progress = snapshot.latest
    if progress is None:
        st.progress(0.0, "Getting ready…")
    else:
        left = "" if progress.remaining is None else f", about {progress.remaining:.0f} s left"
        st.progress(progress.share, f"{progress.done} of {progress.total} maps{left}")
    if st.button("Stop", help="What is finished is kept."):
        task.stop()


@st.cache_resource
def _tasks() -> dict[object, BackgroundTask[Progress]]:
    return {}


def _base(base: str, download: bool) -> Study:
    """Return the study of a base without adapters, opened again when its files have changed."""
    opened, identity = _open(base, download)
    try:
        unchanged = opened.base.identity == identity
    except OSError:
        unchanged = False
    if not unchanged:
        _open.clear(base, download)
        opened, _ = _open(base, download)
    return opened


@st.cache_resource(max_entries=4, show_spinner="Opening the base model…")
def _open(base: str, download: bool) -> tuple[Study, _Identity]:
    model = open_base(base, download=download)
    return Study(BaseSpectra(model), ahead=True, source=base), model.identity
