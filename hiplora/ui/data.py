"""From the sidebar's choices to open models and tables: cached, prepared in the background, and stoppable."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from hiplora.adapters import Adapter, name_apart, read_adapter
from hiplora.analysis import layer_tables, played
from hiplora.errors import HiploraError
from hiplora.measures import (
    Measurement,
    card_table,
    changed_weights,
    difference_table,
    frontier_table,
    layer_table,
    matched_weights,
    measure_layers,
    octave_table,
)
from hiplora.paths import RUN_FILE, demo_adapters, demo_base
from hiplora.sources import BaseModel, Weight, open_base
from hiplora.spectrum.prepare import BaseSpectra, Progress
from hiplora.training.methods import METHODS
from hiplora.training.run import Run, list_runs
from hiplora.ui import runs
from hiplora.ui.background import BackgroundTask
from hiplora.ui.session import Session
from hiplora.ui.text import plain

_STEP = 64
"""What is measured at one `k` is at hand for all up to the next multiple."""
_LOG = logging.getLogger(__name__)
_Identity = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Loaded:
    """What the choices stand for, opened.

    Attributes:
        session: the choices.
        spectra: of the base.
        adapters: those that fit the base, in the order chosen.
        strangers: those that do not, with the sentence that says why.
        problems: one sentence for each adapter that cannot be read.
    """

    session: Session
    spectra: BaseSpectra
    adapters: list[Adapter]
    strangers: list[tuple[Adapter, str]]
    problems: list[str]

    @property
    def base(self) -> BaseModel:
        """The base model."""
        return self.spectra.base

    @property
    def weights(self) -> list[Weight]:
        """The matrices that the adapters change.

        Raises:
            HiploraError: `k` is larger than one of them.
        """
        return changed_weights(self.base, self.adapters, self.session.k)


def load(session: Session) -> Loaded:
    """Open the base and the adapters. One adapter that cannot be used does not keep the others from being shown.

    Raises:
        HiploraError: the base cannot be opened.
    """
    spectra = _spectra(session.base, session.download)
    adapters, strangers, problems = [], [], []
    for path in session.adapters:
        try:
            adapters.append(read_adapter(path))
        except HiploraError as error:
            problems.append(str(error))
    fitting = []
    for adapter in name_apart(adapters):
        try:
            matched_weights(spectra.base, adapter)
            fitting.append(adapter)
        except HiploraError as error:
            strangers.append((adapter, str(error)))
    return Loaded(session, spectra, fitting, strangers, problems)


def show_problems(loaded: Loaded) -> None:
    """Show one sentence for each adapter that cannot be read."""
    for problem in loaded.problems:
        st.error(plain(problem), icon=":material/error:")


def require_adapters(loaded: Loaded) -> None:
    """Show what is wrong with the chosen adapters, and stop the page here when none is left to be shown."""
    show_problems(loaded)
    for _, reason in loaded.strangers:
        st.warning(plain(reason), icon=":material/link_off:")
    if not loaded.adapters:
        st.info("Choose an adapter of this base in the sidebar.", icon=":material/arrow_back:")
        st.stop()


def read_cards(loaded: Loaded) -> list[dict[str, Any]]:
    """Return the card of each adapter, empty where there is none; a damaged one is said to be."""
    found = []
    for adapter in loaded.adapters:
        try:
            found.append(adapter.card)
        except HiploraError as error:
            st.warning(plain(str(error)), icon=":material/error:")
            found.append({})
    return found


def measured(loaded: Loaded, *, intruders: bool = False) -> list[Measurement]:
    """Return the measurements of all adapters, or show the preparation of the spectra in place of the page.

    An adapter that cannot be measured (NaN) is left out, and said to be.

    Raises:
        HiploraError: `k` is larger than a layer.
    """
    k = loaded.session.k
    prepare(loaded, None if intruders else k)
    smallest = min(min(weight.shape) for weight in loaded.weights)
    head = min(-(-k // _STEP) * _STEP, smallest)
    found = []
    with st.spinner("Measuring…", show_time=True):
        for adapter in list(loaded.adapters):
            try:
                found += _truncated(
                    loaded.base.identity, _identity(adapter), k, head, intruders, loaded.spectra, adapter
                )
            except HiploraError as error:
                loaded.adapters.remove(adapter)
                st.error(plain(str(error)), icon=":material/error:")
    if not found:
        st.stop()
    return found


def layers(loaded: Loaded, *, power: float = 1.0, intruders: bool = False) -> pd.DataFrame:
    """Return the layer table of all adapters under the session's budget."""
    return layer_table(measured(loaded, intruders=intruders), epsilon=loaded.session.epsilon, power=power)


