"""PEFT's trainable tokens: rows of an embedding, and nothing else."""

from pathlib import Path
from typing import Any

import numpy as np

from hiplora.adapters.adapter import Adapter
from hiplora.adapters.delta import Delta
from hiplora.files import TensorSource


class TrainableTokensAdapter(Adapter):
    """An adapter without modules of its own: `Adapter` itself reads trained rows, which any method can have."""

    method = "trainable tokens"

    @classmethod
    def reads(cls, config: dict[str, Any], tensors: TensorSource, folder: Path) -> bool:
        """Return whether PEFT calls it so."""
        return str(config.get("peft_type", "")).upper() == "TRAINABLE_TOKENS"

    def _find_keys(self) -> dict[str, dict[str, str]]:
        return {}

    def _shape(self, module: str) -> tuple[int, int] | None:
        raise KeyError(module)

    def _delta(self, module: str, weight: np.ndarray | None) -> Delta:
        raise KeyError(module)
