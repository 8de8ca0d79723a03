"""The sum of updates that are pruned by magnitude."""

from collections.abc import Sequence

from hiplora.adapters import Delta, DenseDelta
from hiplora.merging.pruning import added, keep_largest
from hiplora.merging.way import Site, Way
from hiplora.merging.weighted_sum import total


def _merge(deltas: Sequence[Delta], site: Site) -> Delta:
    if site.density == 1:
        return total(deltas)
    return DenseDelta(added(keep_largest(delta.dense(), site.density) for delta in deltas))


WAY = Way(
    "magnitude",
    "Magnitude pruning",
    r"\Delta W = \sum_t \operatorname{top}_d(\tau_t)",
    "Keeps the largest entries of each update and adds them.",
    "PEFT's magnitude_prune, by module; the trimming of TIES without its signs",
    _merge,
    density=0.2,
)
