"""Short forms of a study: one table from names, in one call."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from hiplora.adapters import Update
from hiplora.study import open_study


def analyze(
    base: str | Path,
    adapters: Sequence[str | Path | Update],
    k: int = 16,
    *,
    epsilon: float | None = None,
    power: float = 1.0,
    intruders: bool = False,
) -> pd.DataFrame:
    """Return `open_study(...).layers()`: one row per adapter and module.

    Args:
        base: a folder, a known name (`demo`) or a hub name that was fetched before.
        adapters: adapter folders, runs, names of the demo's adapters, or open updates.
        k: principal rank.
        epsilon: budget for all; None for each adapter's own.
        power: `p` of the budget's weights.
        intruders: whether to count intruder dimensions too, which needs complete spectra.

    Raises:
        HiploraError: something cannot be read or does not fit, or a value is out of range.
    """
    study = open_study(base, adapters, k, epsilon=epsilon, power=power)
    return study.layers(optional=["intruders"] if intruders else [])


def directions(base: str | Path, adapters: Sequence[str | Path | Update], module: str, k: int = 16) -> pd.DataFrame:
    """Return `open_study(...).directions(module)`: one row per adapter and singular direction of one weight.

    Args:
        base: as in `analyze`.
        adapters: as in `analyze`; those that leave the module alone have no rows.
        module: name of the module in the base.
        k: how many directions at least.

    Raises:
        HiploraError: something cannot be read or does not fit, or no adapter changes the module.
    """
    return open_study(base, adapters, k).directions(module)


def sweep(base: str | Path, adapters: Sequence[str | Path | Update], module: str, k: int = 16) -> pd.DataFrame:
    """Return `open_study(...).sweep(module)`: one row per adapter and principal rank. As `directions` otherwise."""
    return open_study(base, adapters, k).sweep(module)


def compare(
    base: str | Path,
    first: str | Path | Update,
    second: str | Path | Update,
    k: int = 16,
    *,
    epsilon: float | None = None,
    power: float = 1.0,
) -> pd.DataFrame:
    """Return `open_study(...).compare(...)`: one row per module that either of two adapters changes.

    Args:
        base: as in `analyze`.
        first: adapter A.
        second: adapter B.
        k: principal rank.
        epsilon: budget of the joint tightness; None for the smaller of the adapters' own.
        power: `p` of the budget's weights.

    Raises:
        HiploraError: something cannot be read or does not fit, or a value is out of range.
    """
    study = open_study(base, [first, second], k, epsilon=epsilon, power=power)
    return study.compare(*study.names)


def octaves(base: str | Path, adapters: Sequence[str | Path | Update], k: int = 16) -> pd.DataFrame:
    """Return `open_study(...).octaves()`: the energy of all modules together by octave of direction.

    Args:
        base: as in `analyze`.
        adapters: as in `analyze`.
        k: how many directions at least.

    Raises:
        HiploraError: something cannot be read, or does not fit.
    """
    return open_study(base, adapters, k).octaves()


def playback(
    base: str | Path, checkpoints: Mapping[int, str | Path], module: str, k: int = 16, *, run: str = ""
) -> pd.DataFrame:
    """Return `open_study(...).playback_of(...)`: one weight's update at each checkpoint.

    Args:
        base: as in `analyze`.
        checkpoints: `{step: adapter folder}`.
        module: name of the module in the base.
        k: how many directions at least.
        run: name, for the table.

    Raises:
        HiploraError: something cannot be read or does not fit, or a checkpoint leaves the module alone.
    """
    return open_study(base, (), k).playback_of(checkpoints, module, name=run)
