"""From names to tables in one call: what the command line, the pages and a notebook share."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from hiplora.adapters import Adapter, read_adapters
from hiplora.errors import HiploraError
from hiplora.measures import direction_table, layer_table, matched_weights, measure_layers, sweep_table
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
                parts.append(table(spectra.get(weight, stored), adapter.delta(name), adapter.name))
    if not parts:
        raise HiploraError(f"No chosen adapter changes {module}: choose another module.")
    tables = pd.concat(parts, ignore_index=True)
    # The order of all adapters, also of those that leave this module alone: colours go by it.
    order = pd.CategoricalDtype([adapter.name for adapter in adapters])
    return tables.astype({"adapter": order})
