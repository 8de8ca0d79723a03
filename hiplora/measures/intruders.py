"""Intruder dimensions (Shuttleworth et al., arXiv 2410.21228): new leading directions that the base did not have."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from hiplora.adapters import Delta, LowRankDelta
from hiplora.measures.measure import Measure
from hiplora.spectrum import Spectrum
from hiplora.spectrum.blas import one_blas_thread

# Steps of Davidson's method; two or three are enough, and more steps than this take longer than the dense method.
_STEPS = 8
# Largest `||M x - lambda x|| / lambda` of an eigenvector, and what rounding leaves of the largest eigenvalue.
_TOLERANCE = 1e-10
_ROUNDING = 1e-14


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

    Neither `W0` nor a low-rank `dW = L R` is formed: in the basis of the known singular vectors the Gram matrix of
    `W0 + dW` is a diagonal plus a matrix of rank `2 rank(dW)`, and its leading eigenvectors hold the cosines.

    Args:
        spectrum: complete, since the maximum runs over the full left basis of `W0`.
        delta: (m, n).
        q: number of leading vectors to check, at most `min(m, n)`.
        tau: cosine below which a vector is an intruder.

    Raises:
        ValueError: the spectrum is not complete.
    """
    if not spectrum.complete:
        raise ValueError(f"intruders need all {min(spectrum.shape)} singular vectors, got {spectrum.k}")
    q = min(q, *spectrum.shape)
    with one_blas_thread():
        found = _factored(spectrum, delta, q) if isinstance(delta, LowRankDelta) else _dense(spectrum, delta, q)
    values, projections, total = found
    # Beyond the rank of the changed weight its singular vectors are arbitrary, so they do not count.
    live = values > 1e-12 * max(values[0], 0.0)
    values, projections = values[live], projections[:, live]
    cosines = np.abs(projections).max(axis=0)
    intruding = cosines < tau
    share = float(values[intruding].sum()) / total if total > 0 else float("nan")
    return Intruders(int(intruding.sum()), share, cosines)


