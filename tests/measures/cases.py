"""Random weights and updates of many shapes for the property tests."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from hypothesis import strategies as st

from hiplora.adapters import DenseDelta, LowRankDelta
from hiplora.spectrum import decompose
from tests import numerics


@dataclass
class Case:
    W0: np.ndarray
    L: np.ndarray
    R: np.ndarray
    k: int

    @property
    def dW(self):  # noqa: N802
        return self.L @ self.R

    @property
    def delta(self):
        return LowRankDelta(self.L, self.R)

    @property
    def dense(self):
        return DenseDelta(self.dW)

    @cached_property
    def spectrum(self):
        return decompose(self.W0)

    @property
    def U(self):  # noqa: N802
        return self.spectrum.Ut[: self.k].T.astype(np.float64)

    @property
    def V(self):  # noqa: N802
        return self.spectrum.Vt[: self.k].T.astype(np.float64)

    @property
    def product_error(self):
        """How far rounding may take two ways to `U^T dW V` apart, in norm."""
        return numerics.factored_error(self.L, self.R)

    @property
    def energy_error(self):
        """The same for two ways to an energy of it."""
        return 2 * self.product_error * self.scale

    @property
    def scale(self):
        """`||L|| ||R||`, which the update may be smaller than."""
        return np.linalg.norm(self.L) * np.linalg.norm(self.R)

    @property
    def turned(self):
        """How far the kept singular subspaces may lie from those that numpy finds (2-norm of the projectors)."""
        sigma = np.linalg.svd(self.W0, compute_uv=False)
        solved = numerics.subspace_error(sigma, self.k, 2 * numerics.solver_error(self.W0.shape, sigma[0]))
        return numerics.kept_error(self.k) + solved

    def __repr__(self):
        return f"Case(W0 {self.W0.shape}, rank {np.linalg.matrix_rank(self.W0)}, r={self.L.shape[1]}, k={self.k})"


@st.composite
def cases(draw, weights=("generic", "deficient", "repeated"), zero=True):
    """Weights with m > n, m < n and m = n; k up to min(m, n); r beyond both; weights with and without gaps."""
    m, n, r = draw(st.integers(2, 14)), draw(st.integers(2, 14)), draw(st.integers(1, 18))
    k = draw(st.integers(1, min(m, n)) | st.just(min(m, n)))
    kind = draw(st.sampled_from(weights))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    W0 = rng.normal(size=(m, n))
    if kind == "deficient":
        rank = draw(st.integers(1, min(m, n)))
        W0 = rng.normal(size=(m, rank)) @ rng.normal(size=(rank, n))
    elif kind == "repeated":
        U, s, Vt = np.linalg.svd(W0, full_matrices=False)
        W0 = (U * np.ceil(s)) @ Vt
    L, R = rng.normal(size=(m, r)), rng.normal(size=(r, n))
    if zero and draw(st.integers(0, 9)) == 0:
        L = np.zeros_like(L)
    return Case(W0, L, R, k)
