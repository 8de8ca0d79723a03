"""Edits of an update by block: a gain for each of PP, PR, RP and RR (METHOD.md section 7)."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from hiplora.adapters.delta import Delta, DenseDelta, LowRankDelta
from hiplora.adapters.placement import Placement
from hiplora.adapters.update import Update
from hiplora.card import Card
from hiplora.errors import HiploraError
from hiplora.settings import Rule
from hiplora.sources import Weight

GAIN = Rule("a number", (int, float), lambda value: bool(np.isfinite(value)))


@dataclass(frozen=True)
class Gains:
    """How much of each block is kept: 1 leaves it, 0 takes it away.

    >>> Gains(pp=0).words
    'PP x 0'

    Attributes:
        pp: of `U_k U_k^T dW V_k V_k^T`.
        pr: of its principal outputs from residual inputs.
        rp: of its residual outputs from principal inputs.
        rr: of the rest.

    Raises:
        HiploraError: a gain is not a finite number.
    """

    pp: float = 1.0
    pr: float = 1.0
    rp: float = 1.0
    rr: float = 1.0

    def __post_init__(self) -> None:
        for each in fields(self):
            GAIN.require(each.name, getattr(self, each.name))

    @property
    def words(self) -> str:
        """The gains that change something, such as `PP x 0, RR x 0.5`."""
        found = [(each.name.upper(), getattr(self, each.name)) for each in fields(self)]
        return ", ".join(f"{block} x {gain:g}" for block, gain in found if gain != 1) or "unchanged"


def edited(delta: Delta, Ut: np.ndarray, Vt: np.ndarray, gains: Gains) -> Delta:
    """Return `sum_b g_b dW_b` over the four blocks; of a low-rank update of rank `q`, one of rank at most `2 q`.

    With `P = U_k U_k^T`, `Q = V_k V_k^T`, `L_p = P L` and `R_p = R Q` it is
    `L_p (g_pp R_p + g_pr R_r) + L_r (g_rp R_p + g_rr R_r)`: exact, and never formed.

    Args:
        delta: of one weight, (m, n).
        Ut: (k, m), principal directions of outputs as rows: leading left singular vectors.
        Vt: (k, n), of inputs: leading right singular vectors, or in the geometry of the inputs `orth(K V'_k)`.
        gains: of the blocks.
    """
    if isinstance(delta, LowRankDelta):
        L_p, R_p = Ut.T @ (Ut @ delta.L), (delta.R @ Vt.T) @ Vt
        L_r, R_r = delta.L - L_p, delta.R - R_p
        R = np.vstack([gains.pp * R_p + gains.pr * R_r, gains.rp * R_p + gains.rr * R_r])
        return LowRankDelta(np.hstack([L_p, L_r]), R)
    D = delta.dense()
    principal = Ut.T @ (Ut @ D)
    parts = ((principal, gains.pp, gains.pr), (D - principal, gains.rp, gains.rr))
    # Each half of the outputs: all of it by the gain of residual inputs, and what principal ones have more.
    return DenseDelta(sum(off * part + (on - off) * ((part @ Vt.T) @ Vt) for part, on, off in parts))


class EditedUpdate(Update):
    """An update with its blocks changed, on the base whose spectra tell the blocks.

    Args:
        placement: the update on its base.
        bases: gives the principal directions of a weight as rows: of outputs, (k, m), and of inputs, (k, n).
        k: principal rank.
        gains: of all modules, or `{module in tables: its own}`.
        name: in tables and figures.
        seen_as: tells the bases from those of another geometry.
    """

    def __init__(
        self,
        placement: Placement,
        bases: Callable[[Weight], tuple[np.ndarray, np.ndarray]],
        k: int,
        gains: Gains | Mapping[str, Gains],
        name: str,
        seen_as: Hashable = None,
    ):
        self.placement, self.k, self.name = placement, k, name
        self._seen_as = seen_as
        self._bases, self._gains = bases, gains
        self.method = placement.update.method
        self.config = placement.update.config
        placement.require_apart()
        self.modules = list(placement.names)
        self.caveats = [
            *placement.update.caveats,
            *(f"{module} is not a part of the edit: {reason}." for module, reason in placement.left_out.items()),
        ]

    @property
    def folder(self) -> Path | None:
        """The folder of the update that is edited."""
        return self.placement.update.folder

    def gains(self, module: str) -> Gains:
        """Return the gains of one module."""
        return self._gains if isinstance(self._gains, Gains) else self._gains.get(module, Gains())

    def shape(self, module: str) -> tuple[int, int]:
        """Return `(m, n)`, out x in."""
        return self.placement.places[module].shape

    def original(self, module: str) -> str:
        """Return the name that a module's weight has in the base."""
        return self.placement.update.original(self.placement.names[module])

    def delta(self, module: str, weight: np.ndarray | None = None) -> Delta:
        """Return the edited update of one module, (m, n) out x in.

        Raises:
            HiploraError: the update or the spectrum of the weight cannot be read.
        """
        if module not in self.placement:
            raise HiploraError(f"{self.name} leaves {module} alone: choose another module.")
        bases = self._bases(self.placement.places[module])
        return edited(self.placement.delta(module), *bases, self.gains(module))

    @property
    def identity(self) -> Hashable:
        """The update, the base, the geometry, `k` and the gains."""
        gains = {module: astuple(self.gains(module)) for module in self.modules}
        which = (self.placement.update.identity, self.placement.base.identity, self._seen_as)
        return *which, self.k, tuple(gains.items())

    @property
    def base_name(self) -> str:
        """The base that the update names."""
        return self.placement.update.base_name

    @property
    def card(self) -> Card:
        """Its task; what was scored before the edit no longer holds."""
        return Card(task=self.placement.update.card.task)
