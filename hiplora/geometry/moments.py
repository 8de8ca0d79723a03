"""The second moment of what reaches a linear map, and its square root (METHOD.md section 8)."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from hiplora.errors import HiploraError

if TYPE_CHECKING:
    import torch

COMPLETE_UP_TO = 2048
"""Inputs up to this size keep all components of their moment."""
LEADING = 512
"""Components kept of larger inputs; the rest counts as isotropic."""
RIDGE = 1e-6
"""Added to every component, relative to their mean: what no token used would otherwise count for nothing at all."""
_CHUNK = 512


@dataclass(frozen=True)
class Moments:
    """`M = E[x x^T]` of a map's inputs: `M = Q diag(values) Q^T + rest (I - Q Q^T)`, ridge included.

    Attributes:
        vectors: `Q^T`, components of the inputs as rows, (t, n), float32.
        values: their mean squares, (t,), float64, falling.
        rest: mean square of every other component; 0 where all are held.
        error: `||M - what is held||_F / ||M||_F`; 0 where all components are held.
        difference: `||M_1 - M_2||_F / ||M||_F` of the two halves of the text.
    """

    vectors: np.ndarray
    values: np.ndarray
    rest: float = 0.0
    error: float = 0.0
    difference: float = 0.0

    @property
    def size(self) -> int:
        """`n`, the number of inputs."""
        return int(self.vectors.shape[1])

    @property
    def trace(self) -> float:
        """`tr M = E||x||^2`."""
        return float(self.values.sum()) + (self.size - len(self.values)) * self.rest

    @property
    def square(self) -> float:
        """`tr M^2`."""
        return float(np.sum(self.values**2)) + (self.size - len(self.values)) * self.rest**2

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what the moment is made of, as hex."""
        found = hashlib.sha256(np.ascontiguousarray(self.vectors).data)
        found.update(np.append(self.values, self.rest).tobytes())
        return found.hexdigest()

    def root(self, rows: np.ndarray) -> np.ndarray:
        """Return `rows K`, (q, n), with the symmetric square root `K K = M`.

        >>> moments = Moments(np.eye(2, dtype=np.float32), np.array([4.0, 1.0]))
        >>> moments.root(np.array([[1.0, 1.0]]))
        array([[2., 1.]])

        Args:
            rows: (q, n), float64.
        """
        Q = np.asarray(self.vectors, dtype=np.float64)
        scale = np.sqrt(self.values) - np.sqrt(self.rest)
        return ((rows @ Q.T) * scale) @ Q + np.sqrt(self.rest) * rows


def moments_of(inputs: "torch.Tensor") -> Moments:
    """Return the moments of a map's inputs.

    All components of up to `COMPLETE_UP_TO` inputs come from a dense eigendecomposition in float64; the `LEADING` ones
    of more from torch's randomized SVD in float32, with what that leaves out measured.

    Args:
        inputs: (tokens, n), at least two tokens, on any device; the two halves of the text in their order.

    Raises:
        HiploraError: fewer than two tokens, or NaN or infinity among them.
    """
    import torch

    tokens, n = inputs.shape
    if tokens < 2:
        raise HiploraError(f"{tokens} tokens are too few to observe inputs on: at least 2 are needed.")
    if not bool(torch.isfinite(inputs).all()):
        raise HiploraError("The base computes NaN or infinity on this text: its inputs cannot be observed.")
    halves = [half.double() if n <= COMPLETE_UP_TO else half.float() for half in inputs.split(-(-tokens // 2))]
    if n <= COMPLETE_UP_TO:
        own = [half.T @ half / len(half) for half in halves]
        M = _mean(halves, own)
        values, vectors = torch.linalg.eigh(M)
        values, Q = values.flip(0).clamp(min=0), vectors.T.flip(0)
        difference, error, rest = float((own[0] - own[1]).norm() / M.norm().clamp(min=1e-300)), 0.0, 0.0
    else:
        whole = torch.cat(halves)
        with torch.random.fork_rng([] if whole.device.type == "cpu" else [whole.device]):
            torch.manual_seed(0)
            _, s, V = torch.svd_lowrank(whole, q=min(LEADING + 32, tokens, n), niter=4)
        values, Q = (s[:LEADING].double() ** 2) / tokens, V[:, :LEADING].T
        power = sum(float(rows.double().square().sum()) for rows in whole.split(_CHUNK))
        rest = max(power / tokens - float(values.sum()), 0.0) / (n - len(values))
        difference, error = _compare(halves, Q, values, rest)
    ridge = RIDGE * (float(values.sum()) + (n - len(values)) * rest) / n
    return Moments(
        vectors=Q.float().cpu().contiguous().numpy(),
        values=values.double().cpu().numpy() + ridge,
        rest=rest + ridge if len(values) < n else 0.0,
        error=error,
        difference=difference,
    )


def _mean(halves: "list[torch.Tensor]", of_each: "list[torch.Tensor]") -> "torch.Tensor":
    """Return the mean over all tokens of what was averaged over each half."""
    first, second = (len(half) for half in halves)
    return (first * of_each[0] + second * of_each[1]) / (first + second)


def _compare(
    halves: "list[torch.Tensor]", Q: "torch.Tensor", values: "torch.Tensor", rest: float
) -> tuple[float, float]:
    """Return by how much the halves' moments differ, and what is held from the whole, both relative to the whole.

    A block of columns at a time: no n x n matrix is formed.
    """
    n = halves[0].shape[1]
    difference = miss = whole = 0.0
    for start in range(0, n, _CHUNK):
        columns = slice(start, min(start + _CHUNK, n))
        own = [half.T @ half[:, columns] / len(half) for half in halves]
        M = _mean(halves, own)
        held = Q.T @ ((values.to(Q) - rest)[:, None] * Q[:, columns])
        held[columns].diagonal().add_(rest)
        difference += float((own[0] - own[1]).double().square().sum())
        miss += float((M - held).double().square().sum())
        whole += float(M.double().square().sum())
    return (difference / whole) ** 0.5 if whole else 0.0, (miss / whole) ** 0.5 if whole else 0.0
