"""Stable and effective rank of an update."""

import numpy as np


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


def energy_shares(s: np.ndarray) -> np.ndarray:
    """Return `s^2 / sum s^2`, the energy shares of the rank-one parts; all zero for zeros."""
    energy = s**2
    total = energy.sum()
    return energy / total if total > 0 else np.zeros_like(s)
