"""KnOTS: one SVD of all updates side by side, and TIES on what each reads in the common basis."""

from collections.abc import Sequence

import numpy as np

from hiplora.adapters import Delta, LowRankDelta
from hiplora.merging.space import numerical_rank
from hiplora.merging.ties import ties
from hiplora.merging.way import Site, Way


def _merge(deltas: Sequence[Delta], site: Site) -> Delta:
    """Merge `S V_t^T` of `[tau_1 ... tau_T] = U S [V_1^T ... V_T^T]` by TIES; the result has at most the rank of `U`.

    `S V_t^T = U^T tau_t`, so only `U` must be found: of low-rank updates from their factors.
    """
    U = _columns(deltas)
    return LowRankDelta(U, ties([delta.project(U.T).dense for delta in deltas], site.density))


def _columns(deltas: Sequence[Delta]) -> np.ndarray:
    """Return the left singular vectors of the updates side by side, (m, p)."""
    if all(isinstance(delta, LowRankDelta) for delta in deltas):
        # `tau_t = P_t (s_t Q_t^T)` with orthonormal rows, so the right factors leave the left vectors alone.
        parts = [P * s for P, s, _ in (delta.compact_svd for delta in deltas)]
    else:
        parts = [delta.dense() for delta in deltas]
    stack = np.hstack(parts)
    if stack.shape[1] > stack.shape[0]:
        # The triangle of the transposed stack has the same left vectors, and at most m x m entries.
        stack = np.asarray(np.linalg.qr(stack.T, mode="r")).T
    U, s, _ = np.linalg.svd(stack, full_matrices=False)
    return U[:, : numerical_rank(s, max(stack.shape))]


WAY = Way(
    "knots",
    "KnOTS",
    r"[\tau_1 \cdots \tau_T] = U\Sigma[V_1^\top \cdots V_T^\top],\quad "
    r"\Delta W = U\,\mathrm{TIES}(\Sigma V_1^\top, \dots, \Sigma V_T^\top)",
    "Aligns the updates by one SVD of all side by side, then merges what each reads by TIES; stays of low rank.",
    "Stoica et al., ICLR 2025 (arXiv 2410.19735), with TIES on S V_t as in its code",
    _merge,
    density=0.2,
)
