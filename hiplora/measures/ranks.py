"""Stable and effective rank of an update."""

import numpy as np

from hiplora.adapters import energy_shares


def stable_rank(s: np.ndarray) -> float:
    """Return `||dW||_F^2 / ||dW||_2^2`, between 1 and the rank; NaN for zeros.

    Args:
        s: singular values of the update, falling.
    """
    return float(np.sum(s**2) / s[0] ** 2) if len(s) and s[0] > 0 else float("nan")


def effective_rank(s: np.ndarray) -> float:
    """Return `exp(entropy of s^2 / sum s^2)`, between 1 and the rank; NaN for zeros.

    Args:
        s: singular values of the update.
    """
    p = energy_shares(s)
    p = p[p > 0]
    return float(np.exp(-np.sum(p * np.log(p)))) if len(p) else float("nan")