def _dense(spectrum: Spectrum, delta: Delta, q: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return squared singular values of `W0 + dW` (q,), `U^T u'` (min(m, n), q) and `||W0 + dW||_F^2`."""
    U = spectrum.Ut.T.astype(np.float64)
    W = (U * spectrum.sigma) @ spectrum.Vt + delta.dense()
    wide = W.shape[0] <= W.shape[1]
    values, vectors = _leading(W @ W.T if wide else W.T @ W, q)
    if not wide:
        vectors = W @ vectors / _roots(values)
    return values, U.T @ vectors, float(np.sum(W**2))


def _factored(spectrum: Spectrum, delta: LowRankDelta, q: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the same as `_dense`, for `dW = L R`.

    With `X = U^T L`, `Y = V^T R^T`, the Gram matrix in the basis of the left vectors (m <= n, where they are all) is
    `U^T W W^T U = S^2 + X T^T + T X^T` with `T = S Y + X R R^T / 2`, in that of the right ones (m > n) the same with
    the roles of `X` and `Y` swapped.
    """
    s, wide = spectrum.sigma, spectrum.shape[0] <= spectrum.shape[1]
    # The bases are kept in float32: more digits would not mean anything.
    X, Y = (
        (basis @ F.astype(basis.dtype)).astype(np.float64)
        for basis, F in ((spectrum.Ut, delta.L), (spectrum.Vt, delta.R.T))
    )
    near, far = (X, Y) if wide else (Y, X)
    T = s[:, None] * far + near @ (delta.R @ delta.R.T if wide else delta.L.T @ delta.L) / 2
    values, vectors = _leading_of_sum(s**2, near, T, q)
    if not wide:
        vectors = (s[:, None] * vectors + X @ (Y.T @ vectors)) / _roots(values)
    total = float(np.sum(s**2) + 2 * np.sum(s[:, None] * X * Y) + delta.energy)
    return values, vectors, max(total, 0.0)


def _roots(values: np.ndarray) -> np.ndarray:
    """Return the singular values, with infinity for missing ones."""
    return np.sqrt(np.where(values > 0, values, np.inf))


def _leading(gram: np.ndarray, q: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the `q` largest eigenvalues, falling, and their vectors as columns."""
    chosen = [len(gram) - q, len(gram) - 1]
    values, vectors = scipy.linalg.eigh(gram, subset_by_index=chosen, check_finite=False)
    return values[::-1], vectors[:, ::-1]


def _leading_of_sum(d: np.ndarray, X: np.ndarray, T: np.ndarray, q: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the `q` largest eigenvalues of `M = diag(d) + X T^T + T X^T`, `d` falling, and their vectors as columns.

    Davidson's method on the leading coordinates, the columns of `X` and `T`, and what its residuals add. Enough
    coordinates are taken that every `d` left out is at most as large as the eigenvalues wanted (Weyl: `X T^T + T X^T`
    has at most `r` negative eigenvalues). The residuals show how exact the eigenvalues are, their number that none was
    missed. If they are not exact or not complete, or if `M` is too small for this to pay, `M` is formed.
    """
    size, r = X.shape
    head = q + r
    if 2 * (head + 2 * r + q * _STEPS) < size:
        h, t = slice(head), slice(head, None)
        tail = np.linalg.qr(np.hstack([X[t], T[t]]))[0]
        for _ in range(_STEPS):
            # Rows of X and T, and the diagonal, in the basis [leading coordinates, tail].
            Xb, Tb = (np.vstack([F[h], tail.T @ F[t]]) for F in (X, T))
            small = Xb @ Tb.T
            small += small.T
            small[range(head), range(head)] += d[h]
            small[head:, head:] += (tail.T * d[t]) @ tail
            values, vectors = _leading(small, q)
            x = tail @ vectors[head:]
            miss = X[t] @ (Tb.T @ vectors) + T[t] @ (Xb.T @ vectors) + d[t, None] * x - x * values
            sizes = np.linalg.norm(miss, axis=0)
            open_ = sizes > np.maximum(_TOLERANCE * values, _ROUNDING * values[0])
            if not open_.any():
                if _are_leading(values, d, X, T):
                    return values, np.vstack([vectors[h], x])
                break
            apart = values[open_] - d[t, None]
            new = miss[:, open_] / np.where(apart > 0, apart, np.inf)
            for _ in range(2):
                new -= tail @ (tail.T @ new)
                new = np.linalg.qr(new)[0]
            tail = np.hstack([tail, new])
    M = X @ T.T
    M += M.T
    M[range(size), range(size)] += d
    return _leading(M, q)


def _are_leading(values: np.ndarray, d: np.ndarray, X: np.ndarray, T: np.ndarray) -> bool:
    """Return whether all eigenvalues of `diag(d) + X T^T + T X^T` above the least of these are among these, falling.

    Counted by inertia: with `P = [X T]`, `J = [0 I; I 0]` and a bound just above the least, the positive eigenvalues of
    `M - bound` are those of `D - bound` and of `-J - P^T (D - bound)^-1 P`, less the `r` of `-J` (Haynsworth).
    """
    bound, r = values[-1] * (1 + 1e-9), X.shape[1]
    apart = d - bound
    if not apart.all():
        return False
    P = np.hstack([X, T])
    schur = -P.T @ (P / apart[:, None])
    schur -= np.roll(np.eye(2 * r), r, axis=0)
    count = np.sum(apart > 0) + np.sum(np.linalg.eigvalsh(schur) > 0) - r
    return bool(count == np.sum(values > bound))


INTRUDERS = Measure(
    "intruders",
    "Intruder dimensions",
    "among the top 10",
    r"\#\{j \le 10 : \max_i |\langle u'_j, u_i\rangle| < 0.5\},\quad u'_j \text{ of } W_0 + \Delta W",
    "Leading directions of the changed weight that resemble none of the original's.",
    "count",
    "Shuttleworth et al., arXiv 2410.21228",
    value=lambda m: m.computed["intruders"].count,
    beside={"intruder_share": lambda m: m.computed["intruders"].share},
    compute=intruder_dimensions,
)
