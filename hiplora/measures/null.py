"""The null: the share of energy that an isotropic update puts into a block by chance."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import betaincinv

Side = Literal["left", "right", "both"]


@dataclass(frozen=True)
class Null:
    """Distribution of a share under isotropy; each field is a number, or an array with one entry per `k`.

    Attributes:
        mean: expected share, exact.
        sd: standard deviation of the share.
        low: 2.5 % quantile.
        high: 97.5 % quantile.
    """

    mean: Any
    sd: Any
    low: Any
    high: Any


def isotropic_null(k: int | np.ndarray, shape: tuple[int, int], parts: np.ndarray, side: Side = "both") -> Null:
    """Return the null of an update with the same singular values but singular vectors uniform on the sphere.

    >>> null = isotropic_null(16, (128, 128), parts=np.array([0.5, 0.5]))
    >>> float(null.mean)
    0.015625

    A rank-one part puts `Beta(k/2, (m-k)/2)` of its energy into `k` given directions of dimension `m`; for
    `side="both"` the parts also interfere. Mean (`k/m`, `k/n` or `k^2/(mn)`) and variance are exact, with the parts'
    vectors orthonormal as those of an SVD are; the band is that of the Beta with this mean and variance (our choice,
    checked against simulation).

    Args:
        k: principal rank, or an array of them.
        shape: `(m, n)` of the weight.
        parts: energy shares of the rank-one parts, summing to 1 (or all zero: no band).
        side: which share.
    """
    sizes = {"left": shape[:1], "right": shape[1:], "both": shape}[side]
    k = np.asarray(k, dtype=np.float64)
    mean, same, other, crossed = (np.ones_like(k) for _ in range(4))
    for size in sizes:
        # For orthonormal x, y uniform in this dimension and P the projector on k directions:
        square = k / size * (k + 2) / (size + 2)  # E[(x'Px)^2]
        mean = mean * k / size
        same = same * square
        other = other * (k * k / size - square) / max(size - 1, 1)  # E[x'Px y'Py]
        crossed = crossed * (k / size - square) / max(size - 1, 1)  # E[(x'Py)^2]
    concentrated = np.sum(parts**2)
    spread = np.sum(parts) ** 2 - concentrated
    second = concentrated * same + spread * (other + 2 * crossed if side == "both" else other)
    return beta_band(mean, second - mean**2 * np.sum(parts) ** 2)


def beta_band(mean: Any, variance: Any) -> Null:
    """Return the 95 % band of the Beta distribution with this mean and variance, number by number.

    Where the share cannot vary (mean 0 or 1, no variance) the band is the mean itself.
    """
    mean, variance = np.asarray(mean, dtype=np.float64), np.maximum(np.asarray(variance, dtype=np.float64), 0.0)
    varies = (mean > 0) & (mean < 1) & (variance > 1e-30)
    spread = np.where(varies, variance, 1.0)
    concentration = np.maximum(mean * (1 - mean) / spread - 1, 1e-9)
    a, b = np.where(varies, mean * concentration, 1.0), np.where(varies, (1 - mean) * concentration, 1.0)
    low, high = (np.where(varies, betaincinv(a, b, q), mean) for q in (0.025, 0.975))
    return Null(*(value.item() if value.ndim == 0 else value for value in (mean, np.sqrt(variance), low, high)))
