"""Pruning of one update by magnitude, and the sum of pruned ones."""

from collections.abc import Iterable

import numpy as np


def keep_largest(matrix: np.ndarray, density: float) -> np.ndarray:
    """Return a matrix with the entries of largest magnitude, and zeros in the place of the others.

    `floor(density m n)` entries are kept, at least one, as in PEFT; of equal ones at the border, all.

    Args:
        matrix: (m, n).
        density: share that is kept, above 0 and at most 1.
    """
    size = np.abs(matrix)
    kept = max(int(density * size.size), 1)
    if kept == size.size:
        return matrix
    border = np.partition(size.reshape(-1), size.size - kept)[size.size - kept]
    return np.where(size >= border, matrix, 0.0)


def added(matrices: Iterable[np.ndarray]) -> np.ndarray:
    """Return the sum of matrices that are made one at a time, so that no more than two are held.

    Args:
        matrices: (m, n) each, at least one; they are not changed.
    """
    made = iter(matrices)
    found = np.array(next(made))
    for matrix in made:
        found += matrix
    return found
