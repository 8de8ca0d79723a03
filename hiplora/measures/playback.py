"""One layer along a training run: the energy of the update by direction at each checkpoint."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from hiplora.adapters import Delta
from hiplora.measures.directions import direction_table
from hiplora.spectrum import Spectrum
from hiplora.spectrum.blas import one_blas_thread


@one_blas_thread()
def checkpoint_table(spectrum: Spectrum, deltas: Mapping[int, Delta], run: str = "") -> pd.DataFrame:
    """Return one row per step and singular direction of the weight, with energies relative to the weight's own.

    Columns: `run, step, direction, left, right` (`||u_i^T dW||^2 / ||W0||_F^2` and `||dW v_i||^2 / ||W0||_F^2`),
    `left_share, right_share` (of the update's energy at that step; NaN while the update is zero), `left_null,
    right_null` (the mean of one direction by chance, in the unit of `left` and `right`), `relative_norm`
    (`||dW||_F / ||W0||_F`). Relative to the weight, so that growth shows too; our choice.

    Args:
        spectrum: k triplets; each step has k rows.
        deltas: `{step: update}`, each (m, n).
        run: name, for the table.
    """
    parts = []
    for step, delta in sorted(deltas.items()):
        table = direction_table(spectrum, delta)
        size = delta.energy / (spectrum.frobenius**2 or float("nan"))
        part = pd.DataFrame({"run": run, "step": step, "direction": table["direction"]})
        for side in ("left", "right"):
            part[side] = table[side].fillna(0.0) * size
            part[f"{side}_share"] = table[side]
            # Of each direction alone: the steps of the cumulative null.
            part[f"{side}_null"] = size * np.diff(table[f"{side}_null"], prepend=0.0)
        parts.append(part.assign(relative_norm=size**0.5))
    return pd.concat(parts, ignore_index=True)
