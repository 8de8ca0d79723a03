"""The four blocks of an update in the singular bases of its weight."""

from dataclasses import dataclass

import numpy as np

from hiplora.adapters import Delta


@dataclass(frozen=True)
class Channels:
    """Energies `||.||_F^2` of an update along the leading singular directions of its weight, and in the four blocks.

    The blocks add up to `total`. The mixed ones come by difference, so all is in float64.

    Attributes:
        core: `C = U_k^T dW V_k`, (k, k).
        left: `||u_i^T dW||^2` on each left direction, (k,).
        right: `||dW v_i||^2` on each right direction, (k,).
        total: `||dW||^2`.
    """

    core: np.ndarray
    left: np.ndarray
    right: np.ndarray
    total: float

    @property
    def pp(self) -> float:
        """`||U_k^T dW V_k||^2`, inside the principal block."""
        return float(np.sum(self.core**2))

    @property
    def pr(self) -> float:
        """`||U_k^T dW (I - V_k V_k^T)||^2`."""
        return max(float(self.left.sum()) - self.pp, 0.0)

    @property
    def rp(self) -> float:
        """`||(I - U_k U_k^T) dW V_k||^2`."""
        return max(float(self.right.sum()) - self.pp, 0.0)

    @property
    def rr(self) -> float:
        """The rest, in the complement on both sides."""
        return max(self.total - float(self.left.sum() + self.right.sum()) + self.pp, 0.0)

    def share(self, block: str) -> float:
        """Return a block's share of the energy; NaN for an update of zeros."""
        return float(getattr(self, block)) / self.total if self.total > 0 else float("nan")

    @property
    def left_share(self) -> float:
        """Share of the energy on the leading left directions, `PP + PR`; NaN for an update of zeros."""
        return self.share("pp") + self.share("pr")

    @property
    def right_share(self) -> float:
        """Share of the energy on the leading right directions, `PP + RP`; NaN for an update of zeros."""
        return self.share("pp") + self.share("rp")

    def truncate(self, k: int) -> "Channels":
        """Return the energies of the leading `k` directions.

        Raises:
            ValueError: `k` is not between 1 and the present one.
        """
        if not 1 <= k <= len(self.core):
            raise ValueError(f"k must be between 1 and {len(self.core)}, got {k}")
        return Channels(self.core[:k, :k], self.left[:k], self.right[:k], self.total)


def channels(delta: Delta, Ut: np.ndarray, Vt: np.ndarray) -> Channels:
    """Split an update by the principal subspaces.

    Args:
        delta: (m, n).
        Ut: (k, m), left singular vectors as rows.
        Vt: (k, n), right singular vectors as rows.
    """
    Ut, Vt = np.asarray(Ut, dtype=np.float64), np.asarray(Vt, dtype=np.float64)
    rows, columns = delta.project(Ut), delta.project(Vt=Vt)
    return Channels(rows.project(Vt=Vt).dense(), rows.row_energy(), columns.column_energy(), delta.energy)
