"""Two updates on one weight: their similarity, and the share of the budget that their sum would spend."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from hiplora.adapters import Delta
from hiplora.budget import budget_cost, tightness
from hiplora.spectrum import Spectrum
from hiplora.spectrum.blas import one_blas_thread

BLOCKS = ("all", "pp", "pr", "rp", "rr")
"""The whole update, and its four blocks."""
# A block below rounding of the whole counts as missing: its cosine would be noise. All but the first two come by
# difference, on float32 vectors.
_FLOORS = np.array([1e-12, 1e-12, 1e-6, 1e-6, 1e-6])


@dataclass(frozen=True)
class Blocks:
    """One update of a weight in the directions of its spectrum.

    Attributes:
        whole: (m, n).
        rows: `U_k^T dW`, (k, n).
        columns: `dW V_k`, (m, k).
        core: `U_k^T dW V_k`, (k, k).
    """

    whole: Delta
    rows: Delta
    columns: Delta
    core: np.ndarray

    @classmethod
    def of(cls, delta: Delta, head: Spectrum) -> "Blocks":
        """Return the blocks of an update in the directions of a spectrum of `k` triplets."""
        Ut, Vt = head.Ut.astype(np.float64), head.Vt.astype(np.float64)
        rows = delta.project(Ut)
        return cls(delta, rows, delta.project(Vt=Vt), rows.project(Vt=Vt).dense())

    def inner(self, other: "Blocks") -> np.ndarray:
        """Return the inner products of the two updates and of their blocks, in the order of `BLOCKS`, (5,)."""
        whole, core = self.whole.inner(other.whole), float(np.sum(self.core * other.core))
        pr, rp = self.rows.inner(other.rows) - core, self.columns.inner(other.columns) - core
        return np.array([whole, core, pr, rp, whole - pr - rp - core])

    def cosines(self, other: "Blocks") -> np.ndarray:
        """Return the cosines of the two updates and of their blocks, (5,); NaN where one has no such part."""
        own = [np.maximum(each.inner(each), 0) for each in (self, other)]
        scale = np.sqrt(own[0] * own[1])
        held = scale > _FLOORS * scale[0]
        return np.where(held, self.inner(other) / np.where(held, scale, 1), np.nan)


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
    blocks = {name: Blocks.of(delta, head) for name, delta in deltas.items()}
    found = []
    for a, b in combinations(deltas, 2):
        cosine = dict(zip(BLOCKS, blocks[a].cosines(blocks[b]), strict=True))
        left, right = overlaps(deltas[a], deltas[b])
        found.append(
            {
                "first": a,
                "second": b,
                "cosine": cosine["all"],
                "cosine_pp": cosine["pp"],
                "cosine_rr": cosine["rr"],
                "overlap_left": left,
                "overlap_right": right,
                "joint_tightness": tightness(budget_cost(blocks[a].core + blocks[b].core, head.sigma, power), epsilon),
            }
        )
    return pd.DataFrame(found)


def overlaps(first: Delta, second: Delta) -> tuple[float, float]:
    """Return `||Q1^T Q2||_F^2 / min(r1, r2)` of the column and of the row spaces of two updates; NaN for zeros."""
    return _overlap(first, second, 0), _overlap(first, second, 1)


def _overlap(first: Delta, second: Delta, side: int) -> float:
    """Return `||Q1^T Q2||_F^2 / min(r1, r2)` of the column (0) or row (1) spaces, at their numerical ranks."""
    Q1, Q2 = (_space(delta, side) for delta in (first, second))
    smallest = min(Q1.shape[1], Q2.shape[1])
    return float(np.sum((Q1.T @ Q2) ** 2)) / smallest if smallest else float("nan")


def _space(delta: Delta, side: int) -> np.ndarray:
    left, s, right_t = delta.compact_svd
    kept = s > 1e-10 * s[0]
    return (left if side == 0 else right_t.T)[:, kept]
