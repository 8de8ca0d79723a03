"""SVD-orthogonal merging: each update loses what lies along the merge so far."""

from collections.abc import Sequence

import numpy as np

from hiplora.adapters import Delta
from hiplora.merging.space import as_delta, common_space
from hiplora.merging.way import Site, Way

LEADING = 0.5
"""Share of the sum of singular values that the leading directions of the merge so far hold: `alpha` of the paper."""


def _merge(deltas: Sequence[Delta], site: Site) -> Delta:
    """Add the updates in their order, each without its part along the merge so far.

    With the SVD `U S V^T` of the merge so far the part is the block of `U^T tau V` between the leading directions, and
    its diagonal: afterwards the inner product of both is zero. This is orthogonal projection in OPCM, as in its code,
    without the scaling by time, whose place the weights take. The diagonal ends at the rank of the merge: beyond it the
    pairing of directions is arbitrary.
    """
    if len(deltas) == 1:
        return deltas[0]
    space = common_space(deltas)
    matrices = (delta.dense() if space is None else space.core(delta) for delta in deltas)
    merged = next(matrices)
    for matrix in matrices:
        merged = merged + _without(matrix, merged)
    return as_delta(merged, space)


def _without(matrix: np.ndarray, merged: np.ndarray) -> np.ndarray:
    """Return a matrix without its part along the singular directions of another."""
    U, s, Vt = np.linalg.svd(merged, full_matrices=False)
    held = s > s[0] * max(merged.shape) * np.finfo(np.float64).eps
    U, s, Vt = U[:, held], s[held], Vt[held]
    if not len(s):
        return matrix
    along = U.T @ matrix @ Vt.T
    leading = int(np.argmax(np.cumsum(s) / s.sum() > LEADING))
    part = np.diag(np.diag(along))
    part[:leading, :leading] = along[:leading, :leading]
    return matrix - U @ part @ Vt


WAY = Way(
    "orthogonal",
    "SVD-orthogonal",
    r"\Delta W_t = \Delta W_{t-1} + \tau_t - \mathcal{P}_{\Delta W_{t-1}}(\tau_t)",
    "Adds the updates one after the other, each without what lies along the leading singular directions of the merge "
    "so far; the order matters.",
    "Orthogonal projection of OPCM: Tang et al., NeurIPS 2025 (arXiv 2501.09522), alpha = 0.5, without its scaling",
    _merge,
    ordered=True,
)
