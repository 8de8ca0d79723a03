"""An update a few rows at a time, so that no second matrix of the size of the weight is held."""

from collections.abc import Iterator

import numpy as np

from hiplora.adapters import Delta, LowRankDelta

_ENTRIES = 2**20


def by_rows(delta: Delta) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the rows of an update in blocks of about a million entries: which they are, and `dW` there.

    Args:
        delta: (m, n).
    """
    m, n = delta.shape
    step = max(_ENTRIES // n, 1)
    whole = None if isinstance(delta, LowRankDelta) else delta.dense()
    for start in range(0, m, step):
        rows = slice(start, min(start + step, m))
        if isinstance(delta, LowRankDelta):
            yield rows, delta.L[rows] @ delta.R
        elif whole is not None:
            yield rows, whole[rows]
