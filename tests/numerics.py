"""How far rounding alone may move what a test compares: formulas with their sources, nothing tuned on one machine."""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

_DIGITS = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}


def unit_roundoff(dtype: Any) -> float:
    """Return `u = 2^-p`, the largest relative error of one rounding (Higham 2002, section 2.1).

    Args:
        dtype: a numpy or torch dtype, or its name.
    """
    name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", str(dtype).removeprefix("torch."))
    return 2.0 ** -_DIGITS[name]


def gamma(count: int, dtype: Any = "float64") -> float:
    """Return `n u / (1 - n u)`, which the relative error of `n` roundings cannot pass (Higham 2002, lemma 3.1).

    A sum of `n` products computed in any order is off by at most `gamma(n)` times the sum of their magnitudes (3.5).
    """
    n_u = count * unit_roundoff(dtype)
    return n_u / (1 - n_u)


EXACT = gamma(10**6)
"""Relative bound of one well-conditioned number by two ways in float64: a million roundings."""


def product_error(*factors: Any, dtype: Any = "float64", steps: int = 0, sums: bool = True) -> float:
    """Return the most that an entry of a product of matrices is off: `gamma(n) max |A| |B| ...` (Higham 2002, 3.13).

    Args:
        factors: numpy arrays or torch tensors.
        dtype: what the product is computed in.
        steps: further roundings of each entry, such as those of the factors themselves.
        sums: whether the sums round too, so that `n` holds the inner sizes; torch adds products of 16 bits in float32.
    """
    sizes = [abs(factor.detach().double().cpu().numpy() if hasattr(factor, "detach") else factor) for factor in factors]
    bound = sizes[0]
    for size in sizes[1:]:
        bound = bound @ size
    count = steps + (sum(size.shape[0] for size in sizes[1:]) if sums else 0)
    return gamma(count, dtype) * float(np.max(bound, initial=0.0))


def factored_error(L: npt.NDArray[np.float64], R: npt.NDArray[np.float64]) -> float:
    """Return how far rounding may take two ways to `U^T L R V` apart (Frobenius norm), for `U` and `V` orthonormal.

    `gamma(n) ||L|| ||R||` with all inner sizes counted for each way.

    Args:
        L: (m, q).
        R: (q, n).
    """
    return gamma(2 * (len(L) + 2 * len(R) + R.shape[1])) * float(np.linalg.norm(L) * np.linalg.norm(R))


def solver_error(shape: tuple[int, ...], largest: float, dtype: Any = "float64") -> float:
    """Return the backward error of a stable QR, SVD or eigensolver: `p(m, n) eps sigma_1` (LAPACK Users' Guide, 4.9).

    A singular value is off by no more, and with `largest=1` the vectors are orthonormal to it. `p` is ten times the
    larger side: the "small integer constant" of Higham 2002, section 3.4, is taken as 10.
    """
    return gamma(10 * max(shape), dtype) * largest


def kept_error(k: int) -> float:
    """Return `2 sqrt(k) u`, what keeping `k` orthonormal vectors `U` in float32 does to `U^T U` and `U U^T` (2-norm).

    Each vector moves by `u` at most, `k` together by `sqrt(k) u`, and either product is of degree two.
    """
    u = unit_roundoff("float32")
    return 2 * k**0.5 * u + k * u**2


def subspace_error(sigma: npt.ArrayLike, k: int, perturbation: float) -> float:
    """Return the most by which a perturbation turns the leading `k` singular directions: `||P - P'||_2`.

    `2 ||E|| / (sigma_k - sigma_{k+1})` (Davis and Kahan 1970; Wedin 1972), and 1 where that says nothing.

    Args:
        sigma: all singular values, falling.
        k: how many directions.
        perturbation: `||E||_2`.
    """
    values = np.append(sigma, 0.0)
    gap = values[k - 1] - values[k]
    return min(1.0, 2 * perturbation / gap) if gap > 0 else 1.0


def vector_errors(sigma: npt.ArrayLike, perturbation: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the most by which a perturbation moves each singular vector, up to its sign; 2 where that says nothing.

    `4 ||E|| / gap` with the gap to the nearest other singular value and to zero: Yu, Wang and Samworth 2015,
    corollary 1, for the eigenvectors `(u, v) / sqrt(2)` of `[0 W; W^T 0]`.

    Args:
        sigma: all singular values, falling.
        perturbation: `||E||_2`, or one for each.
    """
    values = np.append(np.asarray(sigma, dtype=np.float64), 0.0)
    steps = np.abs(np.diff(values))
    gaps = np.minimum(steps, np.append(np.inf, steps[:-1]))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(gaps > 0, np.minimum(2.0, 4 * np.asarray(perturbation) / gaps), 2.0)


def basis_error(weight: npt.NDArray[np.floating[Any]], k: int) -> float:
    """Return how far the leading `k` singular vectors of a weight, kept in float32, may lie from those of another SVD.

    In the Frobenius norm and up to signs: the rounding of each vector, and what two solvers leave open of it.

    Args:
        weight: (m, n).
        k: how many.
    """
    sigma = np.linalg.svd(weight, compute_uv=False)
    solved = vector_errors(sigma, 2 * solver_error(weight.shape, sigma[0]))
    return float(np.linalg.norm(unit_roundoff("float32") + solved[:k]))


def standard_errors(samples: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the standard errors of the mean and of the standard deviation of independent samples.

    `s / sqrt(n)` and, by the delta method, `sqrt((m_4 - s^4) / n) / (2 s)`.
    """
    centred, spread = samples - samples.mean(), samples.std()
    if spread == 0:
        return 0.0, 0.0
    of_variance = np.sqrt(max(np.mean(centred**4) - spread**4, 0.0) / len(samples))
    return float(spread / len(samples) ** 0.5), float(of_variance / (2 * spread))


def outputs_error(model: "torch.nn.Module", run: "Callable[[torch.nn.Module], torch.Tensor]", draws: int = 4) -> float:
    """Return how far rounding takes the float32 outputs of two networks of one function apart.

    No formula leads through a whole network, so its condition is measured: in float64, the largest change of an output
    when each parameter moves by `u` in a random direction. A float32 sum of `n` products is off by `sqrt(n)` such
    moves (Higham and Mary 2019, theorem 3.1), and there are two networks: `2 sqrt(n)` times that.

    Args:
        model: one of the two; it is left as it is.
        run: returns its outputs.
        draws: how many random directions.
    """
    import torch

    generator, u = torch.Generator().manual_seed(0), unit_roundoff("float32")
    exact = copy.deepcopy(model).double()
    longest = max(max(parameter.shape, default=1) for parameter in exact.parameters())
    with torch.no_grad():
        want, moved = run(exact), 0.0
        for _ in range(draws):
            other = copy.deepcopy(exact)
            for parameter in other.parameters():
                parameter.mul_(1 + u * (2 * torch.randint(2, parameter.shape, generator=generator) - 1))
            moved = max(moved, (run(other) - want).abs().max().item())
    return 2 * longest**0.5 * moved
