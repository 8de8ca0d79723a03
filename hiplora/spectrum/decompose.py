"""The numerical core: singular triplets of one weight, on CPU (numpy) or on the device of a CUDA tensor (torch)."""

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg

from hiplora.files import require_finite
from hiplora.spectrum.blas import one_blas_thread
from hiplora.spectrum.spectrum import Spectrum, content_hash

if TYPE_CHECKING:
    import torch

    _Triplets = tuple[np.ndarray, np.ndarray, np.ndarray]

# Below this the Gram matrix has squared away the digits that u_i = W v_i / sigma_i needs.
_SMALLEST_GRAM_RATIO = 1e-5
# Blocks of a Krylov space before it is checked, and the fewest columns of a block. The first is enough for the
# singular values of language models, which have no gap at k, the second for those of a random matrix.
_KRYLOV_DEPTHS = (14, 24)
_SMALLEST_BLOCK = 32
# A weight must have this many times the columns of the first space: below that, the Gram matrix is as fast.
_KRYLOV_FROM = 2
# Largest `||W^T u_i - sigma_i v_i|| / sigma_i` of what came from a Krylov space: what rounding the vectors to float32
# adds to it anyway. Above the second, correcting takes longer than a larger space.
_KRYLOV_TOLERANCE = 1e-7
_WORTH_CORRECTING = 1e-4
_CORRECTIONS = 5


def decompose(
    weight: "np.ndarray | torch.Tensor",
    k: int | None = None,
    *,
    weight_hash: str | None = None,
    device: str | None = None,
) -> Spectrum:
    """Return the leading `k` singular triplets of a weight.

    All of them (`k=None`, or `k` close to full) come from a dense SVD in float64. A few of a large weight come from a
    block Krylov space in float32, corrected in float64 until each residual is below 1e-7 of its own singular value.
    Where that is not reached, and for smaller weights, they come from the eigenvectors of the smaller Gram matrix in
    float64, unless `sigma_k / sigma_1` is so small that the Gram matrix has lost it. In every case the residual is
    computed in float64 against the weight itself.

    Args:
        weight: (m, n), out x in, numpy or torch.
        k: how many, `1 <= k <= min(m, n)`; None for all.
        weight_hash: `content_hash(weight)` when it is known already.
        device: where to compute, such as `cuda`; by default where the weight is.

    Raises:
        HiploraError: the weight holds NaN or infinity.
        ValueError: the weight is not a matrix or `k` is out of range.
    """
    if weight.ndim != 2:
        raise ValueError(f"a weight must be a matrix, got shape {tuple(weight.shape)}")
    m, n = (int(d) for d in weight.shape)
    k = min(m, n) if k is None else k
    if not 1 <= k <= min(m, n):
        raise ValueError(f"k must be between 1 and min{(m, n)}, got {k}")
    if device is None:
        device = "cpu" if isinstance(weight, np.ndarray) else str(weight.device)
    if device == "cpu":
        W = np.asarray(weight if isinstance(weight, np.ndarray) else weight.detach().cpu().double(), dtype=np.float64)
        require_finite(W, "the weight")
        with one_blas_thread():
            U, sigma, Vt, frobenius, residual, algorithm = _solve(W, k, _Cpu)
    else:
        import torch

        # numpy first: torch cannot read every dtype that ml_dtypes adds to numpy.
        source = weight.astype(np.float64) if isinstance(weight, np.ndarray) else weight.detach()
        tensor = torch.as_tensor(source, device=device).double()
        # A sum is finite only if all its terms are. Checked first: a solver on a GPU may raise an error of its own.
        require_finite(tensor.abs().sum().cpu().numpy(), "the weight")
        found = _solve(tensor, k, _Torch)
        U, sigma, Vt = (part.cpu().numpy() for part in found[:3])
        frobenius, residual, algorithm = found[3:]
    flip = np.take_along_axis(U, np.abs(U).argmax(axis=0)[None], axis=0)[0] < 0
    signs = np.where(flip, -1.0, 1.0)
    return Spectrum(
        Ut=np.ascontiguousarray((U * signs).T, dtype=np.float32),
        sigma=sigma,
        Vt=np.ascontiguousarray(Vt * signs[:, None], dtype=np.float32),
        shape=(m, n),
        frobenius=frobenius,
        residual=residual,
        algorithm=algorithm,
        weight_hash=weight_hash or content_hash(weight),
    )


class _Cpu:
    """The routines the solver needs, in numpy and scipy."""

    name = ""
    norm = staticmethod(np.linalg.norm)
    column_norms = staticmethod(lambda W: np.linalg.norm(W, axis=0))

    @staticmethod
    def svd(W: np.ndarray) -> Any:
        """Return the thin SVD, by numpy: unlike scipy, it lets other threads (the app) run meanwhile."""
        return np.linalg.svd(W, full_matrices=False)

    @staticmethod
    def leading_eigenvectors(gram: np.ndarray, k: int) -> np.ndarray:
        """Return the eigenvectors of the `k` largest eigenvalues as columns, largest first."""
        chosen = [len(gram) - k, len(gram) - 1]
        _, vectors = scipy.linalg.eigh(gram, subset_by_index=chosen, overwrite_a=True, check_finite=False)
        return vectors[:, ::-1]


class _Torch:
    """The same in torch, on the device of the weight."""

    name = "torch-"

    @staticmethod
    def norm(W: "torch.Tensor") -> "torch.Tensor":
        import torch

        return torch.linalg.vector_norm(W)

    @staticmethod
    def svd(W: "torch.Tensor") -> Any:
        import torch

        return torch.linalg.svd(W, full_matrices=False)

    @staticmethod
    def column_norms(W: "torch.Tensor") -> "torch.Tensor":
        import torch

        return torch.linalg.vector_norm(W, dim=0)

    @staticmethod
    def leading_eigenvectors(gram: "torch.Tensor", k: int) -> "torch.Tensor":
        import torch

        return torch.linalg.eigh(gram)[1][:, -k:].flip(1)


