"""From names to tables in one call: what the command line, the pages and a notebook share."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from hiplora.adapters import Adapter, read_adapter, read_adapters
from hiplora.errors import HiploraError
from hiplora.measures import (
    checkpoint_table,
    difference_table,
    direction_table,
    layer_table,
    matched_weights,
    measure_layers,
    octave_table,
    sweep_table,
    update_of,
)
from hiplora.sources import open_base
from hiplora.spectrum.prepare import BaseSpectra


def analyze(
    base: str | Path,
    adapters: Sequence[str | Path],
    k: int = 16,
    *,
    epsilon: float | None = None,
    power: float = 1.0,
    intruders: bool = False,
) -> pd.DataFrame:
    """Return the layer table of adapters on a base: one row per adapter and module.

    Args:
        base: a folder, a known name (`demo`) or a hub name that was fetched before.
        adapters: adapter folders.
        k: principal rank.
        epsilon: budget for all; None for each adapter's own.
        power: `p` of the budget's weights.
        intruders: whether to count intruder dimensions too, which needs complete spectra.

    Raises:
        HiploraError: something cannot be read, or does not fit.
    """
    spectra = BaseSpectra(open_base(base))
    measured = measure_layers(spectra, read_adapters(adapters), k, intruders=intruders)
    return layer_table(measured, epsilon=epsilon, power=power)


def directions(base: str | Path, adapters: Sequence[str | Path], module: str, k: int = 16) -> pd.DataFrame:
    """Return the direction table of one module: one row per adapter and singular direction known of its weight.

    Args:
        base: as in `analyze`.
        adapters: adapter folders; those that leave the module alone have no rows.
        module: name of the module in the base.
        k: how many directions at least.

    Raises:
        HiploraError: something cannot be read or does not fit, or no adapter changes the module.
    """
    return layer_tables(BaseSpectra(open_base(base)), read_adapters(adapters), module, k, direction_table)


def sweep(base: str | Path, adapters: Sequence[str | Path], module: str, k: int = 16) -> pd.DataFrame:
    """Return the k-sweep of one module: one row per adapter and principal rank. As `directions` otherwise."""
    return layer_tables(BaseSpectra(open_base(base)), read_adapters(adapters), module, k, sweep_table)


def compare(
    base: str | Path,
    first: str | Path,
    second: str | Path,
    k: int = 16,
    *,
    epsilon: float | None = None,
    power: float = 1.0,
) -> pd.DataFrame:
    """Return the difference table of two adapters: one row per module that either changes (see `difference_table`).

    Args:
        base: as in `analyze`.
        first: adapter folder.
        second: adapter folder.
        k: principal rank.
        epsilon: budget of the joint tightness; None for the smaller of the adapters' own.
        power: `p` of the budget's weights.

    Raises:
        HiploraError: something cannot be read, or does not fit.
    """
    a, b = read_adapters([first, second])
    return difference_table(BaseSpectra(open_base(base)), a, b, k, epsilon=epsilon, power=power)


def octaves(base: str | Path, adapters: Sequence[str | Path], k: int = 16) -> pd.DataFrame:
    """Return the energy of all modules together by octave of direction: see `octave_table`.

    Args:
        base: as in `analyze`.
        adapters: adapter folders.
        k: how many directions at least.

    Raises:
        HiploraError: something cannot be read, or does not fit.
    """
    return octave_table(BaseSpectra(open_base(base)), read_adapters(adapters), k)


def playback(
    base: str | Path, checkpoints: Mapping[int, str | Path], module: str, k: int = 16, *, run: str = ""
) -> pd.DataFrame:
    """Return where the energy of one module's update lies at each checkpoint: see `checkpoint_table`.

    Args:
        base: as in `analyze`.
        checkpoints: `{step: adapter folder}`.
        module: name of the module in the base.
        k: how many directions at least.
        run: name, for the table.

    Raises:
        HiploraError: something cannot be read or does not fit, or a checkpoint leaves the module alone.
    """
    return played(BaseSpectra(open_base(base)), checkpoints, module, k, run=run)


def played(
    spectra: BaseSpectra, checkpoints: Mapping[int, str | Path], module: str, k: int, *, run: str = ""
) -> pd.DataFrame:
    """Return the table of `playback` on an open base."""
    deltas = {}
    for step, path in checkpoints.items():
        adapter = read_adapter(path)
        places = {weight.module: (name, weight) for name, weight in matched_weights(spectra.base, adapter).items()}
        if module not in places:
            raise HiploraError(f"{adapter.path} leaves {module} alone: choose another module.")
        deltas[step] = update_of(spectra.base, adapter, *places[module])
    weight = spectra.base.weights[module]
    return checkpoint_table(spectra.get(weight, spectra.cache.stored_k(weight.shape, k)), deltas, run)


def layer_tables(
    spectra: BaseSpectra, adapters: Sequence[Adapter], module: str, k: int, table: Callable[..., pd.DataFrame]
) -> pd.DataFrame:
    """Return `table(spectrum, delta, adapter)` of one module for each adapter that changes it, one below the other.

    Args:
        spectra: of the base.
        adapters: open adapters.
        module: name of the module in the base.
        k: how many triplets at least; all where the cache keeps all.
        table: `direction_table` or `sweep_table`.

    Raises:
        HiploraError: no adapter changes the module.
    """
    parts = []
    for adapter in adapters:
        for name, weight in matched_weights(spectra.base, adapter).items():
            if weight.module == module:
                stored = spectra.cache.stored_k(weight.shape, k)
                delta = update_of(spectra.base, adapter, name, weight)
                parts.append(table(spectra.get(weight, stored), delta, adapter.name))
    if not parts:
        raise HiploraError(f"No chosen adapter changes {module}: choose another module.")
    tables = pd.concat(parts, ignore_index=True)
    # The order of all adapters, also of those that leave this module alone: colours go by it.
    order = pd.CategoricalDtype([adapter.name for adapter in adapters])
    return tables.astype({"adapter": order})
