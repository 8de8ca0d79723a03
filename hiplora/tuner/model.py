"""HiP-LoRA on a whole model: which layers get it, what is saved, and the penalty on the loss."""

import copy
import warnings
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor, nn

from hiplora.adapters.hiplora_format import FACTORS, PREFIX, base_entry, factors_hash, module_settings, split_key
from hiplora.errors import HiploraError
from hiplora.tuner.config import HipLoraConfig
from hiplora.tuner.factors import check_base, is_basis_of, oriented_weight
from hiplora.tuner.layer import HipLoraLayer, HipLoraLinear
from hiplora.tuner.observe import forget_inputs
from hiplora.tuner.penalty import add_penalty


class HipLoraModel(BaseTuner):
    """The tuner that `peft.get_peft_model` builds from a `HipLoraConfig`.

    Each adapter has a copy of its config, so that one config object may be used for several models.
    """

    prefix = PREFIX
    tuner_layer_cls = HipLoraLayer
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.copy()

    def inject_adapter(self, model: Any, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Add an adapter to `model`; see `peft`. For a saved adapter the base is checked before anything is changed.

        Raises:
            HiploraError: the base is not the one that a saved adapter was trained on, or a layer cannot be adapted.
        """
        config = self.peft_config[adapter_name] = copy.deepcopy(self.peft_config[adapter_name])
        self._loading = bool(config.base_weights)
        modules = dict(model.named_modules())
        for name in config.base_weights:
            if name not in modules:
                raise HiploraError(
                    f"Adapter {adapter_name!r} was trained on a base with a layer {name}, which this base does not "
                    "have: load the base it was trained on."
                )
            entry = base_entry(vars(config), name)
            check_base(oriented_weight(_unwrapped(modules[name], name), name), entry, name, adapter_name)
        # PEFT matches these with `re`, only to warn of those that mean no module: a saved adapter's come from anyone.
        patterns = {name: getattr(config, name) for name in ("rank_pattern", "alpha_pattern") if self._loading}
        self._saved_settings = module_settings(vars(config), config.base_weights)
        vars(config).update({name: {} for name in patterns})
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        finally:
            vars(config).update(patterns)
            forget_inputs(model)
        transposed = any(layer.transposed for _, layer in _layers(model, adapter_name))
        if config.fan_in_fan_out and not transposed:
            warnings.warn("fan_in_fan_out is set, but every target stores its weight as (out, in).", stacklevel=2)
        config.fan_in_fan_out = transposed
        # On the model itself, not in `forward`: PEFT calls the inner model directly where no task type is set.
        if not hasattr(model, "_hiplora_hook"):
            model._hiplora_hook = model.register_forward_hook(add_penalty, with_kwargs=True)

    def _create_and_replace(
        self, config: HipLoraConfig, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module,
        current_key: str,
    ) -> None:  # fmt: skip
        settings = self._saved_settings.get(current_key) or module_settings(vars(config), [current_key])[current_key]
        base = _unwrapped(target, current_key)
        update: dict[str, Any] = {
            "config": config,
            "settings": settings,
            "module": current_key,
            "loading": self._loading,
        }
        if isinstance(target, HipLoraLinear):
            target.update_layer(adapter_name, **update)
        else:
            layer = HipLoraLinear(base, adapter_name, **update)
            if adapter_name not in self.active_adapters:
                layer.requires_grad_(False)
            self._replace_module(parent, target_name, layer, target)

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> nn.Module:
        unloaded = super()._unload_and_optionally_merge(*args, **kwargs)
        if hasattr(unloaded, "_hiplora_hook"):
            unloaded._hiplora_hook.remove()
            del unloaded._hiplora_hook
        return unloaded

    @classmethod
    def _get_adapter_state_dict(
        cls, model: nn.Module, config: HipLoraConfig, adapter_name: str, state_dict: dict[str, Tensor], **kwargs: Any
    ) -> dict[str, Tensor]:
        for _, layer in _layers(model, adapter_name):
            layer.fill(adapter_name)
        found = super()._get_adapter_state_dict(
            model=model, config=config, adapter_name=adapter_name, state_dict=state_dict, **kwargs
        )
        if config.save_factors:
            return found
        return {key: value for key, value in found.items() if not _is_factor(key, adapter_name)}

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: HipLoraConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        found = super()._remap_adapter_state_dict_for_load(
            model=model, config=config, adapter_name=adapter_name, state_dict=state_dict
        )
        layers = _layers(model, adapter_name)
        bases = [_check_resumed(layer, adapter_name, found, name) for name, layer in layers]
        # Only once all have passed: a rejected load leaves the adapter unchanged.
        for (name, layer), basis in zip(layers, bases, strict=True):
            layer.hiplora_records[adapter_name].entry["factors"] = basis
            for factor in FACTORS:
                # Tensors that the file leaves out are in the model already; PEFT would warn of missing keys.
                found.setdefault(f"{name}.{factor}.{adapter_name}", getattr(layer, factor)[adapter_name])
        return found


def _layers(model: nn.Module, adapter: str) -> list[tuple[str, HipLoraLayer]]:
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, HipLoraLayer) and adapter in module.hiplora_A
    ]


def _is_factor(key: str, adapter: str) -> bool:
    parts = split_key(key.removesuffix(f".{adapter}"))
    return parts is not None and parts[1] in FACTORS


def _unwrapped(target: nn.Module, module: str) -> nn.Module:
    """Return the original layer, not its wrapper.

    Raises:
        HiploraError: another method's adapter is on it, or an adapter is merged into it.
    """
    if isinstance(target, HipLoraLayer):
        if target.merged:
            raise HiploraError(f"Adapter {target.merged_adapters[0]!r} is merged into {module}: unmerge it first.")
        return target.get_base_layer()
    if isinstance(target, BaseTunerLayer):
        raise HiploraError(f"{module} has an adapter of another method on it: merge or unload that one first.")
    return target


def _check_resumed(layer: HipLoraLayer, adapter: str, state_dict: dict[str, Tensor], name: str) -> str:
    """Return the hash of the adapter's basis after a load.

    Raises HiploraError when weights trained on one base are read into an adapter that was made on another.

    A new load checks the hash of the base; here the adapter existed before, as when a training run is resumed. The
    basis must equal its own bit for bit, or come with the weights and be a basis of this base too.
    """
    record = layer.hiplora_records[adapter]
    trained_on = str(record.entry["factors"])
    if not record.filled:
        return trained_on
    own = list(layer.basis(adapter).values())
    keys = [f"{name}.{PREFIX}{part}.{adapter}" for part in layer.basis(adapter)]
    basis = [state_dict.get(key, value).detach() for key, value in zip(keys, own, strict=True)]
    found = factors_hash(part.float().cpu().numpy() for part in basis)
    if found == trained_on:
        return found
    same = basis[1].shape == own[1].shape
    if len(own) == 3:
        same = same and torch.allclose(basis[1].to(own[1]), own[1], rtol=1e-5)
    else:
        # Other inputs, observed when it was resumed, give another basis of this base: that of the file counts.
        record.entry["inputs"] = ""
    weight = oriented_weight(layer.get_base_layer(), record.module)
    if not same or not all(key in state_dict for key in keys) or not is_basis_of(weight, *basis):
        raise HiploraError(
            f"The weights for {record.module} were trained on another base, or on singular vectors that are damaged or "
            "were left out: load the base of that run, and save the adapter with save_factors=True."
        )
    return found
