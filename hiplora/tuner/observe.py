"""Observe what reaches the linear maps of a model, for HiP-LoRA in the geometry of the inputs (METHOD.md section 8)."""

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hiplora.errors import HiploraError
from hiplora.settings import COUNT, DEFAULT_TOKENS
from hiplora.tuner.factors import oriented_weight

if TYPE_CHECKING:
    from hiplora.geometry import Calibration, Moments

_ATTRIBUTE = "_hiplora_inputs"


def observe_inputs(
    model: nn.Module, source: "Calibration | Iterable[Mapping[str, Tensor]]", *, tokens: int = DEFAULT_TOKENS
) -> int:
    """Give the linear maps of a model the second moments of their inputs; call it before `get_peft_model`.

        observe_inputs(model, data_loader)
        model = get_peft_model(model, HipLoraConfig(geometry="inputs"))

    Adding an adapter uses the moments up: observe again for another one. The text should be like what the base must
    keep.

    Args:
        model: a causal language model of transformers, without adapters.
        source: batches with `input_ids` (batch, length) and, where they are padded, `attention_mask`, such as a data
            loader's; or the stored calibration of the same base.
        tokens: of the batches, at most.

    Returns:
        The number of maps whose inputs are known now.

    Raises:
        HiploraError: the batches hold no tokens, or the calibration is of other weights.
    """
    from hiplora.geometry import Calibration

    maps = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    forget_inputs(model)
    found: dict[str, Callable[[], Moments]]
    if isinstance(source, Calibration):
        calibration = source.complete()
        found = {name: partial(calibration.moments, name) for name in maps if name in calibration}
        _require_same_weights(calibration, maps, found)
    else:
        found = _observe(model, list(maps), source, tokens)
    if not found:
        raise HiploraError("No linear map of the model has observed inputs: give a calibration of this very base.")
    for name, moments in found.items():
        give_inputs(maps[name], moments)
    return len(found)


def _observe(
    model: Any, maps: list[str], batches: Iterable[Mapping[str, Tensor]], tokens: int
) -> dict[str, "Callable[[], Moments]"]:
    from hiplora.geometry.collect import observe
    from hiplora.geometry.texts import LEAST_TOKENS, LONGEST

    COUNT.require("tokens", tokens)
    sequences, left = [], tokens
    for batch in batches:
        if not isinstance(batch, Mapping) or not isinstance(batch.get("input_ids"), Tensor):
            raise HiploraError("observe_inputs needs batches with a tensor `input_ids`, or a hiplora Calibration.")
        ids = batch["input_ids"]
        mask = batch.get("attention_mask")
        for row, kept in zip(ids, torch.ones_like(ids) if mask is None else mask, strict=True):
            sequence = row[kept.bool()].tolist()[:left]
            # Windows, as a calibration reads: one long row must not pad all others.
            sequences += [sequence[at : at + LONGEST] for at in range(0, len(sequence), LONGEST)]
            left -= len(sequence)
        if left <= 0:
            break
    if not sequences:
        raise HiploraError("The batches hold no tokens to observe inputs on.")
    if (count := tokens - left) < LEAST_TOKENS:
        warnings.warn(
            f"{count} tokens are few to observe inputs on: directions that they do not use count for next to nothing. "
            f"Give at least {LEAST_TOKENS}, better {DEFAULT_TOKENS:,}.",
            stacklevel=3,
        )
    held: dict[str, Moments] = {}
    training = model.training
    model.eval()
    try:
        passed = observe(
            model,
            maps,
            sequences,
            lambda name, compute: held.update({name: compute()}),
            lambda: False,
            device=str(next(model.parameters()).device),
        )
        names = dict(passed)
    finally:
        model.train(training)
    return {module: partial(held.__getitem__, name) for module, name in names.items()}


def _require_same_weights(calibration: "Calibration", maps: Mapping[str, nn.Module], found: Collection[str]) -> None:
    """Raise where the first and the last map have other weights in the base that was observed, in any precision."""
    names = list(found)
    for name in names[:1] + names[-1:]:
        here, there = (
            oriented_weight(maps[name], name).float().cpu(),
            calibration.base.read(calibration.base.weights[name]),
        )
        # Half the digits of bfloat16.
        if tuple(here.shape) != there.shape or not np.allclose(here.numpy(), there, rtol=2**-4, atol=1e-6):
            raise HiploraError(
                f"The calibration is of {calibration.base.name}, whose {name} is not this model's: calibrate this base."
            )


def give_inputs(layer: nn.Module, moments: "Callable[[], Moments]") -> None:
    """Give one layer the moments of its inputs, which are asked for when an adapter is added."""
    setattr(layer, _ATTRIBUTE, moments)


def observed_inputs(layer: nn.Module) -> "Moments | None":
    """Return the moments of a layer's inputs; None where they were not observed."""
    moments = getattr(layer, _ATTRIBUTE, None)
    return None if moments is None else moments()


def forget_inputs(model: nn.Module) -> None:
    """Drop the observed inputs of a model's layers."""
    for module in model.modules():
        if hasattr(module, _ATTRIBUTE):
            delattr(module, _ATTRIBUTE)
