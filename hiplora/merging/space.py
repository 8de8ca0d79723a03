"""The space that updates of one weight have in common: low-rank ones as small matrices, without loss."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hiplora.adapters import Delta, DenseDelta, LowRankDelta


@dataclass(frozen=True)
class CoreSpace:
    """Orthonormal bases of all that several updates write into and read from (Panariello et al., NeurIPS 2025).

    `tau_t = U M_t V^T` with small cores `M_t = U^T tau_t V`: nothing is lost. A way that commutes with orthogonal
    changes of basis on either side gives the same result on the cores as on the matrices, at the cost of a LoRA.

    The bases are the left singular vectors of `[B_1 ... B_T]` and the right ones of `[A_1; ...; A_T]`, with the
    balanced factors of each update, `B = P sqrt(S)` and `A = sqrt(S) Q^T` of its own SVD at its numerical rank: other
    factors of one update may be of any scale and number, and the merge must not depend on it (our choice). Updates of
    zeros have no directions and are left out.

    Attributes:
        U: (m, p).
        V: (n, q).
    """

    U: np.ndarray
    V: np.ndarray

    @classmethod
    def of(cls, deltas: Sequence[Delta]) -> "CoreSpace":
        """Return the space of updates of one shape.

        Args:
            deltas: at least one.
        """
        triplets = [thin_svd(delta) for delta in deltas]
        # Zeros alone keep one direction, which any will do for.
        held = [each for each in triplets if each[1][0] > 0] or triplets[:1]
        columns = np.hstack([P * np.sqrt(s) for P, s, _ in held])
        return cls(_basis(columns), _basis(np.hstack([Qt.T * np.sqrt(s) for _, s, Qt in held])))

    def core(self, delta: Delta) -> np.ndarray:
        """Return `U^T tau V`, (p, q)."""
        return delta.project(self.U.T, self.V.T).dense()

    def back(self, core: np.ndarray) -> LowRankDelta:
        """Return `U M V^T` of a core."""
        # The smaller side is the rank.
        if core.shape[0] <= core.shape[1]:
            return LowRankDelta(self.U, core @ self.V.T)
        return LowRankDelta(self.U @ core, self.V.T)


def common_space(deltas: Sequence[Delta]) -> CoreSpace | None:
    """Return the core space of updates; None where one is not of low rank, or all together fill the weight."""
    low = [delta for delta in deltas if isinstance(delta, LowRankDelta)]
    if len(low) < len(deltas) or sum(delta.rank for delta in low) >= min(low[0].shape):
        return None
    return CoreSpace.of(low)


def thin_svd(delta: Delta) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the singular triplets of an update without those that rounding leaves of a rank that is not there.

    Returns:
        `P (m x r), s (r), Qt (r x n)`; at least one triplet.
    """
    P, s, Qt = delta.compact_svd
    held = numerical_rank(s, max(delta.shape))
    return P[:, :held], s[:held], Qt[:held]


def numerical_rank(s: np.ndarray, size: float) -> int:
    """Return how many singular values are above the rounding of the largest, at least 1.

    Args:
        s: falling.
        size: the larger side of the matrix, times the condition of what it was made from.
    """
    return max(int(np.sum(s > s[0] * size * np.finfo(np.float64).eps)), 1)


def as_delta(core: np.ndarray, space: CoreSpace | None) -> Delta:
    """Return the update that a merged core stands for; a merged matrix, where there is no space, stands for itself."""
    return DenseDelta(core) if space is None else space.back(core)


def _basis(stack: np.ndarray) -> np.ndarray:
    Q, T = np.linalg.qr(stack)
    P, s, _ = np.linalg.svd(T, full_matrices=False)
    return Q @ P[:, : numerical_rank(s, max(stack.shape))]
