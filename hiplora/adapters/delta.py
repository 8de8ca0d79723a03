"""The delta that an update adds to one frozen weight: low-rank or dense, with the same few methods.

Only numpy is used: scipy brings its own threads, and when the two alternate, each waits actively on the other's cores.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np


class Delta(ABC):
    """An update `dW` (m x n, out x in) of one weight. All arithmetic is in float64.

    Deltas of one shape can be added and subtracted, and scaled by a number; low-rank ones stay low-rank.

    >>> a = LowRankDelta(np.array([[1.0], [0.0]]), np.array([[3.0, 4.0, 0.0]]))
    >>> b = LowRankDelta(np.array([[0.0], [1.0]]), np.array([[0.0, 0.0, 2.0]]))
    >>> a.energy, a.inner(b)
    (25.0, 0.0)
    >>> (a - 0.5 * b).dense()
    array([[ 3.,  4.,  0.],
           [ 0.,  0., -1.]])
    >>> (a + b).rank
    2
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """`(m, n)`, out x in."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """Upper bound on the rank of `dW`, from its form."""

    @property
    @abstractmethod
    def energy(self) -> float:
        """`||dW||_F^2`."""

    @property
    @abstractmethod
    def singular_values(self) -> np.ndarray:
        """Singular values of `dW`, falling, (q,)."""

    @property
    @abstractmethod
    def compact_svd(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`Q1 (m x q), s (q), Q2t (q x n)` with `dW = Q1 diag(s) Q2t`."""

    @property
    def own(self) -> "Delta | None":
        """The update itself, where this is its effect on inputs, `dW K`; None where this is the update."""
        return None

    @property
    def parts(self) -> np.ndarray:
        """Shares of the update's energy in its rank-one parts, falling, (q,); all zero for an update of zeros."""
        return energy_shares((self.own or self).singular_values)

    @abstractmethod
    def project(self, Ut: np.ndarray | None = None, Vt: np.ndarray | None = None) -> "Delta":
        """Return `U^T dW V` for bases given as rows, `Ut` (k x m) and `Vt` (k x n); None leaves a side alone."""

    @abstractmethod
    def row_energy(self) -> np.ndarray:
        """Return the squared norm of each row of `dW`, (m,)."""

    @abstractmethod
    def column_energy(self) -> np.ndarray:
        """Return the squared norm of each column of `dW`, (n,)."""

    @abstractmethod
    def inner(self, other: "Delta") -> float:
        """Return `<dW, dW'> = tr(dW^T dW')`."""

    @abstractmethod
    def dense(self) -> np.ndarray:
        """Return `dW` itself, (m, n)."""

    @abstractmethod
    def __mul__(self, factor: float) -> "Delta":
        """Return `factor dW`."""

    def __add__(self, other: "Delta") -> "Delta":
        """Return `dW + dW'`; for two low-rank updates of rank at most `q + q'`, and never formed.

        Raises:
            ValueError: the shapes differ.
        """
        if self.shape != other.shape:
            raise ValueError(f"updates of shapes {self.shape} and {other.shape} cannot be added")
        own = (self.own or self) + (other.own or other) if self.own or other.own else None
        if isinstance(self, LowRankDelta) and isinstance(other, LowRankDelta):
            return LowRankDelta(np.hstack([self.L, other.L]), np.vstack([self.R, other.R]), own)
        return DenseDelta(self.dense() + other.dense(), own)

    def __rmul__(self, factor: float) -> "Delta":
        return self * factor

    def __neg__(self) -> "Delta":
        return self * -1.0

    def __sub__(self, other: "Delta") -> "Delta":
        return self + -other


