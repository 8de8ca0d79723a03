"""Isotropic merging: the sum of the updates with all its singular values made equal."""

from collections.abc import Sequence

import numpy as np

from hiplora.adapters import Delta, LowRankDelta
from hiplora.merging.space import thin_svd
from hiplora.merging.way import Site, Way
from hiplora.merging.weighted_sum import total


def _merge(deltas: Sequence[Delta], site: Site) -> Delta:
    """Return `mean(s) P Q^T` of the sum `P S Q^T`, over the rank that the sum has.

    The paper averages over all `min(m, n)` values of full fine-tunes. A sum of LoRAs has a lower rank, and beyond it no
    directions; the mean over those it has is that of Core Space.
    """
    summed = total(deltas)
    P, s, Qt = thin_svd(summed)
    return LowRankDelta(P * float(np.mean(s)), Qt)


WAY = Way(
    "iso-c",
    "Iso-C",
    r"\sum_t \tau_t = U \Sigma V^\top,\quad \Delta W = \bar\sigma\, U V^\top",
    "Adds the updates and makes all singular values of the sum equal to their mean; stays of low rank. One update "
    "does not come out as it went in.",
    "Marczak et al., ICML 2025 (arXiv 2502.04959)",
    _merge,
)
