"""Task singular vectors: the leading triplets of each update, made orthogonal to those of the others."""

from collections.abc import Sequence

import numpy as np

from hiplora.adapters import Delta, LowRankDelta
from hiplora.merging.space import numerical_rank, thin_svd
from hiplora.merging.way import Site, Way


def _merge(deltas: Sequence[Delta], site: Site) -> Delta:
    """Return `polar(U) S polar(V)^T` of the stacked leading triplets of all updates.

    Of each update `floor(min(m, n) / T)` triplets are kept, which for a LoRA is all of them. Those of zero have no
    directions and are left out, and an update of zeros is not one of the `T`: for updates of full rank this is the
    published way, for low-rank ones the result would depend on the SVD's choice of vectors that do not matter.
    """
    triplets = [each for each in map(thin_svd, deltas) if each[1][0] > 0]
    if not triplets:
        return LowRankDelta.zero(deltas[0].shape)
    kept = max(min(deltas[0].shape) // len(triplets), 1)
    left = np.hstack([P[:, :kept] for P, _, _ in triplets])
    s = np.concatenate([values[:kept] for _, values, _ in triplets])
    right = np.hstack([Qt[:kept].T for _, _, Qt in triplets])
    # The vectors of the smallest values are known this many times less well than those of the largest.
    condition = max(values[0] / values[:kept][-1] for _, values, _ in triplets)
    return LowRankDelta(_polar(left, condition) * s, _polar(right, condition).T)


def _polar(matrix: np.ndarray, condition: float) -> np.ndarray:
    """Return the nearest matrix with orthonormal columns (orthogonal Procrustes).

    Where updates share a space, columns depend on each other and that matrix is arbitrary beyond what they span: there
    it has nothing, so that an update given twice comes out once (our choice).
    """
    P, s, Qt = np.linalg.svd(matrix, full_matrices=False)
    held = numerical_rank(s, max(matrix.shape) * condition)
    return P[:, :held] @ Qt[:held]


WAY = Way(
    "tsv",
    "Task singular vectors",
    r"\Delta W = \operatorname{polar}([U_1 \cdots U_T])\,\operatorname{diag}(S_1, \dots, S_T)\,"
    r"\operatorname{polar}([V_1 \cdots V_T])^\top",
    "Turns the singular vectors of the updates as little as makes them orthogonal to each other, and adds; stays of "
    "low rank.",
    "TSV-M: Gargiulo et al., CVPR 2025 (arXiv 2412.00081)",
    _merge,
)
