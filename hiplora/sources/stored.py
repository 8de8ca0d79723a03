"""The tensors of a checkpoint by key; quantized ones as the numbers that they stand for, one at a time."""

import importlib.util
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from hiplora.errors import HiploraError
from hiplora.files import Tensors
from hiplora.sources.integers import Packing

if TYPE_CHECKING:
    import torch

_UNQUANTIZED = {"F64", "F32", "F16", "BF16"}
_FLOAT8 = ("F8_E4M3", "F8_E5M2")
_PACKED = (".qweight", ".weight_packed")


@dataclass(frozen=True)
class _Quantized:
    """How one tensor is packed: `fp8`, `mxfp4`, `bnb4`, `bnb8`, `integers` or by name, and the keys that it takes."""

    form: str
    keys: tuple[str, ...]
    shape: tuple[int, ...]


class StoredTensors:
    """The tensors of the files of one checkpoint.

    float8 with scales by block (`weight_scale_inv`) or by tensor and row (`weight_scale`), MXFP4, GPTQ, AWQ and the two
    forms of bitsandbytes are dequantized on reading, in float32. Others are named when they are read.

    Args:
        files: of the checkpoint; the first that has a key counts.
        quantization: `quantization_config` of the model.
    """

    def __init__(self, files: Sequence[Tensors], quantization: object = None):
        sizes = quantization.get("weight_block_size") if isinstance(quantization, dict) else None
        self._block = tuple(sizes) if isinstance(sizes, list) and all(isinstance(n, int) for n in sizes) else None
        self._packing = Packing.of(quantization)
        self._files = {key: file for file in reversed(files) for key in file.shapes}
        self._order = [key for file in files for key in file.shapes]

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """`{key: shape}` in the order of the files, without the scales of quantized tensors."""
        helpers = {key for found in self._quantized.values() for key in found.keys}
        found = {}
        for key in dict.fromkeys(self._order):
            if key not in helpers:
                found[key] = self._files[key].shapes[key]
        return found | {key: packed.shape for key, packed in self._quantized.items() if packed.shape}

    @property
    def unreadable(self) -> list[str]:
        """One sentence for tensors that are packed in a form that is not read, if there are any."""
        packed = [(key, found) for key, found in self._quantized.items() if not found.shape]
        if not packed:
            return []
        key, found = packed[0]
        return [
            f"{self._files[found.keys[0]].path}: {len(packed)} matrices, such as {key.removesuffix('.weight')}, are "
            f"quantized by {found.form}, which is not read: pass the model in 16 or 32 bits."
        ]

    def file(self, key: str) -> Tensors:
        """Return the file that holds a tensor, or the first part of it."""
        packed = self._quantized.get(key)
        return self._files[packed.keys[0] if packed else key]

    def read(self, key: str, index: int | None = None) -> np.ndarray:
        """Return a tensor, or one slice of its first dimension, in its stored dtype; float32 where it is quantized.

        Raises:
            HiploraError: it cannot be read, or is quantized in a form that cannot be read here.
        """
        packed = self._quantized.get(key)
        if packed is not None:
            return self._dequantize(key, packed, index)
        file = self._files[key]
        if file.dtypes[key] not in _UNQUANTIZED:
            raise HiploraError(
                f"{file.path}: {key} is quantized ({file.dtypes[key]}), and its scale lies elsewhere: pass the model "
                "in 16 or 32 bits."
            )
        return file.read(key) if index is None else file.read_slice(key, index)

    def read_torch(self, key: str) -> "torch.Tensor":
        """Return a tensor as one of torch, in its stored dtype; float32 where it is quantized.

        Raises:
            HiploraError: as `read`.
        """
        import torch

        array = self.read(key)
        if array.dtype.name == "bfloat16":  # not one of numpy's own dtypes
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    @cached_property
    def _quantized(self) -> dict[str, _Quantized]:
        found = {}
        for key, file in self._files.items():
            dtype = file.dtypes[key]
            if dtype in _UNQUANTIZED:
                continue
            stem, _, leaf = key.rpartition(".")
            if dtype in _FLOAT8:
                scale = next((s for s in (f"{key}_scale_inv", f"{key}_scale") if s in self._files), "")
                if scale:
                    found[key] = _Quantized("fp8", (key, scale), file.shapes[key])
            elif key.endswith("_blocks") and f"{key.removesuffix('_blocks')}_scales" in self._files:
                name = key.removesuffix("_blocks")
                *outer, rows, groups, half = file.shapes[key]
                found[name] = _Quantized("mxfp4", (key, f"{name}_scales"), (*outer, groups * half * 2, rows))
            elif dtype == "I8" and f"{stem}.SCB" in self._files:
                found[key] = _Quantized("bnb8", (key, f"{stem}.SCB"), file.shapes[key])
            elif dtype == "U8" and (state := next(self._starting(f"{key}.quant_state."), None)):
                found[key] = _Quantized("bnb4", (key, state, *self._starting(f"{key}.")), self._bnb_shape(state))
            elif leaf == "qweight" and self._packing and {f"{stem}.qzeros", f"{stem}.scales"} <= self._files.keys():
                parts = (key, f"{stem}.qzeros", f"{stem}.scales", *self._starting(f"{stem}.g_idx"))
                found[f"{stem}.weight"] = _Quantized("integers", parts, self._packing.shape(file.shapes[key]))
            elif key.endswith(_PACKED):
                form = "GPTQ or AWQ" if leaf == "qweight" else "compressed-tensors"
                found[f"{stem}.weight"] = _Quantized(form, (key,), ())
        return found

    def _starting(self, start: str) -> Iterator[str]:
        return (key for key in self._files if key.startswith(start))

    def _bnb_shape(self, state: str) -> tuple[int, ...]:
        try:
            return tuple(int(size) for size in json.loads(self._files[state].read(state).tobytes())["shape"])
        except (ValueError, KeyError, TypeError):
            path = self._files[state].path
            raise HiploraError(f"{path}: {state} is not a state of bitsandbytes: save the model again.") from None

    def _torch(self, key: str, index: int | None = None) -> "torch.Tensor":
        return self._files[key].read_torch(key, index)

    def _dequantize(self, key: str, packed: _Quantized, index: int | None) -> np.ndarray:
        path, form = self._files[packed.keys[0]].path, packed.form
        if form == "fp8":
            weight, scale = (self._torch(each, index) for each in packed.keys)
            # Bytes are exponents of two.
            factors = np.exp2(scale.numpy() - 127.0) if scale.dtype.itemsize == 1 else scale.float().numpy()
            return _by_blocks(weight.float().numpy(), factors.astype(np.float32), self._block, f"{path}: {key}")
        if form == "bnb8":
            codes, rows = (self._torch(each).float().numpy() for each in packed.keys)
            return np.asarray(codes * (rows.reshape(-1, 1) / 127), dtype=np.float32)
        if form == "mxfp4":
            import torch
            from transformers.integrations.mxfp4 import convert_moe_packed_tensors

            chosen = slice(None) if index is None else slice(index, index + 1)
            blocks, scales = (self._torch(each)[chosen] for each in packed.keys)
            values = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).numpy()
            return values if index is None else values[0]
        if form == "bnb4":
            if importlib.util.find_spec("bitsandbytes") is None:
                raise HiploraError(
                    f"{path}: {key} is quantized by bitsandbytes to 4 bits: `pip install bitsandbytes` to read it, or "
                    "pass the model in 16 or 32 bits."
                )
            from bitsandbytes.functional import QuantState, dequantize_4bit

            state = {each.removeprefix(f"{key}."): self._torch(each) for each in packed.keys[1:]}
            quant_state = QuantState.from_dict(state, device="cpu")
            return np.asarray(dequantize_4bit(self._torch(key), quant_state).float().numpy())
        if form == "integers" and self._packing is not None:
            try:
                return self._packing.unpack(*(self._files[each].read(each) for each in packed.keys))
            except ValueError as error:
                raise HiploraError(
                    f"{path}: the parts of {key} do not fit each other ({error}): save the model again."
                ) from None
        raise HiploraError(f"{path}: {packed.keys[0]} is quantized by {form}: pass the model in 16 or 32 bits.")


def _by_blocks(weight: np.ndarray, scale: np.ndarray, block: tuple[int, ...] | None, what: str) -> np.ndarray:
    """Return `weight * scale`, with one scale for each block of rows and columns, for each row, or for all.

    Args:
        weight: any shape.
        scale: one number, one for each row, or as many dimensions as the weight.
        block: size of a block in the last two dimensions; by default as many equal ones as there are scales.
        what: for errors.
    """
    if scale.size == 1:
        return weight * scale.reshape(())
    if scale.ndim == weight.ndim - 1:
        scale = scale[..., None]
    sizes = dict(zip(range(weight.ndim - len(block or ()), weight.ndim), block or (), strict=True))
    if scale.ndim == weight.ndim:
        for axis, (length, count) in enumerate(zip(weight.shape, scale.shape, strict=True)):
            size = length if count == 1 else 1 if count == length else sizes.get(axis, length // count)
            if -(-length // size) != count:
                break
            scale = np.repeat(scale, size, axis=axis).take(range(length), axis=axis)
    if scale.shape != weight.shape:
        raise HiploraError(f"{what} has scales that do not fit it: save the model again, or pass it in 16 or 32 bits.")
    return weight * scale
