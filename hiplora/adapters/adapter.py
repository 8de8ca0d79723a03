"""A PEFT adapter on disk, read without PEFT: the modules it changes, and their deltas."""

import json
import math
import re
from abc import abstractmethod
from collections.abc import Collection, Hashable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hiplora.adapters.delta import Delta, DenseDelta, LowRankDelta
from hiplora.adapters.update import Content, Update
from hiplora.card import Card
from hiplora.errors import HiploraError
from hiplora.files import TensorSource, require_finite
from hiplora.paths import demo_adapters
from hiplora.sources import PEFT_PREFIX, hub_name, strip_peft_prefix

_WHOLE = re.compile(r"^(?P<module>.+?)(?:\.modules_to_save(?:\.[^.]+)?)?\.weight$")
_TOKENS = re.compile(r"^(?P<module>.+?)(?:\.token_adapter)?\.trainable_tokens_delta(?:\.[^.]+)?$")
# Weights that stay frozen, which PEFT saves beside an adapted embedding.
_FROZEN = re.compile(r"\.(?:original_module|base_layer)\.")


_EMPTY, _BIAS, _OTHER = "empty", "a bias", "a tensor that is not a matrix, kept whole"


class Adapter(Update):
    """An update that PEFT saved: a config and tensors. A new format is a subclass and one line in `read.READERS`.

    Beside the method's own tensors, any method can have modules that were trained whole (`modules_to_save`) and
    trained rows of an embedding (`trainable_token_indices`): these are read here.

    Attributes:
        path: the folder with the files.
        home: the folder it is named after: its own, or that of the run it was trained in.
        name: the name of `home`.
        config: `adapter_config.json`.
        tensors: `adapter_model.safetensors`.
        modules: names of the changed matrices, without PEFT's prefix: the method's own, those trained whole, and
            embeddings with trained rows.

    Raises:
        HiploraError: the tensors hold nothing of the method, or the parts do not fit each other.
    """

    def __init__(self, path: Path, config: dict[str, Any], tensors: TensorSource, home: Path | None = None):
        self.path = path
        self.home = home or path
        self.name = (hub_name(self.home) or self.home.resolve().name).removesuffix(".safetensors")
        self.config = config
        self.tensors = tensors
        self._keys = self._find_keys()
        own = {key for keys in self._keys.values() for key in keys.values()} | set(self._shared_keys())
        others = [key for key, shape in tensors.shapes.items() if key not in own and len(shape) > 1 and 0 not in shape]
        self._tokens = _by_module([key for key in others if len(tensors.shapes[key]) == 2], _TOKENS, self._keys)
        self._whole = _by_module(others, _WHOLE, self._keys)
        self.modules = [*self._keys, *self._whole, *self._tokens]
        if not self._keys and not self._tokens:
            raise HiploraError(f"{tensors.name} holds no {self.method} weights: check that the folder is an adapter.")
        self.caveats = _caveats_on_others(self.contents()) + self._own_caveats()
        if twice := [key for key in tensors.shapes if key.startswith(2 * PEFT_PREFIX)]:
            self.caveats.append(f"PEFT would not load it: its prefix is there twice ({twice[0]}).")

    @classmethod
    @abstractmethod
    def reads(cls, config: dict[str, Any], tensors: TensorSource, folder: Path) -> bool:
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
    def folder(self) -> Path:
        """The folder with its files, or the one file that stands alone."""
        return self.path if self.home.is_dir() else self.home

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

    def contents(self) -> list[Content]:
        """Return the tensors of the file, in its order."""
        parts = {key: ("the update", module) for module, keys in self._keys.items() for key in keys.values()}
        parts |= dict.fromkeys(self._shared_keys(), ("shared by all modules", ""))
        parts |= {key: ("trained whole", module) for module, key in self._whole.items()}
        parts |= {key: ("trained rows", module) for module, key in self._tokens.items()}
        found = []
        for key, shape in self.tensors.shapes.items():
            part, module = parts.get(key, (_part(key, shape), ""))
            found.append(Content(key, shape, part, module, key in parts, part in (_EMPTY, _BIAS, _OTHER)))
        return found

    def shape(self, module: str) -> tuple[int, int] | None:
        """Return `(m, n)`, out x in; None where only the base tells."""
        if module in self._tokens:
            return None
        if module in self._whole:
            rows, *rest = self.tensors.shapes[self._whole[module]]
            return rows, math.prod(rest)
        return self._shape(module)

    def misfit(self, module: str, shape: tuple[int, ...]) -> str | None:
        """Return why the update does not fit a weight of this shape, as a clause; None where it does."""
        if module not in self._tokens:
            return super().misfit(module, shape)
        rows, size = self.tensors.shapes[self._tokens[module]]
        indices = self._token_indices(module)
        if len(indices) != rows or size != shape[1] or max(indices, default=0) >= shape[0]:
            return (
                f"it has {rows} rows of {size} for {len(indices)} tokens up to {max(indices, default=0)}, and the "
                f"weight is {shape[0]} x {shape[1]}"
            )
        return None

    def needs_weight(self, module: str) -> bool:
        """Return whether `delta` must be given the base's weight of this module."""
        return module not in self._keys or self._needs_weight(module)

    def whole(self, module: str) -> np.ndarray | None:
        """Return the weight that takes the base's place, (m, n) out x in; None where the update is a difference."""
        if module not in self._whole:
            return None
        value = self._read([self._whole[module]], self.tensors)[0]
        return value.reshape(len(value), -1)

    def delta(self, module: str, weight: np.ndarray | None = None) -> Delta:
        """Return the update of one module, (m, n) out x in, scaling included; see `Update.delta`.

        Raises:
            HiploraError: NaN or infinity in its weights, tensors that do not fit each other, or no `weight` where the
                update depends on it.
        """
        if weight is None and self.needs_weight(module):
            named = f", {self.base_name}" if self.base_name else ""
            update = f"is a {self.method}, whose update" if module in self._keys else f"holds {module}, whose update"
            raise HiploraError(f"{self.path} {update} depends on the base's weights: open it on its base{named}.")
        if (whole := self.whole(module)) is not None:
            return DenseDelta(whole - np.asarray(weight, dtype=np.float64).reshape(whole.shape))
        if module in self._tokens and weight is not None:
            indices = self._token_indices(module)
            [rows] = self._read([self._tokens[module]], self.tensors)
            chosen = np.zeros((len(weight), len(indices)))
            chosen[indices, range(len(indices))] = 1.0
            return LowRankDelta(chosen, rows - np.asarray(weight[indices], dtype=np.float64))
        return self._delta(module, weight)

    def _token_indices(self, module: str) -> list[int]:
        """Return the rows of an embedding that were trained, by PEFT's setting for it."""
        setting = self.config.get("trainable_token_indices", self.config.get("token_indices"))
        if isinstance(setting, dict):
            setting = next((found for name, found in setting.items() if f".{module}".endswith(f".{name}")), None)
        if not isinstance(setting, list) or not all(type(index) is int and index >= 0 for index in setting):
            raise HiploraError(
                f"{self.path / 'adapter_config.json'} does not say which tokens of {module} were trained: save the "
                "adapter again."
            )
        return setting

    @abstractmethod
    def _shape(self, module: str) -> tuple[int, int] | None:
        """Return `(m, n)` of one of the method's own modules; None where only the base tells."""

    def _needs_weight(self, module: str) -> bool:
        return False

    @abstractmethod
    def _delta(self, module: str, weight: np.ndarray | None) -> Delta:
        """Return the update of one of the method's own modules."""

    @abstractmethod
    def _find_keys(self) -> dict[str, dict[str, str]]:
        """Return `{module: {tensor of the method: its key in the file}}`."""

    def _shared_keys(self) -> Collection[str]:
        """Return the keys of tensors that all modules use."""
        return ()

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


