"""A spectrum: the leading singular triplets of one frozen weight, with their accuracy."""

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Spectrum:
    """Singular triplets `W0 = U S V^T` of a weight, largest first, in canonical sign.

    The sign makes the largest component of each `u_i` positive. The vectors are stored as rows, so that the first
    `k` of them are one contiguous block.

    Attributes:
        Ut: left singular vectors as rows, (k, m), float32.
        sigma: all known singular values, (k,), float64, falling.
        Vt: right singular vectors as rows, (k, n), float32.
        shape: `(m, n)`, out x in.
        frobenius: `||W0||_F` of the whole weight, not of the k triplets alone.
        residual: `max_i max(||W0^T u_i - sigma_i v_i||, ||W0 v_i - sigma_i u_i||) / sigma_1`, before the vectors are
            rounded to float32: the accuracy of the triplets.
        algorithm: how they were found.
        weight_hash: `content_hash` of the weight.
    """

    Ut: np.ndarray
    sigma: np.ndarray
    Vt: np.ndarray
    shape: tuple[int, int]
    frobenius: float
    residual: float
    algorithm: str
    weight_hash: str

    @property
    def k(self) -> int:
        """Number of triplets held."""
        return len(self.Ut)

    @property
    def complete(self) -> bool:
        """Whether all `min(m, n)` triplets are held."""
        return self.k == min(self.shape)

    def truncate(self, k: int) -> "Spectrum":
        """Return the leading `k` triplets, as views.

        Raises:
            ValueError: `k` is not between 1 and the number held.
        """
        if not 1 <= k <= self.k:
            raise ValueError(f"k must be between 1 and {self.k}, got {k}")
        return replace(self, Ut=self.Ut[:k], sigma=self.sigma[:k], Vt=self.Vt[:k])


@dataclass(frozen=True)
class InputSpectrum(Spectrum):
    """The leading singular triplets of `W0 K`, `K K^T = M = E[x x^T]`, and what they are to the inputs of the map.

    With `g_i = K v'_i`, an update with independent entries in the coordinates of the inputs has the expected share
    `||g_i||^2 / tr M` of its effect `dW K` on the right direction `i` (METHOD.md section 8).

    Attributes:
        gram: `g_i . g_j / tr M`, (k, k), float32.
        through: `||K g_i||^2 / (tr M)^2`, (k,), float64.
        spread: `tr M^2 / (tr M)^2`: `1/n` where inputs are isotropic, 1 where they have one direction.
    """

    gram: np.ndarray
    through: np.ndarray
    spread: float

    def truncate(self, k: int) -> "InputSpectrum":
        """Return the leading `k` triplets, as views.

        Raises:
            ValueError: `k` is not between 1 and the number held.
        """
        leading = super().truncate(k)
        assert isinstance(leading, InputSpectrum)
        return replace(leading, gram=self.gram[:k, :k], through=self.through[:k])


def content_hash(weight: "np.ndarray | torch.Tensor") -> str:
    """Return the SHA-256 of a weight's dtype, shape and bytes, as hex.

    A bfloat16 and a float32 copy of one weight are two weights: their bases differ.

    Args:
        weight: (m, n), out x in, any dtype, numpy or torch on any device.
    """
    if isinstance(weight, np.ndarray):
        data, dtype = np.ascontiguousarray(weight).view(np.uint8), weight.dtype.name
    else:
        import torch

        data = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        dtype = str(weight.dtype).removeprefix("torch.")
    digest = hashlib.sha256(f"{dtype}:{tuple(weight.shape)}:".encode())
    digest.update(data.data)
    return digest.hexdigest()