def one_layer(loaded: Loaded, module: str, table: Callable[..., pd.DataFrame]) -> pd.DataFrame:
    """Return the direction or sweep table of one module for all adapters that change it."""
    identities = tuple(_identity(adapter) for adapter in loaded.adapters)
    # The tables reach as far as the spectrum that is stored, whichever k is marked in them.
    k = loaded.spectra.cache.stored_k(loaded.base.weights[module].shape, loaded.session.k)
    return _one_layer(loaded.base.identity, identities, module, k, table.__name__, loaded, table)


def differences(loaded: Loaded, first: Adapter, second: Adapter) -> pd.DataFrame:
    """Return the difference table of two adapters under the session's budget."""
    session = loaded.session
    identities = _identity(first), _identity(second)
    return _differences(loaded.base.identity, *identities, session.k, session.epsilon, loaded.spectra, first, second)


def octaves(loaded: Loaded) -> pd.DataFrame:
    """Return the octave table of all adapters."""
    identities = tuple(_identity(adapter) for adapter in loaded.adapters)
    return _octaves(loaded.base.identity, identities, loaded.session.k, loaded)


def cards(loaded: Loaded, made: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the card table of the chosen adapters.

    Args:
        loaded: what is shown.
        made: their cards, from `read_cards`.
    """
    return card_table(loaded.adapters, made, _method_titles())


def scored(loaded: Loaded, chosen: pd.DataFrame) -> tuple[pd.DataFrame, list[Path]]:
    """Return the frontier of all that is at hand on this base, and the folders it was read from.

    At hand are the chosen adapters, this base's runs, and the demo world's adapters when it is the base.

    Args:
        loaded: what is shown.
        chosen: their cards, from `cards`.
    """
    shipped = demo_adapters() if loaded.base.path == demo_base() else []
    paths = {adapter.home.resolve() for adapter in loaded.adapters}
    names = {adapter.name for adapter in loaded.adapters}
    others = []
    for path in [*shipped, *(run.path for run in runs_on(loaded))]:
        if path.resolve() in paths:
            continue
        try:
            adapter = read_adapter(path)
            # The card is read here: one that is damaged leaves its adapter out.
            others.append((adapter, adapter.card))
        except HiploraError:
            continue
        paths.add(path.resolve())
        if adapter.name in names:
            adapter.name = f"{path.resolve().parent.name}/{adapter.name}"
    rows = card_table([adapter for adapter, _ in others], [card for _, card in others], _method_titles())
    folders = [adapter.path for adapter in loaded.adapters] + [adapter.path for adapter, _ in others]
    return frontier_table(pd.concat([chosen, rows], ignore_index=True) if len(rows) else chosen), folders


def runs_on(loaded: Loaded) -> list[Run]:
    """Return the runs that were trained on this base, the newest first."""
    return [run for run in list_runs() if runs.same_base(run.config.base, loaded.session.base)]


def playable_runs(loaded: Loaded) -> dict[str, Run]:
    """Return the runs with two checkpoints or more by name: first those chosen as adapters, then the others here."""
    found: dict[str, Run] = {}
    seen = set()
    for adapter in loaded.adapters:
        if (adapter.home / RUN_FILE).is_file():
            try:
                found[adapter.name] = Run(adapter.home)
            except HiploraError:
                continue
            seen.add(adapter.home.resolve())
    for run in runs_on(loaded):
        if run.path.resolve() not in seen:
            found[run.name if run.name not in found else f"{run.path.resolve().parent.name}/{run.name}"] = run
    return {name: run for name, run in found.items() if len(run.checkpoints) > 1}


def training(loaded: Loaded, run: Run, module: str) -> pd.DataFrame:
    """Return the checkpoint table of a run for one module, coloured as the adapter of that run if it is among them.

    Raises:
        HiploraError: a checkpoint cannot be read or leaves the module alone.
    """
    steps = tuple((c.step, str(c.path), (c.path / "adapter_config.json").stat().st_mtime_ns) for c in run.checkpoints)
    table = _training(loaded.base.identity, steps, module, loaded.session.k, loaded)
    at_home = {adapter.home.resolve(): adapter.name for adapter in loaded.adapters}
    name = at_home.get(run.path.resolve(), run.name)
    order = pd.CategoricalDtype(list(dict.fromkeys([*(adapter.name for adapter in loaded.adapters), name])))
    return table.assign(run=name).astype({"run": order})


def prepare(loaded: Loaded, k: int | None) -> None:
    """Make sure that the spectra are there; while they are computed, show how far that is and stop the page here."""
    weights = loaded.weights
    # By what is computed, not by what is asked for: steps of k, stops and page switches then meet the same job.
    stored = frozenset((weight.module, loaded.spectra.cache.stored_k(weight.shape, k)) for weight in weights)
    key = (loaded.base.identity, stored)
    jobs = _jobs()
    missing = loaded.spectra.missing(weights, k)
    if not missing:
        jobs.pop(key, None)
        return
    if key not in jobs:
        jobs[key] = BackgroundTask(lambda stopped: loaded.spectra.prepare(missing, k, stopped))
        jobs[key].wait(1.0)
    snapshot = jobs[key].snapshot()
    if snapshot.running:
        _show_progress(jobs[key], loaded.base.name)
        st.stop()
    jobs.pop(key, None)
    if snapshot.details:
        _LOG.error(snapshot.details)
    if snapshot.error:
        raise HiploraError(snapshot.error)
    if snapshot.stopped:
        st.info(f"Stopped with {len(missing)} spectra of {plain(loaded.base.name)} to go. What is done is kept.")
        st.button("Go on", type="primary")
        st.stop()


@st.fragment(run_every=0.5)
def _show_progress(job: BackgroundTask[Progress], name: str) -> None:
    snapshot = job.snapshot()
    if not snapshot.running:
        st.rerun()
    st.subheader(f"Decomposing {plain(name)}")
    st.caption("Once per weight: the singular vectors are kept on disk and shared by every page, adapter and session.")
    progress = snapshot.latest
    if progress is None:
        st.progress(0.0, "Looking at the weights…")
    else:
        left = "" if progress.remaining is None else f", about {progress.remaining:.0f} s left"
        st.progress(progress.share, f"{progress.done} of {progress.total} weights{left}")
    if st.button("Stop", help="What is done is kept."):
        job.stop()


@st.cache_resource
def _jobs() -> dict[object, BackgroundTask[Progress]]:
    return {}


def _spectra(base: str, download: bool) -> BaseSpectra:
    """Return the open base; opened again when its files have changed."""
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
def _open(base: str, download: bool) -> tuple[BaseSpectra, _Identity]:
    model = open_base(base, download=download)
    return BaseSpectra(model), model.identity


def _identity(adapter: Adapter) -> tuple[str, str, int, int, int]:
    weights, config = adapter.tensors.path.stat(), (adapter.path / "adapter_config.json").stat()
    return adapter.name, str(adapter.path.resolve()), weights.st_size, weights.st_mtime_ns, config.st_mtime_ns


@st.cache_resource(max_entries=16, show_spinner=False)
def _measured(
    base: _Identity, adapter: tuple[object, ...], k: int, intruders: bool, _spectra: BaseSpectra, _adapter: Adapter
) -> list[Measurement]:
    return measure_layers(_spectra, [_adapter], k, intruders=intruders)


@st.cache_resource(max_entries=16, show_spinner=False)
def _truncated(
    base: _Identity,
    adapter: tuple[object, ...],
    k: int,
    head: int,
    intruders: bool,
    _spectra: BaseSpectra,
    _adapter: Adapter,
) -> list[Measurement]:
    wide = _measured(base, adapter, head, intruders, _spectra, _adapter)
    return [measurement.truncate(k) for measurement in wide]


@st.cache_data(max_entries=16, show_spinner="Comparing…")
def _differences(
    base: _Identity,
    first: tuple[object, ...],
    second: tuple[object, ...],
    k: int,
    epsilon: float,
    _spectra: BaseSpectra,
    _first: Adapter,
    _second: Adapter,
) -> pd.DataFrame:
    return difference_table(_spectra, _first, _second, k, epsilon=epsilon)


@st.cache_data(max_entries=16, show_spinner="Adding up all modules…")
def _octaves(base: _Identity, adapters: tuple[object, ...], k: int, _loaded: Loaded) -> pd.DataFrame:
    return octave_table(_loaded.spectra, _loaded.adapters, k)


@st.cache_data(max_entries=32, show_spinner="Reading checkpoints…")
def _training(
    base: _Identity, checkpoints: tuple[tuple[int, str, int], ...], module: str, k: int, _loaded: Loaded
) -> pd.DataFrame:
    return played(_loaded.spectra, {step: path for step, path, _ in checkpoints}, module, k)


def _method_titles() -> dict[str, str]:
    return {key: method.title for key, method in METHODS.items()}


@st.cache_data(max_entries=32, show_spinner=False)
def _one_layer(
    base: _Identity,
    adapters: tuple[object, ...],
    module: str,
    k: int,
    table_name: str,
    _loaded: Loaded,
    _table: Callable[..., pd.DataFrame],
) -> pd.DataFrame:
    return layer_tables(_loaded.spectra, _loaded.adapters, module, k, _table)
