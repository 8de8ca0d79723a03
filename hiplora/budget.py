"""The stability budget: the cost of a change of the principal core, and its share of the budget."""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from hiplora.errors import HiploraError
from hiplora.settings import NOT_NEGATIVE, POSITIVE, HipLoraSettings

if TYPE_CHECKING:
    from torch import Tensor

_Number = TypeVar("_Number", float, "Tensor")

# The price assumed for a layer without a positive one, relative to the highest: it gets next to nothing, but takes
# the rest that the limits deny to the others.
_PRICE_FLOOR = 1e-9
_ROUNDING = 1e-6


DEFAULT_EPSILON = HipLoraSettings.epsilon
"""Budget of an update that states none (a plain LoRA), the default of `HipLoraConfig`."""


def direction_weights(sigma: np.ndarray, power: float = 1.0) -> np.ndarray:
    """Return `w_i = (s_i / s_1)^p`: leading directions cost more (our choice; the paper says singular-value-weighted).

    Args:
        sigma: (k,), falling, dimension of the weight.
        power: `p`, dimensionless.

    Returns:
        (k,), dimensionless; all zero for a weight of zeros.

    Raises:
        HiploraError: `power` is negative or not a number.
    """
    NOT_NEGATIVE.require("power", power)
    if sigma[0] == 0:
        return np.zeros_like(sigma)
    return np.asarray((sigma / sigma[0]) ** power)


def budget_cost(C: np.ndarray, sigma: np.ndarray, power: float = 1.0) -> float:
    """Return `sum_ij w_i w_j C_ij^2 / sum_i (w_i s_i)^2` (METHOD.md section 3), dimensionless and quadratic in `C`.

    Args:
        C: (k, k), the core, or `U_k^T dW V_k` of an adapter without one.
        sigma: (k,), the leading singular values of the frozen weight.
        power: `p` of the weights.

    Returns:
        The cost; NaN for a weight of zeros, whose spectrum cannot be moved relative to itself.
    """
    w = direction_weights(sigma, power)
    scale = float(np.sum((w * sigma) ** 2))
    return float(w @ C**2 @ w) / scale if scale > 0 else float("nan")


def tightness(cost: float, epsilon: float) -> float:
    """Return `sqrt(cost) / epsilon`: at 1.0 the budget is spent.

    >>> tightness(cost=0.0025, epsilon=0.1)
    0.5

    Args:
        cost: from `budget_cost`.
        epsilon: the share of the weighted principal spectrum that training may move.

    Raises:
        HiploraError: `epsilon` is not a positive number.
    """
    POSITIVE.require("epsilon", epsilon)
    return float(np.sqrt(cost)) / epsilon


def joint_epsilon(own: Iterable[float | None], epsilon: float | None = None) -> float:
    """Return the budget that updates share: the one asked for, else the smallest of their own, else the default.

    >>> joint_epsilon([0.1, None, 0.02])
    0.02

    Args:
        own: of each update; None where it states none.
        epsilon: asked for.
    """
    return min((e for e in own if e is not None), default=DEFAULT_EPSILON) if epsilon is None else epsilon


def within_budget(C: np.ndarray, sigma: np.ndarray, power: float, epsilon: float) -> np.ndarray:
    """Return `C min(1, epsilon / sqrt(cost(C)))`: the core in hard mode (our choice).

    >>> within_budget(np.array([[2.0]]), sigma=np.array([4.0]), power=1.0, epsilon=0.25)
    array([[1.]])

    Args:
        C: (k, k), the core.
        sigma: (k,), the leading singular values of the frozen weight.
        power: `p` of the weights.
        epsilon: the budget.
    """
    return C / max(1.0, tightness(budget_cost(C, sigma, power), epsilon))


def gain_within(tightness: float) -> float:
    """Return the factor of a principal block that brings it back within its budget; 1 where it is within it.

    A part in a million is taken off for what is saved in float32, whose rounding would pass a budget that is met
    exactly.

    >>> gain_within(0.5), round(gain_within(4.0), 4)
    (1.0, 0.25)

    Args:
        tightness: of the block; NaN (a weight of zeros) counts as within.
    """
    return (1 - _ROUNDING) / tightness if tightness > 1 else 1.0


