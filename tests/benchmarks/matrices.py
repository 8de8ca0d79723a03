"""Weights of any size whose leading singular triplets are known without a decomposition."""

from dataclasses import dataclass

import numpy as np
import scipy.fft


@dataclass(frozen=True)
class Known:
    """A weight and its truth.

    Attributes:
        weight: (m, n), float32.
        U: (m, k), float64, leading left singular vectors of what `weight` was rounded from.
        sigma: (k,), float64.
        V: (n, k), float64.
    """

    weight: np.ndarray
    U: np.ndarray
    sigma: np.ndarray
    V: np.ndarray

    def errors(self, U: np.ndarray, sigma: np.ndarray, V: np.ndarray) -> tuple[float, float]:
        """Return the worst relative error of a singular value, and the sine of the largest angle between subspaces."""
        angles = [np.linalg.norm(truth - Q @ (Q.T @ truth), 2) for truth, Q in ((self.U, U), (self.V, V))]
        return float(np.abs(sigma / self.sigma - 1).max()), float(max(angles))


def decaying_singular_values(count: int, k: int) -> np.ndarray:
    """Return `i^-0.25 (1 - 0.9 i / count)`, with a step of 2e-4 of its value behind the k-th.

    The linear maps of SmolLM2-135M fall as `i^-0.14` to `i^-0.5`, the 64th singular value lies at 0.2 to 0.65 of the
    first, and the least relative step behind it that was seen is 4e-4: there is no gap at k.
    """
    i = np.arange(count)
    sigma = (i + 1.0) ** -0.25 * (1 - 0.9 * i / count)
    sigma[k:] = np.minimum(sigma[k:], sigma[k - 1] * (1 - 2e-4))
    return sigma


def known_weight(shape: tuple[int, int], k: int, seed: int = 0) -> Known:
    """Return a weight with those singular values between two random orthogonal matrices.

    Each is a product of random signs, cosine transforms and permutations: exact in float64 and quick at any size. The
    rounding to float32 moves a singular value by 1e-8 of the largest and the subspace by 1e-7.
    """
    m, n = shape
    sigma = decaying_singular_values(min(shape), k)
    left, right = np.random.SeedSequence(seed).spawn(2)
    weight = np.zeros(shape)
    np.fill_diagonal(weight, sigma)
    weight = np.ascontiguousarray(_mix(_mix(weight, left).T, right).T, dtype=np.float32)
    return Known(weight, _mix(np.eye(m, k), left), sigma[:k], _mix(np.eye(n, k), right))


def _mix(X: np.ndarray, seed: np.random.SeedSequence) -> np.ndarray:
    rng = np.random.default_rng(seed)
    for _ in range(2):
        X = scipy.fft.dct(X * rng.choice([-1.0, 1.0], len(X))[:, None], axis=0, norm="ortho", overwrite_x=True)
        X = X[rng.permutation(len(X))]
    return X
