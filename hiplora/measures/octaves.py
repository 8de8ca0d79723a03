"""All modules together, octave by octave of their singular directions."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hiplora.adapters import Placement
from hiplora.measures.null import Side, bands, beta_band, null_of
from hiplora.spectrum import BaseSpectra
from hiplora.spectrum.blas import one_blas_thread

_SIDES: tuple[Side, ...] = ("left", "right")


def octave_table(spectra: BaseSpectra, placements: Sequence[Placement], k: int) -> pd.DataFrame:
    """Return one row per adapter and octave (1, 2, 3-4, 5-8, ...) of the direction's place in its own weight.

    Columns: `adapter, start, end` (directions, from 1; in the last row of an adapter `start` is 0 and `end` missing:
    everything beyond the known directions) and, for each side, the share of the energy of all modules together with its
    isotropic null: `left, left_null, left_null_low, left_null_high, right, ...` (95 %). Modules of all sizes are added
    by energy: a module with fewer directions adds those it has, to the share and to the null alike.
    The shares of an adapter add up to 1. Our choice.

    Args:
        spectra: of the base.
        placements: the updates on that base.
        k: least number of directions; all if the cache keeps all.

    Raises:
        HiploraError: an update holds NaN.
    """
    with one_blas_thread():
        parts = [_of_one(spectra, placement, k) for placement in placements]
    table = pd.concat(parts, ignore_index=True).astype({"end": "Int64"})
    return table.astype({"adapter": pd.CategoricalDtype([placement.update.name for placement in placements])})


def _of_one(spectra: BaseSpectra, placement: Placement, k: int) -> pd.DataFrame:
    found = []
    longest = 0
    for weight, delta in placement:
        spectrum = spectra.at_least(weight, k)
        Ut, Vt = spectrum.Ut.astype(np.float64), spectrum.Vt.astype(np.float64)
        energies_on = {"left": delta.project(Ut).row_energy(), "right": delta.project(Vt=Vt).column_energy()}
        energy = delta.energy
        longest = max(longest, spectrum.k)
        first = np.array(_starts(spectrum.k)) - 1
        counts = np.diff([*first, spectrum.k])
        reach = bands(spectrum, first)
        module_shares = {}
        for side, size in zip(_SIDES, spectrum.shape, strict=True):
            shares = np.add.reduceat(energies_on[side], first) / (energy or np.nan)
            null = null_of(np.append(counts, size - spectrum.k), spectrum.shape, delta.parts, side, reach)
            module_shares[side] = (np.append(shares, max(1 - shares.sum(), 0.0)), null.mean, null.sd)
        found.append((energy, module_shares))
    energies = np.array([energy for energy, _ in found])
    octaves = max(len(shares["left"][0]) for _, shares in found) - 1
    columns: dict[str, object] = {
        "adapter": placement.update.name,
        "start": [*_starts(2 ** (octaves - 1)), 0],
        "end": [*(min(2**i, longest) for i in range(octaves)), None],
    }
    for side in _SIDES:
        share, mean, variance = (np.zeros(octaves + 1) for _ in range(3))
        for part, (_, of_module) in zip(energies / (energies.sum() or np.nan), found, strict=True):
            # The shares of a zero update are not defined, and it adds nothing to the sum.
            here, null_mean, null_sd = (np.nan_to_num(values) for values in of_module[side])
            places = [*range(len(here) - 1), octaves]
            share[places] += part * here
            mean[places] += part * null_mean
            variance[places] += (part * null_sd) ** 2
        null = beta_band(mean, variance)
        columns |= {
            side: share,
            f"{side}_null": null.mean,
            f"{side}_null_low": null.low,
            f"{side}_null_high": null.high,
        }
    return pd.DataFrame(columns)


def _starts(last: int) -> list[int]:
    """Return the first direction of each octave up to direction `last`: 1, 2, 3, 5, 9, ..."""
    return [1, *(2**i + 1 for i in range((last - 1).bit_length()))]