def shadow_price(inner: _Number, cost: _Number) -> _Number:
    """Return `-<dL/dC, C> / (2 cost)`: how fast the task loss `L` falls as a layer's core grows (our choice).

    Growing the core by a share `h` changes the loss by `h <dL/dC, C>` and the cost, which is quadratic, by
    `2 h cost`; the price is one over the other. Positive: the layer would gain from more budget.

    Args:
        inner: `<dL/dC, C>` on the core that the forward used, in units of the loss; a number or a torch tensor.
        cost: of that core, from `budget_cost`; like `inner`.

    Returns:
        The price, in units of the task loss per unit of cost; 0 where the cost is 0.
    """
    return -inner / (2 * cost + (cost == 0)) * (cost != 0)


def reallocate(
    epsilon: Mapping[str, float],
    price: Mapping[str, float],
    tightness: Mapping[str, float] | None = None,
    limit: float = 2.0,
) -> dict[str, float]:
    """Move budgets toward the layers with the most to gain, under the same total (our choice).

    `epsilon^2` is the cost that a layer may have, and a price is per unit of cost: so the sum of `epsilon^2` stays the
    same. The model behind the rule: the loss falls linearly with the size of a core, by `a_l sqrt(c_l)` for a layer
    that spends the cost `c_l = (tightness_l epsilon_l)^2`. Then its price is `a_l / (2 sqrt(c_l))`, a measured price
    gives `a_l`, and the split of a total that lowers the loss most is `c_l` in proportion to `a_l^2`, that is
    `epsilon_l` in proportion to `price_l tightness_l epsilon_l`. Where `limit` stops a layer, the others share the
    rest in that proportion, which is still the best that the limits allow. A price is known only near where it was
    measured, hence the limit: measure again before the next move.

    Args:
        epsilon: budget per module, of those that share the total.
        price: shadow price of the same modules, in any one unit; below 0 it counts as 0.
        tightness: `sqrt(cost) / epsilon` of the same modules; None: every budget is spent.
        limit: no budget grows or shrinks by more than this factor, at least 1.

    Returns:
        New budget per module, in the order of `epsilon`; unchanged when no module has a positive price.

    Raises:
        HiploraError: the modules differ, a value is not finite, a budget is not positive, a tightness is negative, or
            the limit is below 1.
    """
    from scipy.optimize import brentq

    if tightness is None:
        tightness = dict.fromkeys(epsilon, 1.0)
    _check_reallocation(epsilon, price, tightness, limit)
    # With `factor_l` the new budget over the old, the rule is `factor_l` in proportion to `price_l tightness_l`.
    pull = np.array([max(price[module], 0.0) * tightness[module] for module in epsilon])
    if not pull.any():
        return dict(epsilon)
    log_pull = np.log(np.maximum(pull / pull.max(), _PRICE_FLOOR))
    budgets = np.array(list(epsilon.values()))
    shares = (budgets / budgets.max()) ** 2
    bound = math.log(limit)

    def log_factors(log_scale: float) -> np.ndarray:
        return np.clip(log_pull + log_scale, -bound, bound)

    def excess(log_scale: float) -> float:
        return float(shares @ np.expm1(2 * log_factors(log_scale)))

    # At the ends every layer is at its lower limit, and at its upper one.
    log_scale = brentq(excess, -bound, bound - log_pull.min(), xtol=1e-14)
    return dict(zip(epsilon, (budgets * np.exp(log_factors(log_scale))).tolist(), strict=True))


def _check_reallocation(
    epsilon: Mapping[str, float], price: Mapping[str, float], tightness: Mapping[str, float], limit: float
) -> None:
    for name, values in (("price", price), ("tightness", tightness)):
        for module in epsilon.keys() ^ values.keys():
            raise HiploraError(
                f"{module} has {'no ' + name if module in epsilon else 'a ' + name + ' but no epsilon'}: give the "
                "same modules to both."
            )
    for name, values, low in (("epsilon", epsilon, 0.0), ("price", price, -math.inf), ("tightness", tightness, 0.0)):
        for module, value in values.items():
            if not (math.isfinite(value) and value >= low) or (name == "epsilon" and value == 0):
                raise HiploraError(f"The {name} of {module} is {value!r}: budgets can be moved only by usable numbers.")
    if not limit >= 1 or math.isinf(limit):
        raise HiploraError(f"limit must be a number of at least 1, got {limit!r}.")
