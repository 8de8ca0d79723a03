"""Two updates on one weight: their similarity, and the share of the budget that their sum would spend."""

from itertools import combinations

import numpy as np
import pandas as pd

from hiplora.adapters import Delta
from hiplora.budget import budget_cost, tightness
from hiplora.spectrum import Spectrum
from hiplora.spectrum.blas import one_blas_thread


@one_blas_thread()
def pair_table(
    spectrum: Spectrum, deltas: dict[str, Delta], k: int, epsilon: float, power: float = 1.0
) -> pd.DataFrame:
    """Return one row per pair of updates on one weight.

    Columns: `first, second, cosine` (of the updates), `cosine_pp, cosine_rr` (of their principal and residual blocks),
    `overlap_left, overlap_right` (`||Q1^T Q2||_F^2 / min(r1, r2)` of their column and row spaces, 0 to 1) and
    `joint_tightness` (of `C1 + C2`). NaN where a part is zero.

    Args:
        spectrum: at least `k` triplets of the weight, or all.
        deltas: `{name: update}`, each (m, n).
        k: principal rank.
        epsilon: budget.
        power: `p` of the budget's weights.
    """
    head = spectrum.truncate(min(k, *spectrum.shape))
    Ut, Vt = head.Ut.astype(np.float64), head.Vt.astype(np.float64)
    rows = {name: delta.project(Ut) for name, delta in deltas.items()}
    columns = {name: delta.project(Vt=Vt) for name, delta in deltas.items()}
    cores = {name: part.project(Vt=Vt).dense() for name, part in rows.items()}

    def inner(a: str, b: str) -> np.ndarray:
        """Return the inner products of the whole, the principal and the residual block."""
        whole, core = deltas[a].inner(deltas[b]), float(np.sum(cores[a] * cores[b]))
        return np.array([whole, core, whole - rows[a].inner(rows[b]) - columns[a].inner(columns[b]) + core])

    own = {name: inner(name, name) for name in deltas}
    found = []
    for a, b in combinations(deltas, 2):
        # A block below rounding of the whole counts as missing: its cosine would be noise. The residual one comes by
        # difference, on float32 vectors.
        scale = np.sqrt(np.maximum(own[a], 0) * np.maximum(own[b], 0))
        floor = np.array([1e-12, 1e-12, 1e-6]) * np.sqrt(own[a][0] * own[b][0])
        cosine, cosine_pp, cosine_rr = np.where(scale > floor, inner(a, b) / np.where(scale > floor, scale, 1), np.nan)
        found.append(
            {
                "first": a,
                "second": b,
                "cosine": cosine,
                "cosine_pp": cosine_pp,
                "cosine_rr": cosine_rr,
                "overlap_left": _overlap(deltas[a], deltas[b], 0),
                "overlap_right": _overlap(deltas[a], deltas[b], 1),
                "joint_tightness": tightness(budget_cost(cores[a] + cores[b], head.sigma, power), epsilon),
            }
        )
    return pd.DataFrame(found)


def _overlap(first: Delta, second: Delta, side: int) -> float:
    """Return `||Q1^T Q2||_F^2 / min(r1, r2)` of the column (0) or row (1) spaces, at their numerical ranks."""
    Q1, Q2 = (_space(delta, side) for delta in (first, second))
    smallest = min(Q1.shape[1], Q2.shape[1])
    return float(np.sum((Q1.T @ Q2) ** 2)) / smallest if smallest else float("nan")


def _space(delta: Delta, side: int) -> np.ndarray:
    left, s, right_t = delta.compact_svd
    kept = s > 1e-10 * s[0]
    return (left if side == 0 else right_t.T)[:, kept]