def _by_module(keys: Sequence[str], pattern: re.Pattern[str], known: Collection[str]) -> dict[str, str]:
    """Return `{module: key}` of the keys that match, without frozen weights and modules that are known."""
    matches = [match for key in keys if (match := pattern.fullmatch(key)) and not _FROZEN.search(key)]
    found = {strip_peft_prefix(match["module"]): match.string for match in matches}
    return {module: key for module, key in found.items() if module not in known}


def _part(key: str, shape: tuple[int, ...]) -> str:
    """Return what a tensor is that does not count in the numbers."""
    if 0 in shape:
        return _EMPTY
    if key.endswith("bias"):
        return _BIAS
    if _FROZEN.search(key):
        return "a copy of a frozen weight"
    if "monteclora" in key or "velora" in key:
        return "of use in training only"
    return _OTHER


def _caveats_on_others(contents: Sequence[Content]) -> list[str]:
    """Name what was trained beside the matrices: the numbers leave it out."""
    plural = {_BIAS: "biases", _OTHER: "tensors kept whole"}
    found = {part: [each.key for each in contents if each.part == part] for part in plural}
    return [
        f"Also trained, but not in these numbers: {plural[part]} "
        f"({len(keys)}: {strip_peft_prefix(keys[0])}{', …' if len(keys) > 1 else ''})."
        for part, keys in found.items()
        if keys
    ]
