"""A PEFT adapter on disk, read without PEFT: the modules it changes, and their deltas."""

import json
from abc import abstractmethod
from collections.abc import Hashable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hiplora.adapters.update import Update
from hiplora.card import Card
from hiplora.errors import HiploraError
from hiplora.files import TensorSource, require_finite
from hiplora.paths import demo_adapters
from hiplora.sources import strip_peft_prefix


class Adapter(Update):
    """An update that PEFT saved: a config and tensors. A new format is a subclass and one line in `read.READERS`.

    Attributes:
        titles: usual names of the methods that the class reads.
        path: the folder with the files.
        home: the folder it is named after: its own, or that of the run it was trained in.
        name: the name of `home`.
        config: `adapter_config.json`.
        tensors: `adapter_model.safetensors`.
        modules: names of the changed matrices, without PEFT's prefix, in file order.

    Raises:
        HiploraError: the tensors hold nothing of the method, or the parts do not fit each other.
    """

    titles: tuple[str, ...]

    def __init__(self, path: Path, config: dict[str, Any], tensors: TensorSource, home: Path | None = None):
        self.path = path
        self.home = home or path
        self.name = self.home.resolve().name
        self.config = config
        self.tensors = tensors
        self._keys = self._find_keys()
        if not self._keys:
            raise HiploraError(f"{tensors.name} holds no {self.method} weights: check that the folder is an adapter.")
        self.modules = list(self._keys)
        own = {key for keys in self._keys.values() for key in keys.values()}
        self.caveats = (
            _caveats_on_extras([key for key, shape in tensors.shapes.items() if key not in own and 0 not in shape])
            + self._own_caveats()
        )

    @classmethod
    @abstractmethod
    def reads(cls, config: dict[str, Any], tensors: TensorSource) -> bool:
        """Return whether this class reads such an adapter."""

    @property
    def identity(self) -> Hashable:
        """The files as they were opened, and the settings."""
        return self.tensors.identity, json.dumps(self.config, sort_keys=True, default=str)

    @property
    def source(self) -> str:
        """The name of a demo adapter, or the folder of any other."""
        return self.home.name if self.home in demo_adapters() else str(self.home)

    @property
    def long_name(self) -> str:
        """The name with the parent folder's name before it."""
        return f"{self.home.resolve().parent.name}/{self.name}"

    @property
    def base_name(self) -> str:
        """The base named in the config; may be empty."""
        return str(self.config.get("base_model_name_or_path") or "")

    @cached_property
    def card(self) -> Card:
        """`card.json` beside the adapter.

        Raises:
            HiploraError: the file is damaged.
        """
        return Card.read(self.path)

    @abstractmethod
    def _find_keys(self) -> dict[str, dict[str, str]]:
        """Return `{module: {tensor of the method: its key in the file}}`."""

    def _own_caveats(self) -> list[str]:
        return []

    def _key(self, module: str, tensor: str) -> str:
        try:
            return self._keys[module][tensor]
        except KeyError:
            raise HiploraError(
                f"{self.tensors.name}: {tensor} of {module} is missing: save the adapter again."
            ) from None

    def _read(self, keys: Sequence[str], tensors: TensorSource) -> list[np.ndarray]:
        found = tensors.read_together(keys)
        return [
            require_finite(value.astype(np.float64), f"{tensors.name}: {key}")
            for key, value in zip(keys, found, strict=True)
        ]


def _caveats_on_extras(keys: list[str]) -> list[str]:
    """Name the weights trained beside the low-rank part: the numbers shown leave them out."""
    groups: dict[str, list[str]] = {"embedding": [], "bias": [], "module kept whole": []}
    for key in keys:
        # The only magnitudes left here are those of embeddings.
        if "lora_embedding" in key or "lora_magnitude_vector" in key:
            groups["embedding"].append(key)
        elif key.endswith("bias"):
            groups["bias"].append(key)
        else:
            groups["module kept whole"].append(key)
    plural = {"embedding": "embedding adapters", "bias": "biases", "module kept whole": "tensors kept whole"}
    return [
        f"Also trained, but not in these numbers: {plural[kind]} "
        f"({len(found)}: {strip_peft_prefix(found[0])}{', …' if len(found) > 1 else ''})."
        for kind, found in groups.items()
        if found
    ]
