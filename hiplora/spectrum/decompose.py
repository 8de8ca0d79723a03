"""The numerical core: singular triplets of one weight, on CPU (scipy) or on the device of a CUDA tensor (torch)."""

import threading
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg
from threadpoolctl import ThreadpoolController

from hiplora.files import require_finite
from hiplora.spectrum.spectrum import Spectrum, content_hash

if TYPE_CHECKING:
    import torch

# Below this the Gram matrix has squared away the digits that u_i = W v_i / sigma_i needs.
_SMALLEST_GRAM_RATIO = 1e-5


def decompose(
    weight: "np.ndarray | torch.Tensor",
    k: int | None = None,
    *,
    weight_hash: str | None = None,
    device: str | None = None,
) -> Spectrum:
    """Return the leading `k` singular triplets of a weight.

    All of them (`k=None`, or `k` close to full) come from a dense SVD in float64; a few from the eigenvectors of the
    smaller Gram matrix in float64, which is 5 to 10 times as fast, unless `sigma_k / sigma_1` is so small that the
    Gram matrix has lost it. Either way the residual is computed against the weight itself.

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
        with _BLAS_LOCK, _one_blas_thread():
            U, sigma, Vt, frobenius, residual, algorithm = _solve(W, k, _Cpu)
    else:
        import torch

        # numpy first: torch does not read every dtype that ml_dtypes lends it.
        source = weight.astype(np.float64) if isinstance(weight, np.ndarray) else weight.detach()
        tensor = torch.as_tensor(source, device=device).double()
        # A sum is finite only where all its parts are; a solver on a GPU may raise an error of its own instead.
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
    """The three routines the solver needs, in numpy and scipy."""

    name = ""
    column_norms = staticmethod(lambda W: np.linalg.norm(W, axis=0))

    @staticmethod
    def svd(W: np.ndarray) -> Any:
        """Return the thin SVD; by numpy, which lets other threads (the app) go on meanwhile, as scipy does not."""
        return np.linalg.svd(W, full_matrices=False)

    @staticmethod
    def leading_eigenvectors(gram: np.ndarray, k: int) -> np.ndarray:
        """Return the eigenvectors of the `k` largest eigenvalues as columns, largest first."""
        chosen = [len(gram) - k, len(gram) - 1]
        _, vectors = scipy.linalg.eigh(gram, subset_by_index=chosen, overwrite_a=True, check_finite=False)
        return vectors[:, ::-1]


def _one_blas_thread() -> Any:
    """Return a context in which numpy and scipy use one thread.

    A decomposition has thousands of short parallel steps, and OpenBLAS waits actively at the end of each. Where another
    process has taken a core, two threads are 6 to 20 times as slow as one; on a quiet machine they save little. One
    thread also gives the same bits whatever number a process was started with.
    """
    return _blas().limit(limits=1, user_api="blas")


# The limit is the process's: a second thread that set and lifted it in between would undo it.
_BLAS_LOCK = threading.Lock()


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


class _Torch:
    """The same three in torch, on the device of the weight."""

    name = "torch-"

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
    m, n = W.shape
    found = None
    if 4 * k <= min(m, n):
        near = routines.leading_eigenvectors(W.T @ W if n <= m else W @ W.T, k)
        far = W @ near if n <= m else W.T @ near
        sigma = routines.column_norms(far)
        if sigma[-1] > _SMALLEST_GRAM_RATIO * sigma[0]:
            far = far / sigma
            found = (far, sigma, near.T) if n <= m else (near, sigma, far.T)
    algorithm = routines.name + ("gram-float64" if found else "svd-float64")
    if not found:
        U, sigma, Vt = routines.svd(W)
        found = U[:, :k], sigma[:k], Vt[:k]
    U, sigma, Vt = found
    largest = float(sigma[0])
    # Either side vanishes by construction on one of the two ways of the Gram matrix: the larger one tells.
    misses = (routines.column_norms(W.T @ U - Vt.T * sigma), routines.column_norms(W @ Vt.T - U * sigma))
    residual = max(float(miss.max()) for miss in misses) / largest if largest else 0.0
    return U, sigma, Vt, float((W * W).sum()) ** 0.5, residual, algorithm
