"""How far an update is from bringing a new leading direction, by random matrix theory and without another SVD."""

import math

import numpy as np

from hiplora.adapters import Delta
from hiplora.measures.measure import Measure
from hiplora.spectrum import InputSpectrum, Spectrum


def intruder_threshold(sigma: np.ndarray, shape: tuple[int, int]) -> float:
    """Return the size from which a random rank-one matrix, added to a weight, becomes its leading direction.

    A matrix `theta u v^T` with `u` and `v` independent and uniform on their spheres brings a singular value `rho` with
    `D(rho) = 1 / theta^2` (Benaych-Georges and Nadakuditi 2012, theorem 2.8, here with the weight's own singular values
    in the place of their limit). It passes the weight's largest at `theta = D(s_1)^(-1/2)`, where

        D(z) = (1/m tr z (z^2 - W0 W0^T)^-1) (1/n tr z (z^2 - W0^T W0)^-1)

    is taken without the leading direction itself. 0 where several directions share the largest singular value, infinite
    for a single row or column, which has no other direction.

    Args:
        sigma: all singular values of the weight, falling.
        shape: `(m, n)` of the weight.
    """
    sigma = np.asarray(sigma, dtype=np.float64)
    if not sigma[0] > 0:
        return 0.0
    with np.errstate(divide="ignore"):
        # In units of the largest, where nothing overflows.
        known = np.sum(1 / (1 - (sigma[1:] / sigma[0]) ** 2))
        D = math.prod((known + size - len(sigma)) / size for size in shape)
        return float(sigma[0] * np.float64(D) ** -0.5)


def intruder_scale(spectrum: Spectrum, delta: Delta) -> float:
    """Return by how much an update would have to be multiplied for its largest direction to lead, were it a random one.

    NaN where nothing can lead (an update of zeros, a weight of zeros or of a single row or column), and in the geometry
    of the inputs, where the effect of a random update is not in a random direction.

    Args:
        spectrum: complete.
        delta: (m, n).

    Raises:
        ValueError: the spectrum is not complete.
    """
    if not spectrum.complete:
        raise ValueError(f"the threshold needs all {min(spectrum.shape)} singular values, got {spectrum.k}")
    largest = float(delta.singular_values[0]) if len(delta.singular_values) else 0.0
    if isinstance(spectrum, InputSpectrum) or min(spectrum.shape) < 2 or not (largest > 0 and spectrum.sigma[0] > 0):
        return math.nan
    return intruder_threshold(spectrum.sigma, spectrum.shape) / largest


INTRUDER_SCALE = Measure(
    "intruder_scale",
    "Intruder scale",
    "times the update, 1 = its largest direction leads",
    r"D(s_1)^{-1/2} \,/\, \lVert\Delta W\rVert_2,\quad D(z) = \tfrac{z}{m}\,\mathrm{tr}\,(z^2 - W_0 W_0^T)^{-1}\,"
    r"\tfrac{z}{n}\,\mathrm{tr}\,(z^2 - W_0^T W_0)^{-1}",
    "By how much the update would have to be multiplied before its largest direction, were it a random one, became the "
    "leading direction of the changed weight: below 1 an intruder is expected. The ten that are searched for intruders "
    "can hold one earlier; an update along the weight's own directions brings none at any scale.",
    "log",
    "Benaych-Georges and Nadakuditi, J. Multivariate Analysis 111 (2012), arXiv 1103.2221; for updates our choice",
    value=lambda m: m.computed["intruder_scale"],
    compute=intruder_scale,
)
