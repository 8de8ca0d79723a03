"""The measures of METHOD.md section 4 from their formulas: the dense dW, plain numpy, nothing of the library."""

import numpy as np

from tests import numerics


def bases(W0, k):
    """Return `U_k (m, k), s_k (k,), V_k (n, k)` of numpy's own SVD."""
    U, s, Vt = np.linalg.svd(W0, full_matrices=False)
    return U[:, :k], s[:k], Vt[:k].T


def energy(X):
    return float(np.sum(np.asarray(X, dtype=np.float64) ** 2))


def blocks(dW, U, V):
    """Return the four energies PP, PR, RP, RR, each from its own projected matrix."""
    P, Q = U @ U.T, V @ V.T
    rest, other_rest = np.eye(len(P)), np.eye(len(Q))
    return {"pp": energy(P @ dW @ Q), "pr": energy(P @ dW @ (other_rest - Q)), "rp": energy((rest - P) @ dW @ Q),
            "rr": energy((rest - P) @ dW @ (other_rest - Q))}  # fmt: skip


def cost(C, s, power=1.0):
    """Return `sum_ij w_i w_j C_ij^2 / sum_i (w_i s_i)^2`, entry by entry."""
    w = [(value / s[0]) ** power for value in s]
    spent = sum(w[i] * w[j] * C[i, j] ** 2 for i in range(len(s)) for j in range(len(s)))
    return spent / sum((w[i] * s[i]) ** 2 for i in range(len(s)))


def haar(size, count, rng):
    """Return `count` orthonormal vectors of dimension `size` as columns, uniform."""
    Q, R = np.linalg.qr(rng.normal(size=(size, count)))
    return Q * np.sign(np.diag(R))


def intruders(W0, dW, q=10, tau=0.5):
    """Return the count and energy share of the intruders, from two full dense SVDs."""
    U = np.linalg.svd(W0, full_matrices=False)[0]
    changed, s, _ = np.linalg.svd(W0 + dW, full_matrices=False)
    cosines = np.abs(U.T @ changed[:, :q]).max(axis=0)
    return int((cosines < tau).sum()), float((s[:q][cosines < tau] ** 2).sum() / (s**2).sum())


def basis_errors(W0, dW, U, s, V):
    """Return the relative error of the blocks' energies and of the cost that the kept bases leave, the largest of them.

    A block's energy moves by at most four times `basis_error`, in parts of the whole update; the cost of the principal
    one counts its entries by `w_i >= s_k / s_1`.
    """
    of_whole = 4 * numerics.basis_error(W0, len(s))
    return of_whole * energy(dW) / min(blocks(dW, U, V).values()) * (s[0] / s[-1]) ** 2


def intruder_errors(W0, dW, q=10):
    """Return how far rounding may move the largest cosines (q,) and the intruders' share.

    The library keeps the bases of `W0` in float32 and takes `dW` into them: both bases, `L`, `R` and two products
    are rounded, each by `u` of its norm, since the errors of its entries have no common sign (Higham and Mary 2019).
    """
    sigma, s = (np.linalg.svd(matrix, compute_uv=False) for matrix in (W0, W0 + dW))
    u = numerics.unit_roundoff("float32")
    moved = 6 * u * (sigma[0] + np.linalg.norm(dW, 2))
    kept = u + numerics.vector_errors(sigma, 2 * numerics.solver_error(W0.shape, sigma[0])).max()
    share = 2 * moved * q**0.5 / np.linalg.norm(s) + 12 * u
    return numerics.vector_errors(s, moved)[:q] + kept, share
