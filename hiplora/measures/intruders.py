"""Intruder dimensions (Shuttleworth et al., arXiv 2410.21228): new leading directions that the base did not have."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from hiplora.adapters import Delta
from hiplora.spectrum import Spectrum


@dataclass(frozen=True)
class Intruders:
    """Intruders among the leading left singular vectors of `W0 + dW`.

    Attributes:
        count: vectors whose largest cosine with any `u_i` is below `tau`.
        share: their share of `||W0 + dW||_F^2`.
        cosines: (q,), the largest cosine of each leading vector; fewer where the rank of `W0 + dW` is below q.
    """

    count: int
    share: float
    cosines: np.ndarray


def intruder_dimensions(spectrum: Spectrum, delta: Delta, q: int = 10, tau: float = 0.5) -> Intruders:
    """Count the intruders among the top `q` left singular vectors of `W0 + dW`.

    Args:
        spectrum: complete, since the maximum runs over the full left basis of `W0`.
        delta: (m, n).
        q: how many leading vectors are looked at, at most `min(m, n)`.
        tau: cosine below which a vector is an intruder.

    Raises:
        ValueError: the spectrum is not complete.
    """
    if not spectrum.complete:
        raise ValueError(f"intruders need all {min(spectrum.shape)} singular vectors, got {spectrum.k}")
    U, Vt = spectrum.Ut.T.astype(np.float64), spectrum.Vt.astype(np.float64)
    W = (U * spectrum.sigma) @ Vt + delta.dense()
    m, n = W.shape
    smallest = min(m, n)
    gram = W @ W.T if m <= n else W.T @ W
    values, vectors = scipy.linalg.eigh(gram, subset_by_index=[max(smallest - q, 0), smallest - 1], check_finite=False)
    # Where the changed weight has run out of rank, its singular vectors are arbitrary: they are no directions of it.
    live = values[::-1] > 1e-12 * max(values[-1], 0.0)
    values, vectors = values[::-1][live], vectors[:, ::-1][:, live]
    if m > n:
        vectors = W @ vectors / np.sqrt(values)
    cosines = np.abs(U.T @ vectors).max(axis=0)
    intruding = cosines < tau
    total = float(np.sum(W**2))
    share = float(values[intruding].sum()) / total if total > 0 else float("nan")
    return Intruders(int(intruding.sum()), share, cosines)
