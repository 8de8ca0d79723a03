"""The adapter of a model in training, read like a saved one."""

from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hiplora.adapters.adapter import Adapter
from hiplora.adapters.read import adapter_of

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor


class StateDict:
    """The tensors of a model's state dict, as a `hiplora.files.TensorSource`."""

    name = "the model"

    def __init__(self, state: Mapping[str, "Tensor"]):
        self._state = state
        self.shapes = {key: tuple(value.shape) for key, value in state.items()}
        # Training changes the tensors in place.
        self.identity = object()

    def read_together(self, keys: Sequence[str]) -> list[np.ndarray]:
        """Return tensors as float32 arrays."""
        return [np.asarray(self._state[key].detach().float().cpu().numpy()) for key in keys]


def adapter_state(model: "PeftModel") -> "dict[str, Tensor]":
    """Return the tensors of a model's active adapter, by their names in `adapter_model.safetensors`.

    Those that FSDP2 holds in parts are put together: all processes must call this at the same point.

    Args:
        model: with one adapter.
    """
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {key: value.full_tensor() if hasattr(value, "full_tensor") else value for key, value in state.items()}


def live_adapter(model: "PeftModel", folder: Path, state: "Mapping[str, Tensor] | None" = None) -> Adapter:
    """Return the active adapter of a model as it is now; nothing is written.

    The same code thus measures an adapter in training and the saved file.

    Args:
        model: with one adapter.
        folder: of the run, which holds the initial weights of methods that need them.
        state: its tensors, or a part of them; those of `adapter_state` by default.
    """
    config = {
        name: value.value if isinstance(value, Enum) else value
        for name, value in model.peft_config[model.active_adapter].to_dict().items()
    }
    return adapter_of(folder, config, StateDict(adapter_state(model) if state is None else state))
