"""A causal language model that holds one block at a time: weights are read as the data reach them, and dropped."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from hiplora.errors import HiploraError
from hiplora.sources.base import BaseModel
from hiplora.sources.transformers_models import outline_causal_lm

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel


def stream_causal_lm(base: BaseModel, device: str) -> "tuple[PreTrainedModel, list[str]]":
    """Build a causal language model whose weights stay on disk: a forward pass reads each block as it runs.

    A block is an entry of a `ModuleList`, such as a layer of the decoder. What lies outside of them (embeddings, the
    last norm, the head) is read alone. The one before is dropped, so memory follows the largest of them. Parameters are
    made from the files as transformers makes them (renamed, merged, tied); quantized ones are dequantized.

    Processors compute in float32, since they multiply 16-bit numbers slowly, if at all; GPUs in the dtype that the
    config names.

    Args:
        base: whose files are read.
        device: to compute on.

    Returns:
        The model, and the names of its parameters that are not in the files, such as those of another head.

    Raises:
        HiploraError: transformers cannot build it without code that comes with it. A forward pass raises it too, where
            a weight that it needs is not in the files, of another size or cannot be read.
    """
    import torch

    model = outline_causal_lm(base.path, dtype=torch.float32 if device == "cpu" else None).eval()
    model.requires_grad_(requires_grad=False)
    # Buffers such as the frequencies of rotary embeddings are computed, not read. Nothing else has data to initialize.
    for name, buffer in list(model.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, torch.empty_like(buffer, device=device))
    model.initialize_weights()
    return model, _Stream(base, model, device).missing


class _Stream:
    """Puts weights into a model when data reach them, by its hooks."""

    def __init__(self, base: BaseModel, model: "PreTrainedModel", device: str):
        self._base, self._model, self._device = base, model, device
        self._sources = base.parameters(model)
        self._tied: dict[str, str] = getattr(model, "all_tied_weights_keys", {})
        self._held: nn.Module | None = None
        self._empty: dict[str, torch.Tensor] = {}
        inside = set()
        for prefix, part in _parts(model):
            for module in part.modules():
                inside.add(module)
                # All of them, since some models call the modules of a block but not the block.
                module.register_forward_pre_hook(lambda *_, prefix=prefix, part=part: self._enter(prefix, part))
            if _is_lookup(part):
                dtype = part.weight.dtype
                part.register_forward_hook(lambda _, __, rows, dtype=dtype: rows.to(dtype))
        for name, module in model.named_modules():
            own = dict(module.named_parameters(recurse=False))
            if own and module not in inside:
                # A module around others may need its own parameters before and after them: they stay.
                hook = self._fill_once(f"{name}." if name else "", module, own)
                module.register_forward_pre_hook(hook)

    @property
    def missing(self) -> list[str]:
        """The parameters that are not in the files."""
        names = {name for name, _ in self._model.named_parameters(remove_duplicate=False)}
        return sorted(name for name in names if name not in self._sources and self._tied.get(name) not in self._sources)

    def _fill_once(self, prefix: str, module: "nn.Module", own: "dict[str, torch.Tensor]") -> "Callable[..., None]":
        def fill(*_: object) -> None:
            if own:
                self._fill(prefix, module, own)
                own.clear()

        return fill

    def _enter(self, prefix: str, part: "nn.Module") -> None:
        if part is self._held:
            return
        if self._held is not None:
            self._held.load_state_dict(self._empty, strict=False, assign=True)
        self._held = part
        self._empty = {
            name: value
            for name, value in part.state_dict().items()
            if value.is_meta or (value.is_floating_point() and prefix + name in self._sources)
        }
        self._fill(prefix, part, self._empty)

    def _fill(self, prefix: str, part: "nn.Module", empty: "dict[str, torch.Tensor]") -> None:
        """Give a part its weights.

        Args:
            prefix: of its names in the model.
            part: of the model.
            empty: its tensors without data, by their names in it.
        """
        found = {}
        for name, value in empty.items():
            read = self._read(prefix + name, tuple(value.shape))
            # Of a table only the rows that are looked up are converted.
            found[name] = read.to(self._device, None if _is_lookup(part) else value.dtype)
        part.load_state_dict(found, strict=False, assign=True)

    def _read(self, name: str, shape: tuple[int, ...]) -> "torch.Tensor":
        name = name if name in self._sources else self._tied.get(name, name)
        if name not in self._sources:
            raise HiploraError(f"{self._base.path} has no weights for {name}: download or save the whole model again.")
        read = self._base.read_parameter(self._model, name, self._sources[name])
        if tuple(read.shape) != shape:
            raise HiploraError(
                f"{self._base.path}: {name} is {_by(tuple(read.shape))} in the files and {_by(shape)} by config.json: "
                "put the config of this model beside its weights."
            )
        return read


def _parts(module: "nn.Module", prefix: str = "") -> "Iterator[tuple[str, nn.Module]]":
    """Yield what is read at once, with the prefix of its names: blocks, and outside of them modules without others."""
    from torch import nn

    for name, child in module.named_children():
        if isinstance(module, nn.ModuleList) or not any(child.children()):
            yield f"{prefix}{name}.", child
        else:
            yield from _parts(child, f"{prefix}{name}.")


def _is_lookup(part: "nn.Module") -> bool:
    from torch import nn

    # A subclass may compute with its weight too.
    return type(part) is nn.Embedding


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
