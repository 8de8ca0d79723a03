"""DARE: drop entries at random, and rescale the rest."""

import hashlib
from collections.abc import Sequence

import numpy as np

from hiplora.adapters import Delta, DenseDelta
from hiplora.merging.pruning import added
from hiplora.merging.way import Site, Way
from hiplora.merging.weighted_sum import total


def dropped(matrix: np.ndarray, density: float, rng: np.random.Generator) -> np.ndarray:
    """Return `mask matrix / density` with independent entries of the mask, 1 with the probability `density`.

    Args:
        matrix: (m, n).
        density: share that is kept on average.
        rng: draws the mask.
    """
    return np.where(rng.random(matrix.shape) < density, matrix / density, 0.0)


def draws(site: Site, key: str) -> np.random.Generator:
    """Return the random numbers of one update at one weight: the same whatever is merged beside it, in any order."""
    digest = hashlib.sha256(f"{site.module}\n{key}".encode()).digest()
    return np.random.default_rng([site.seed, *np.frombuffer(digest[:16], dtype=np.uint32).tolist()])


def _merge(deltas: Sequence[Delta], site: Site) -> Delta:
    if site.density == 1:
        return total(deltas)
    keyed = zip(site.keys, deltas, strict=True)
    return DenseDelta(added(dropped(delta.dense(), site.density, draws(site, key)) for key, delta in keyed))


WAY = Way(
    "dare",
    "DARE",
    r"\Delta W = \sum_t b_t \odot \tau_t / d,\quad b_{t,ij} \sim \operatorname{Bernoulli}(d)",
    "Drops entries of each update at random, rescales the rest to the same mean, and adds them.",
    "Yu et al., ICML 2024 (arXiv 2311.03099), with task arithmetic",
    _merge,
    density=0.5,
    random=True,
)
