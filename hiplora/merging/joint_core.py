"""Ours: principal cores added under one joint budget, everything else summed."""

from collections.abc import Sequence

from hiplora.adapters import Delta, Gains, edited
from hiplora.budget import gain_within
from hiplora.merging.way import Site, Way
from hiplora.merging.weighted_sum import total


def _merge(deltas: Sequence[Delta], site: Site) -> Delta:
    """Return the sum with its principal block scaled down to the joint budget where it is over it.

    The principal blocks add up to that of the sum, and so do the other three; each block is scaled as an edit does.
    """
    summed = total(deltas)
    gain = gain_within(site.tightness(summed))
    return summed if gain == 1 else edited(summed, *site.bases(), Gains(pp=gain))


WAY = Way(
    "core",
    "Cores under a joint budget",
    r"\Delta W = g\,U_k \Bigl(\sum_t C_t\Bigr) V_k^\top + \sum_t (\tau_t - U_k C_t V_k^\top),\quad "
    r"g = \min\Bigl(1, \varepsilon / \sqrt{\mathrm{cost}(\textstyle\sum_t C_t)}\Bigr)",
    "Adds the updates, and scales their common principal block down to one budget where it is over it; stays of low "
    "rank.",
    "Our choice: the stability budget of HiP-LoRA (arXiv 2604.17751) for all updates together",
    _merge,
    needs_spectrum=True,
)
