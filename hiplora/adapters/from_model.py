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


def live_adapter(model: "PeftModel", folder: Path) -> Adapter:
    """Return the active adapter of a model as it is now; nothing is written.

    The same code thus measures an adapter in training and the saved file.

    Args:
        model: with one adapter.
        folder: of the run, which holds the initial weights of methods that need them.
    """
    from peft import get_peft_model_state_dict

    config = {
        name: value.value if isinstance(value, Enum) else value
        for name, value in model.peft_config[model.active_adapter].to_dict().items()
    }
    return adapter_of(folder, config, StateDict(get_peft_model_state_dict(model, save_embedding_layers=False)))
