"""An adapter on disk: which modules it changes and by what, without PEFT."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hiplora.adapters.delta import Delta
from hiplora.errors import HiploraError
from hiplora.files import Tensors, read_json, require_finite
from hiplora.sources import strip_peft_prefix


class Adapter(ABC):
    """One adapter folder. Deltas are read one module at a time.

    Attributes:
        path: the folder that the files lie in.
        home: the folder it is called after: its own, or that of the run that it was trained in.
        name: what to call it; the name of `home`.
        method: how it was trained, such as `LoRA` or `HiP-LoRA`.
        needs_base: whether `delta` must be given the base's weight.
        config: `adapter_config.json`.
        tensors: `adapter_model.safetensors`.
        modules: names of the changed matrices, without PEFT's prefix, in file order.
        notes: one sentence each for whatever is trained beside the low-rank part, or looks wrong.
    """

    method: str
    needs_base: bool = False

    def __init__(self, path: Path, config: dict[str, Any], tensors: Tensors, home: Path | None = None):
        self.path = path
        self.home = home or path
        self.name = self.home.resolve().name
        self.config = config
        self.tensors = tensors
        self._keys = self._find_keys()
        if not self._keys:
            raise HiploraError(f"{tensors.path} holds no {self.method} weights: check that the folder is an adapter.")
        self.modules = list(self._keys)
        own = {key for keys in self._keys.values() for key in keys.values()}
        self.notes = _caveats_on_extras([key for key in tensors.shapes if key not in own]) + self._notes()

    @property
    def base_name(self) -> str:
        """The base that the adapter says it was trained on; may be empty."""
        return str(self.config.get("base_model_name_or_path") or "")

    @cached_property
    def card(self) -> dict[str, Any]:
        """`card.json` beside the adapter, which says how it was made and what it scored; empty where there is none.

        Raises:
            HiploraError: the file is damaged.
        """
        path = self.path / "card.json"
        return read_json(path) if path.is_file() else {}

    @abstractmethod
    def _find_keys(self) -> dict[str, dict[str, str]]:
        """Return `{module: {tensor of the method: its key in the file}}`."""

    def _key(self, module: str, tensor: str) -> str:
        try:
            return self._keys[module][tensor]
        except KeyError:
            raise HiploraError(
                f"{self.tensors.path}: {tensor} of {module} is missing: save the adapter again."
            ) from None

    @abstractmethod
    def delta(self, module: str, weight: np.ndarray | None = None) -> Delta:
        """Return the update of one module relative to the base it started from, (m, n) out x in, scaling included.

        Args:
            module: one of `modules`.
            weight: (m, n) out x in, what the base has there; looked at only by an adapter that `needs_base`.

        Raises:
            HiploraError: NaN or infinity in its weights, factors that do not fit each other, or no `weight` where the
                adapter needs it.
        """

    @abstractmethod
    def shape(self, module: str) -> tuple[int, int]:
        """Return `(m, n)`, out x in, of one module's update, from the file's header alone."""

    def epsilon(self, module: str) -> float | None:
        """Return the budget that a module was trained under; None when the method has none."""
        return None

    def principal_rank(self, module: str) -> int | None:
        """Return the principal rank that a module was trained at; None when the method has none."""
        return None

    def weight_hash(self, module: str) -> str | None:
        """Return the content hash of the base weight that a module was trained on; None when that is not recorded."""
        return None

    def _notes(self) -> list[str]:
        return []

    def _read(self, keys: Sequence[str], tensors: Tensors) -> list[np.ndarray]:
        found = tensors.read_together(keys)
        return [
            require_finite(value.astype(np.float64), f"{tensors.path}: {key}")
            for key, value in zip(keys, found, strict=True)
        ]


def _caveats_on_extras(keys: list[str]) -> list[str]:
    """Say what is trained beside the low-rank part: it is not in any number shown."""
    groups: dict[str, list[str]] = {"embedding": [], "bias": [], "module kept whole": []}
    for key in keys:
        # What is left of the magnitudes is an embedding's: those of the modules that are read are their own.
        if "lora_embedding" in key or "lora_magnitude_vector" in key:
            groups["embedding"].append(key)
        elif key.endswith("bias"):
            groups["bias"].append(key)
        else:
            groups["module kept whole"].append(key)
    plural = {"embedding": "embedding adapters", "bias": "biases", "module kept whole": "tensors kept whole"}
    return [
        f"Trained too, but not in these numbers: {plural[kind]} "
        f"({len(found)}: {strip_peft_prefix(found[0])}{', …' if len(found) > 1 else ''})."
        for kind, found in groups.items()
        if found
    ]
