"""The soft budget: add its penalty to the loss of an ordinary training loop."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from hiplora.tuner.functional import budget_cost
from hiplora.tuner.layer import HipLoraLayer


def budget_penalty(model: nn.Module) -> Tensor | None:
    """Return the soft mode's penalty, `sum over active adapters of lambda * mean over layers of cost`.

    For training loops that compute the loss outside the model; otherwise the model adds it itself.

    Args:
        model: with HiP-LoRA adapters on it, wrapped by PEFT or not.

    Returns:
        0-dimensional, differentiable; None when nothing trainable is in soft mode.
    """
    # One product for all cores of one size: hundreds of small ones take longer to launch than to compute.
    alike: dict[tuple[Any, ...], list[tuple[Tensor, Tensor]]] = {}
    for layer in model.modules():
        if not isinstance(layer, HipLoraLayer) or layer.disable_adapters or layer.merged:
            continue
        for name in layer.active_adapters:
            if name not in layer.hiplora_C or not layer.hiplora_C[name].requires_grad:
                continue
            settings = layer.hiplora_settings[name]
            if settings.budget_mode == "soft":
                core, S = layer.effective_core(name), layer.hiplora_S[name]
                alike.setdefault((name, settings.budget_power, len(S), S.device), []).append((core, S))
    if not alike:
        return None
    costs: dict[str, list[Tensor]] = {}
    for (name, power, *_), found in alike.items():
        cores, sigmas = (torch.stack(parts) for parts in zip(*found, strict=True))
        costs.setdefault(name, []).append(budget_cost(cores, sigmas, power))
    device = next(iter(costs.values()))[0].device
    configs: Any = model.peft_config
    terms = [
        configs[name].budget_lambda * torch.cat([cost.to(device) for cost in found]).mean()
        for name, found in costs.items()
    ]
    return torch.stack(terms).sum()


def add_penalty(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> Any:
    """Forward hook: `loss + penalty`, in training mode only."""
    if not model.training or not torch.is_grad_enabled():
        return outputs
    penalty = budget_penalty(model)
    if penalty is None:
        return outputs
    # With `return_dict=False` the loss comes first, but only where there are labels.
    in_tuple = type(outputs) is tuple and bool(outputs) and _has_labels(kwargs)
    loss = outputs[0] if in_tuple else getattr(outputs, "loss", None)
    if not isinstance(loss, Tensor) or (in_tuple and loss.ndim):
        warnings.warn(
            "The model returned no loss, so the budget's penalty is not in it: add hiplora.tuner.budget_penalty(model) "
            "to your loss, or use budget_mode='hard'.",
            stacklevel=2,
        )
        return outputs
    loss = loss + (penalty * _batch_share(model, kwargs)).to(loss)
    if in_tuple:
        return (loss, *outputs[1:])
    outputs.loss = loss
    return outputs


def _has_labels(kwargs: dict[str, Any]) -> bool:
    return any(value is not None and ("label" in name or name == "start_positions") for name, value in kwargs.items())


def _batch_share(model: nn.Module, kwargs: dict[str, Any]) -> Tensor | float:
    """Return this batch's share of an optimizer step.

    With gradient accumulation the Trainer divides the summed loss of each batch by the number of targets in all of
    them; the penalty is divided likewise, or it would be added once per batch.
    """
    total, labels = kwargs.get("num_items_in_batch"), kwargs.get("shift_labels", kwargs.get("labels"))
    if total is None or labels is None:
        return 1.0
    if "shift_labels" not in kwargs and _shifts_labels(model):
        labels = labels[..., 1:]
    return labels.ne(-100).sum() / total


def _shifts_labels(model: nn.Module) -> bool:
    """Whether the loss compares each prediction with the next label: `transformers.Trainer` counts by this rule."""
    from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

    shifts = LOSS_MAPPING.get(getattr(model, "loss_type", None)) is ForCausalLMLoss
    return shifts and not getattr(getattr(model, "config", None), "is_encoder_decoder", False)