def _solve(W: Any, k: int, routines: Any) -> tuple[Any, Any, Any, float, float, str]:
    """Return `U (m, k), sigma (k), Vt (k, n), ||W||_F, residual, algorithm` of a float64 matrix, numpy or torch."""
    found, algorithm = _krylov(W, k) if routines is _Cpu else None, "krylov-mixed"
    if not found:
        found, algorithm = _gram(W, k, routines), "gram-float64"
    if not found:
        found, algorithm = routines.svd(W), "svd-float64"
    U, sigma, Vt = found[0][:, :k], found[1][:k], found[2][:k]
    largest = float(sigma[0])
    # With a Gram matrix, one of the two vanishes by construction: the larger one counts.
    misses = (routines.column_norms(W.T @ U - Vt.T * sigma), routines.column_norms(W @ Vt.T - U * sigma))
    residual = max(float(miss.max()) for miss in misses) / largest if largest else 0.0
    return U, sigma, Vt, float(routines.norm(W)), residual, routines.name + algorithm


def _gram(W: Any, k: int, routines: Any) -> Any:
    """Return triplets by the eigenvectors of the smaller Gram matrix; None if it has lost them or saves nothing."""
    m, n = W.shape
    if 4 * k > min(m, n):
        return None
    near = routines.leading_eigenvectors(W.T @ W if n <= m else W @ W.T, k)
    far = W @ near if n <= m else W.T @ near
    sigma = routines.column_norms(far)
    if not sigma[-1] > _SMALLEST_GRAM_RATIO * sigma[0]:
        return None
    far = far / sigma
    return (far, sigma, near.T) if n <= m else (near, sigma, far.T)


def _krylov(W: np.ndarray, k: int) -> "_Triplets | None":
    """Return triplets of a large float64 matrix; None if they are not found, or the matrix is too small.

    A block Krylov space of `W^T W` in float32, fully orthogonalized. Rounding leaves errors of 1e-6 in its triplets;
    the space is also an approximate inverse of `sigma_i^2 - W^T W`, so Davidson's method corrects them in float64. Only
    products of matrices are large, and other threads (the app) go on meanwhile.
    """
    m, n = W.shape
    if m < n:
        swapped = _krylov(W.T, k)
        return swapped and (swapped[2].T, swapped[1], swapped[0].T)
    block = max(k, _SMALLEST_BLOCK)
    scale = float(max(W.max(), -W.min()))
    if _KRYLOV_FROM * _KRYLOV_DEPTHS[0] * block > n or scale == 0:
        return None
    single = np.divide(W, scale, out=np.empty_like(W, dtype=np.float32), casting="same_kind")
    space, image = (np.empty((side, _KRYLOV_DEPTHS[-1] * block), np.float32) for side in (n, m))
    # A fixed start: the same weight gives the same bits.
    new = np.random.default_rng(0).standard_normal((n, block), np.float32)
    for stop in range(block, space.shape[1] + 1, block):
        known = space[:, : stop - block]
        for _ in range(2):
            new -= known @ (known.T @ new)
        space[:, stop - block : stop] = np.linalg.qr(new)[0]
        image[:, stop - block : stop] = single @ space[:, stop - block : stop]
        if stop // block in _KRYLOV_DEPTHS:
            values, coordinates = np.linalg.eigh((image[:, :stop].T @ image[:, :stop]).astype(np.float64))
            ritz = space[:, :stop] @ coordinates[:, ::-1].astype(np.float32)
            found = _corrected(W, k, scale * np.sqrt(np.maximum(values[::-1], 0)), ritz)
            if found:
                return found
        new = single.T @ image[:, stop - block : stop]
    return None


def _corrected(W: np.ndarray, k: int, roots: np.ndarray, ritz: np.ndarray) -> "_Triplets | None":
    """Return the leading triplets near a space, corrected by Davidson's method; None if they do not become exact.

    Args:
        W: (m, n), float64.
        k: how many.
        roots: (d,), roots of the Ritz values of `W^T W`, falling.
        ritz: (n, d), float32, their vectors.
    """
    space = np.linalg.qr(ritz[:, :k].astype(np.float64))[0]
    image = W @ space
    for _ in range(_CORRECTIONS):
        U, sigma, Zt = np.linalg.svd(image, full_matrices=False)
        U, sigma, V, image = U[:, :k], sigma[:k], space @ Zt[:k].T, image @ Zt[:k].T
        miss = W.T @ U - V * sigma
        misses = np.linalg.norm(miss, axis=0)
        if (misses <= _KRYLOV_TOLERANCE * sigma).all():
            return U, sigma, V.T
        if (misses > _WORTH_CORRECTING * sigma).any():
            return None
        # sigma_i^2 (sigma_i^2 - W^T W)^-1 times the residual, approximately: by the Ritz pairs beyond k, and as if
        # W^T W were zero where the space does not reach. The part along V itself is removed below.
        shifted = 1 - (roots[k:, None] / sigma) ** 2
        shifted[shifted == 0] = np.inf
        miss /= sigma
        part = ritz[:, k:].T @ miss.astype(np.float32)
        step = miss + ritz[:, k:] @ (part * (1 / shifted - 1)).astype(np.float32)
        for _ in range(2):
            step -= V @ (V.T @ step)
        step = np.linalg.qr(step)[0]
        space, image = np.hstack([V, step]), np.hstack([image, W @ step])
    return None
