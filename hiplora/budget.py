"""The stability budget: what a change of the principal core costs, and how much of the budget that is."""

import numpy as np


def direction_weights(sigma: np.ndarray, power: float = 1.0) -> np.ndarray:
    """Return `w_i = (s_i / s_1)^p`: leading directions cost more (our choice; the paper says singular-value-weighted).

    Args:
        sigma: (k,), falling, dimension of the weight.
        power: `p`, dimensionless.

    Returns:
        (k,), dimensionless; all zero for a weight of zeros.
    """
    if sigma[0] == 0:
        return np.zeros_like(sigma)
    return np.asarray((sigma / sigma[0]) ** power)


def budget_cost(C: np.ndarray, sigma: np.ndarray, power: float = 1.0) -> float:
    """Return `sum_ij w_i w_j C_ij^2 / sum_i (w_i s_i)^2` (METHOD.md section 3), dimensionless and quadratic in `C`.

    Args:
        C: (k, k), the core, or `U_k^T dW V_k` of an adapter that has none.
        sigma: (k,), the leading singular values of the frozen weight.
        power: `p` of the weights.

    Returns:
        The cost; NaN for a weight of zeros, whose spectrum cannot be moved relative to itself.
    """
    w = direction_weights(sigma, power)
    scale = float(np.sum((w * sigma) ** 2))
    return float(w @ C**2 @ w) / scale if scale > 0 else float("nan")


def tightness(cost: float, epsilon: float) -> float:
    """Return `sqrt(cost) / epsilon`: 1.0 means that the budget is spent.

    Args:
        cost: from `budget_cost`.
        epsilon: the share of the weighted principal spectrum that training may move.
    """
    return float(np.sqrt(cost)) / epsilon
