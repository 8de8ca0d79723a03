"""The four blocks of an update in the singular bases of its weight."""

from dataclasses import dataclass

import numpy as np

from hiplora.adapters import Delta


@dataclass(frozen=True)
class Channels:
    """Energies `||.||_F^2` of an update split by the principal subspaces; they add up to `total`.

    Attributes:
        pp: `||U_k^T dW V_k||^2`, inside the principal block.
        pr: `||U_k^T dW (I - V_k V_k^T)||^2`.
        rp: `||(I - U_k U_k^T) dW V_k||^2`.
        rr: the rest, in the complement on both sides.
        total: `||dW||^2`.
        core: `C = U_k^T dW V_k`, (k, k), float64.
    """

    pp: float
    pr: float
    rp: float
    rr: float
    total: float
    core: np.ndarray

    def share(self, block: str) -> float:
        """Return a block's share of the energy; NaN for an update of zeros."""
        return float(getattr(self, block)) / self.total if self.total > 0 else float("nan")


def channels(delta: Delta, Ut: np.ndarray, Vt: np.ndarray) -> Channels:
    """Split an update by the principal subspaces. The mixed blocks come by difference, so all is in float64.

    Args:
        delta: (m, n).
        Ut: (k, m), left singular vectors as rows.
        Vt: (k, n), right singular vectors as rows.
    """
    Ut, Vt = np.asarray(Ut, dtype=np.float64), np.asarray(Vt, dtype=np.float64)
    rows = delta.project(Ut)
    core = rows.project(Vt=Vt).dense()
    pp, left, right, total = float(np.sum(core**2)), rows.energy, delta.project(Vt=Vt).energy, delta.energy
    return Channels(
        pp=pp,
        pr=max(left - pp, 0.0),
        rp=max(right - pp, 0.0),
        rr=max(total - left - right + pp, 0.0),
        total=total,
        core=core,
    )
