"""Weights packed as small integers, as GPTQ and AWQ store them: by the published formulas of both, on any machine.

Their libraries unpack on a GPU only. Both hold `W = scale (q - zero)` by groups of inputs, and as many `q` as fit in a
word of 32 bits.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

_AWQ_ORDER: Final = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where AWQ puts the outputs of a word."""


@dataclass(frozen=True)
class Packing:
    """How a checkpoint packs its weights.

    Attributes:
        method: `gptq` or `awq`.
        bits: of each number: 2, 4 or 8; 4 for AWQ.
        zero_offset: what a stored zero point lacks: 1 in GPTQ's first format.
    """

    method: str
    bits: int
    zero_offset: int

    @classmethod
    def of(cls, quantization: object) -> "Packing | None":
        """Return the packing that a model's `quantization_config` states; None for one that is not read."""
        if not isinstance(quantization, dict):
            return None
        method, bits = str(quantization.get("quant_method", "")).lower(), quantization.get("bits", 4)
        if method == "gptq" and bits in (2, 4, 8):
            return cls(method, bits, 0 if quantization.get("checkpoint_format") == "gptq_v2" else 1)
        if method == "awq" and bits == 4 and str(quantization.get("version", "gemm")).lower() == "gemm":
            return cls(method, bits, 0)
        return None

    @property
    def per_word(self) -> int:
        """Numbers in a word of 32 bits."""
        return 32 // self.bits

    def shape(self, words: tuple[int, ...]) -> tuple[int, int]:
        """Return `(m, n)`, out x in, of the weight whose packed words have a shape; (0, 0) where it is not a matrix."""
        rows, columns = words if len(words) == 2 else (0, 0)
        return (columns, rows * self.per_word) if self.method == "gptq" else (columns * self.per_word, rows)

    def unpack(
        self, words: np.ndarray, zeros: np.ndarray, scales: np.ndarray, groups: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the weight, (m, n), out x in, float32.

        Args:
            words: `qweight`, int32: (n / per_word, m) for GPTQ, (n, m / per_word) for AWQ.
            zeros: `qzeros`, int32, (groups, m / per_word).
            scales: (groups, m).
            groups: `g_idx`, (n,): the group of each input; equal runs by default.

        Raises:
            ValueError: the parts do not fit each other.
        """
        if any(each.ndim != 2 or each.size == 0 for each in (words, zeros, scales)):
            raise ValueError(f"words {words.shape}, zero points {zeros.shape} and scales {scales.shape}")
        values, points = (self._numbers(each, 0 if each is words else 1) for each in (words, zeros))
        n, (count, m) = len(values), scales.shape
        if groups is None:
            if n % count:
                raise ValueError(f"{n} inputs in {count} groups")
            groups = np.repeat(np.arange(count), n // count)
        if values.shape != (n, m) or points.shape != (count, m) or groups.shape != (n,):
            raise ValueError(f"numbers {values.shape}, zero points {points.shape} and scales {scales.shape}")
        if groups.dtype.kind != "i" or groups.min() < 0 or groups.max() >= count:
            raise ValueError(f"inputs in other groups than {count}")
        centered = values - (points + self.zero_offset)[groups]
        return np.ascontiguousarray((scales.astype(np.float32)[groups] * centered.astype(np.float32)).T)

    def _numbers(self, words: np.ndarray, axis: int) -> Any:
        """Return the numbers in words: along their rows for GPTQ's weights, along their columns otherwise."""
        shifts = np.arange(0, 32, self.bits, dtype=np.uint32)
        found = (words.view(np.uint32)[..., None] >> shifts & np.uint32(2**self.bits - 1)).astype(np.int32)
        if self.method == "awq":
            return found[..., _AWQ_ORDER].reshape(len(words), -1)
        if axis == 1:
            return found.reshape(len(words), -1)
        return found.transpose(0, 2, 1).reshape(-1, words.shape[1])
