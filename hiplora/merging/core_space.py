"""TIES in Core Space: on the small matrices that the updates are in their common bases."""

from collections.abc import Sequence
from functools import partial

from hiplora.adapters import Delta
from hiplora.merging.space import CoreSpace
from hiplora.merging.ties import ties
from hiplora.merging.way import Site, Way


def _merge(deltas: Sequence[Delta], site: Site) -> Delta:
    """Merge in the bases of all updates, whatever their form; where they fill the weight, the bases are square."""
    space = CoreSpace.of(deltas)
    return space.back(ties([partial(space.core, delta) for delta in deltas], site.density))


WAY = Way(
    "core-space",
    "TIES in Core Space",
    r"\Delta W = U\,\mathrm{TIES}(U^\top \tau_1 V, \dots, U^\top \tau_T V)\,V^\top",
    "Merges the updates by TIES as small matrices in the bases of all that they write and read; stays of low rank.",
    "Panariello et al., NeurIPS 2025 (arXiv 2509.17786), with TIES",
    _merge,
    density=0.2,
)
