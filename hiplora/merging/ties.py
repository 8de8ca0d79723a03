"""TIES: trim, elect a sign for each entry, and average what agrees with it."""

from collections.abc import Callable, Sequence

import numpy as np

from hiplora.adapters import Delta, DenseDelta
from hiplora.merging.pruning import keep_largest
from hiplora.merging.way import Site, Way


def ties(matrices: Sequence[Callable[[], np.ndarray]], density: float) -> np.ndarray:
    """Return the TIES merge of matrices, which are asked for twice, one at a time.

    Each is trimmed to its largest entries; the sign of an entry is that of the sum of what is left (positive where it
    is zero), and the entry is the mean of those that have this sign (sections 4.1 to 4.3 of the paper, with its
    `lambda` among the weights).

    Args:
        matrices: each gives one, (m, n).
        density: share of the entries that trimming keeps.
    """
    first, *others = matrices
    elected = np.array(keep_largest(first(), density))
    for matrix in others:
        elected += keep_largest(matrix(), density)
    positive = elected >= 0
    merged, agreeing = np.zeros(elected.shape), np.zeros(elected.shape, dtype=np.uint16)
    for matrix in matrices:
        trimmed = keep_largest(matrix(), density)
        agrees = (trimmed != 0) & ((trimmed > 0) == positive)
        merged += np.where(agrees, trimmed, 0.0)
        agreeing += agrees
    return merged / np.maximum(agreeing, 1)


def _merge(deltas: Sequence[Delta], site: Site) -> Delta:
    if len(deltas) == 1 and site.density == 1:
        return deltas[0]
    return DenseDelta(ties([delta.dense for delta in deltas], site.density))


WAY = Way(
    "ties",
    "TIES",
    r"\Delta W_{ij} = \operatorname{mean}\{\hat\tau_{t,ij} : \operatorname{sign}\hat\tau_{t,ij} = "
    r"\operatorname{sign}\textstyle\sum_s \hat\tau_{s,ij}\},\quad \hat\tau_t = \operatorname{top}_d(\tau_t)",
    "Trims each update to its largest entries, elects a sign for each entry, and averages those that have it.",
    "Yadav et al., NeurIPS 2023 (arXiv 2306.01708); trimmed by module, as PEFT and mergekit do",
    _merge,
    density=0.2,
)
