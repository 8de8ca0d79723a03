"""The null: the share of energy that an isotropic update puts into a block by chance."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import betaincinv

from hiplora.spectrum import InputSpectrum, Spectrum

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


@dataclass(frozen=True)
class Reach:
    """What sets of right directions of `W0 K` are to its inputs, one entry a set (METHOD.md section 8).

    With `g_i = K v'_i` and `B = sum_i g_i g_i^T` over a set:

    Attributes:
        share: `tr B / tr M`, the expected share of an update with independent entries.
        square: `tr B^2 / (tr M)^2`.
        cross: `tr B M / (tr M)^2`.
        spread: `tr M^2 / (tr M)^2`, one number for all.
    """

    share: Any
    square: Any
    cross: Any
    spread: float

    def __getitem__(self, places: Any) -> "Reach":
        """Return some of the sets."""
        return Reach(self.share[places], self.square[places], self.cross[places], self.spread)


def leading(spectrum: Spectrum) -> Reach | None:
    """Return the reach of the first 1, 2, ... directions, or None in the geometry of the weights."""
    if not isinstance(spectrum, InputSpectrum):
        return None
    gram = spectrum.gram.astype(np.float64)
    square = np.cumsum(np.cumsum(gram**2, axis=0), axis=1).diagonal()
    return Reach(np.cumsum(gram.diagonal()), square, np.cumsum(spectrum.through), spectrum.spread)


def bands(spectrum: Spectrum, first: np.ndarray) -> Reach | None:
    """Return the reach of bands of directions and, last, of all beyond those held; None for the weights' geometry.

    Args:
        spectrum: of the weight.
        first: place of the first direction of each band, from 0.
    """
    if not isinstance(spectrum, InputSpectrum):
        return None
    gram = spectrum.gram.astype(np.float64)
    share, cross = (np.add.reduceat(values, first) for values in (gram.diagonal(), spectrum.through))
    square = np.add.reduceat(np.add.reduceat(gram**2, first, axis=0), first, axis=1).diagonal()
    beyond = spectrum.spread - 2 * cross.sum() + np.sum(gram**2)
    return Reach(
        np.append(share, max(1 - share.sum(), 0.0)),
        np.append(square, max(beyond, 0.0)),
        np.append(cross, max(spectrum.spread - cross.sum(), 0.0)),
        spectrum.spread,
    )


def null_of(
    k: int | np.ndarray, shape: tuple[int, int], parts: np.ndarray, side: Side = "both", reach: Reach | None = None
) -> Null:
    """Return the null of an update with the same singular values but singular vectors uniform on the sphere.

    >>> null = null_of(16, (128, 128), parts=np.array([0.5, 0.5]))
    >>> float(null.mean)
    0.015625

    A rank-one part puts `Beta(k/2, (m-k)/2)` of its energy into `k` given directions of dimension `m`; for
    `side="both"` the parts also interfere. Mean (`k/m`, `k/n` or `k^2/(mn)`) and variance are exact, with the parts'
    vectors orthonormal as those of an SVD are; the band is that of the Beta with this mean and variance (our choice,
    checked against simulation).

    In the geometry of the inputs the right side is not isotropic: the mean there is `reach.share` in the place of
    `k/n`, and the variance that of a ratio of quadratic forms to first order.

    Args:
        k: principal rank, or an array of them.
        shape: `(m, n)` of the weight.
        parts: energy shares of the update's own rank-one parts, summing to 1 (or all zero: no band).
        side: which share.
        reach: of the same directions as `k`, in the geometry of the inputs.
    """
    k = np.asarray(k, dtype=np.float64)
    concentrated = np.sum(parts**2)
    whole = np.sum(parts) ** 2
    rest = whole - concentrated
    sizes = {"left": shape[:1], "right": shape[1:], "both": shape}[side]
    mean, same, other, crossed = (np.ones_like(k) for _ in range(4))
    for size in sizes if reach is None else [size for size in sizes[:1] if side != "right"]:
        # For orthonormal x, y uniform in this dimension and P the projector on k directions:
        square = k / size * (k + 2) / (size + 2)  # E[(x'Px)^2]
        mean = mean * k / size
        same = same * square
        other = other * (k * k / size - square) / max(size - 1, 1)  # E[x'Px y'Py]
        crossed = crossed * (k / size - square) / max(size - 1, 1)  # E[(x'Py)^2]
    if reach is None:
        second = concentrated * same + rest * (other + 2 * crossed if side == "both" else other)
        return beta_band(mean, second - mean**2 * whole)
    # For normal b, c and tr M = 1: E[(b'Mb)^2] = 1 + 2 spread, E[(b'Mc)^2] = spread, and likewise for B.
    if side == "left":
        # Sizes of effects cancel for one part, so the second moments are divided.
        second = concentrated * same * (1 + 2 * reach.spread) + rest * (other + 2 * crossed * reach.spread)
        return beta_band(mean, (second / (1 + 2 * concentrated * reach.spread) - mean**2) * whole)
    # The share is a ratio: its variance to first order.
    pair = 2 * crossed * reach.square if side == "both" else 0.0
    second = concentrated * same * (reach.share**2 + 2 * reach.square) + rest * (other * reach.share**2 + pair)
    covariance = 2 * concentrated * mean * reach.cross
    mean = mean * reach.share
    variance = second - mean**2 * whole - 2 * mean * covariance + mean**2 * 2 * concentrated * reach.spread
    return beta_band(mean, variance)


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
