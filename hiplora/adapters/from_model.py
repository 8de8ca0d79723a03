"""The adapter inside a model that trains, as the readers of saved adapters see it."""

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hiplora.adapters import Adapter
from hiplora.adapters.read import adapter_of
from hiplora.files import Tensors

if TYPE_CHECKING:
    from peft import PeftModel


class _StateDict(Tensors):
    """The tensors of a state dict, read like those of a file."""

    def __init__(self, path: Path, state: dict[str, Any]):
        self.path = path
        self.identity = object()
        self._state = state
        self.shapes = {key: tuple(value.shape) for key, value in state.items()}

    def read_together(self, keys: Sequence[str]) -> list[np.ndarray]:
        return [np.asarray(self._state[key].detach().float().cpu().numpy()) for key in keys]


def live_adapter(model: "PeftModel", folder: Path) -> Adapter:
    """Return the active adapter of a model as it is now; nothing is written.

    What is measured while an adapter trains is then by the same code as what is measured of the file.

    Args:
        model: with one adapter.
        folder: of the run; what the adapter started from is looked for there.
    """
    from peft import get_peft_model_state_dict

    config = {
        name: value.value if isinstance(value, Enum) else value
        for name, value in model.peft_config[model.active_adapter].to_dict().items()
    }
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return adapter_of(folder, config, _StateDict(folder / "adapter_model.safetensors", state))