@dataclass(frozen=True, eq=False)
class LowRankDelta(Delta):
    """`dW = L R`, never formed: every answer costs O((m + n) q (k + q)).

    Attributes:
        L: (m, q), float64.
        R: (q, n), float64.

    Raises:
        ValueError: the factors do not multiply.
    """

    L: np.ndarray
    R: np.ndarray
    own: Delta | None = None

    def __post_init__(self) -> None:
        if self.L.ndim != 2 or self.R.ndim != 2 or self.L.shape[1] != self.R.shape[0]:
            raise ValueError(f"factors of shapes {self.L.shape} and {self.R.shape} do not multiply")
        object.__setattr__(self, "L", np.asarray(self.L, dtype=np.float64))
        object.__setattr__(self, "R", np.asarray(self.R, dtype=np.float64))

    @classmethod
    def zero(cls, shape: tuple[int, int]) -> "LowRankDelta":
        """Return the update of zeros of a shape `(m, n)`."""
        return cls(np.zeros((shape[0], 1)), np.zeros((1, shape[1])))

    @property
    def shape(self) -> tuple[int, int]:
        """`(m, n)`, out x in."""
        return self.L.shape[0], self.R.shape[1]

    @property
    def rank(self) -> int:
        """Inner size `q`, or the smaller side where that is less."""
        return min(self.L.shape[1], *self.shape)

    @property
    def energy(self) -> float:
        """`||dW||_F^2 = tr(L^T L R R^T)`."""
        return max(self.inner(self), 0.0)

    @cached_property
    def singular_values(self) -> np.ndarray:
        """Singular values of the q x q product of the triangular factors of `L` and `R^T`, (q,)."""
        # numpy's type stubs describe only the default mode.
        T1, T2 = (np.asarray(np.linalg.qr(F, mode="r")) for F in (self.L, self.R.T))
        return np.linalg.svd(T1 @ T2.T, compute_uv=False)

    @cached_property
    def compact_svd(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`Q1 (m x q), s (q), Q2t (q x n)`, by a QR of either factor and the SVD of a q x q matrix."""
        Q1, T1 = np.linalg.qr(self.L)
        Q2, T2 = np.linalg.qr(self.R.T)
        P, s, Qt = np.linalg.svd(T1 @ T2.T, full_matrices=False)
        return Q1 @ P, s, Qt @ Q2.T

    def project(self, Ut: np.ndarray | None = None, Vt: np.ndarray | None = None) -> "LowRankDelta":
        """Return `(U^T L) (R V)`."""
        return LowRankDelta(self.L if Ut is None else Ut @ self.L, self.R if Vt is None else self.R @ Vt.T)

    def row_energy(self) -> np.ndarray:
        """Return `l_i^T (R R^T) l_i` for each row `l_i` of `L`."""
        return np.maximum(np.sum((self.L @ (self.R @ self.R.T)) * self.L, axis=1), 0.0)

    def column_energy(self) -> np.ndarray:
        """Return `r_j^T (L^T L) r_j` for each column `r_j` of `R`."""
        return np.maximum(np.sum(((self.L.T @ self.L) @ self.R) * self.R, axis=0), 0.0)

    def inner(self, other: Delta) -> float:
        """Return `tr(L^T L' R' R^T)`."""
        if isinstance(other, LowRankDelta):
            return float(np.sum((self.L.T @ other.L) * (self.R @ other.R.T)))
        return float(np.sum(self.dense() * other.dense()))

    def dense(self) -> np.ndarray:
        """Return `L R`, (m, n)."""
        return self.L @ self.R

    def __mul__(self, factor: float) -> "LowRankDelta":
        return LowRankDelta(factor * self.L, self.R, self.own and self.own * factor)


@dataclass(frozen=True, eq=False)
class DenseDelta(Delta):
    """`dW` of any form as a full matrix, held for one layer at a time.

    Attributes:
        matrix: (m, n), float64.
    """

    matrix: np.ndarray
    own: Delta | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", np.asarray(self.matrix, dtype=np.float64))

    @property
    def shape(self) -> tuple[int, int]:
        """`(m, n)`, out x in."""
        return self.matrix.shape[0], self.matrix.shape[1]

    @property
    def rank(self) -> int:
        """`min(m, n)`."""
        return min(self.shape)

    @property
    def energy(self) -> float:
        """`||dW||_F^2`."""
        return float(np.sum(self.matrix**2))

    @cached_property
    def singular_values(self) -> np.ndarray:
        """Roots of the eigenvalues of the smaller Gram matrix, (min(m, n),): several times faster than an SVD.

        The squares are exact to rounding; values below 1e-8 of the largest are noise.
        """
        short = self.matrix if self.shape[0] <= self.shape[1] else self.matrix.T
        values = np.linalg.eigvalsh(short @ short.T)
        return np.sqrt(np.maximum(values[::-1], 0.0))

    @cached_property
    def compact_svd(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The thin SVD."""
        return np.linalg.svd(self.matrix, full_matrices=False)

    def project(self, Ut: np.ndarray | None = None, Vt: np.ndarray | None = None) -> "DenseDelta":
        """Return `U^T dW V`."""
        rows = self.matrix if Ut is None else Ut @ self.matrix
        return DenseDelta(rows if Vt is None else rows @ Vt.T)

    def row_energy(self) -> np.ndarray:
        """Return the squared norm of each row, (m,)."""
        return np.sum(self.matrix**2, axis=1)

    def column_energy(self) -> np.ndarray:
        """Return the squared norm of each column, (n,)."""
        return np.sum(self.matrix**2, axis=0)

    def inner(self, other: Delta) -> float:
        """Return `<dW, dW'>`."""
        return float(np.sum(self.matrix * other.dense()))

    def dense(self) -> np.ndarray:
        """Return `dW`, (m, n)."""
        return self.matrix

    def __mul__(self, factor: float) -> "DenseDelta":
        return DenseDelta(factor * self.matrix, self.own and self.own * factor)


def energy_shares(s: np.ndarray) -> np.ndarray:
    """Return `s^2 / sum s^2`, the energy shares of the rank-one parts; all zero for zeros."""
    energy = s**2
    total = energy.sum()
    return energy / total if total > 0 else np.zeros_like(s)
