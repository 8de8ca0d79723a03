"""A change of a model in memory: put on, and taken off exactly, since no weight is touched."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from hiplora.adapters import Delta, LowRankDelta
from hiplora.errors import HiploraError

Change = Callable[[str], Delta]
"""Gives the change of a module's weight, (m, n) out x in."""


def require_maps(model: Any, modules: Sequence[str], base: str) -> None:
    """Raise unless each module is a linear map or an embedding of the model, which `changed` can change.

    Args:
        model: a model of transformers.
        modules: names in the model.
        base: its name, for the error.

    Raises:
        HiploraError: a module is not there, or is of another kind.
    """
    found = dict(model.named_modules())
    for module in modules:
        if not _is_map(found.get(module)):
            raise HiploraError(
                f"{module} is not a linear map of the model that transformers makes of {base}: updates of experts, "
                "convolutions and models of another kind cannot be scored."
            )


@contextmanager
def changed(model: Any, modules: Sequence[str], change: Change) -> Iterator[None]:
    """Add `dW x` to the output `W0 x` of each module meanwhile, as an adapter that is not merged does.

    An update of low rank is held as its factors. A dense one is made again each time that its module is reached, so
    that one layer's is in memory at a time.

    Args:
        model: a model of transformers.
        modules: names in the model.
        change: of each.
    """
    hooks = []
    try:
        for module in modules:
            layer = model.get_submodule(module)
            if (factors := _factors_of(layer, partial(change, module))) is not None:
                hooks.append(layer.register_forward_hook(_adding(layer, factors)))
        yield
    finally:
        for each in hooks:
            each.remove()


def _factors_of(layer: Any, make: Callable[[], Delta]) -> Callable[[], tuple[Any, ...]] | None:
    """Return what gives the factors of a delta; None where it changes nothing."""
    delta = make()
    if not isinstance(delta, LowRankDelta):
        return lambda: _factors(layer, make())
    if not (delta.L.any() and delta.R.any()):
        return None
    held = _factors(layer, delta)
    return lambda: held


def _is_map(layer: Any) -> bool:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return isinstance(layer, nn.Linear | Conv1D | nn.Embedding)


def _factors(layer: Any, delta: Delta) -> tuple[Any, ...]:
    """Return `(L, R)`, or `(dW,)` of a dense update, float32 on the layer's device."""
    import torch

    arrays = (delta.L, delta.R) if isinstance(delta, LowRankDelta) else (delta.dense(),)
    device = layer.weight.device
    return tuple(torch.from_numpy(np.ascontiguousarray(each, dtype=np.float32)).to(device) for each in arrays)


def _adding(layer: Any, factors: Callable[[], tuple[Any, ...]]) -> Callable[..., Any]:
    from torch import nn

    def linear(_: Any, arguments: tuple[Any, ...], output: Any) -> Any:
        added = arguments[0].float()
        for factor in reversed(factors()):
            added = added @ factor.T
        return (output.float() + added).to(output.dtype)

    def embedding(_: Any, arguments: tuple[Any, ...], output: Any) -> Any:
        first, *rest = factors()
        added = first[arguments[0]]
        for factor in rest:
            added = added @ factor
        # Gemma's embeddings are scaled.
        return (output.float() + added * getattr(layer, "embed_scale", 1.0)).to(output.dtype)

    return embedding if isinstance(layer, nn.Embedding) else linear
