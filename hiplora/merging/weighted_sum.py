"""The weighted sum of updates."""

from collections.abc import Sequence
from functools import reduce
from operator import add

from hiplora.adapters import Delta
from hiplora.merging.way import Site, Way


def total(deltas: Sequence[Delta]) -> Delta:
    """Return the sum of updates of one shape; of low-rank ones by their factors side by side, never formed.

    Args:
        deltas: at least one, (m, n) each.
    """
    return reduce(add, deltas)


def _merge(deltas: Sequence[Delta], site: Site) -> Delta:
    return total(deltas)


WAY = Way(
    "sum",
    "Weighted sum",
    r"\Delta W = \sum_t \tau_t",
    "Adds the updates, exactly; low-rank updates stay of low rank.",
    "Task arithmetic: Ilharco et al., ICLR 2023 (arXiv 2212.04089)",
    _merge,
)
