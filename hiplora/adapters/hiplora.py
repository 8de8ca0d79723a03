"""HiP-LoRA folders, read without PEFT."""

from pathlib import Path
from typing import Any

import numpy as np

from hiplora.adapters.adapter import Adapter
from hiplora.adapters.delta import Delta, LowRankDelta
from hiplora.adapters.hiplora_format import (
    base_entry,
    group_keys,
    low_rank_factors,
    module_settings,
    with_factors,
)
from hiplora.errors import HiploraError
from hiplora.files import TensorSource
from hiplora.settings import HipLoraSettings


class HipLoraAdapter(Adapter):
    """Both channels of a HiP-LoRA adapter as one low-rank update of rank at most `k + r`.

    Raises:
        HiploraError: the config does not say on which base weights a module was trained, or has a field that is
            missing or of the wrong type.
    """

    method = "HiP-LoRA"

    @classmethod
    def reads(cls, config: dict[str, Any], tensors: TensorSource, folder: Path) -> bool:
        """Return whether this package's tuner saved it."""
        return str(config.get("peft_type", "")).upper() == "HIPLORA"

    def _find_keys(self) -> dict[str, dict[str, str]]:
        keys = group_keys(self.tensors.shapes)
        try:
            self._base_weights = {module: base_entry(self.config, module) for module in keys}
            self._settings = module_settings(self.config, keys)
        except HiploraError as error:
            raise HiploraError(f"{self.path}: {error}") from None
        if any(self.trained_inputs(module) for module in keys):
            self.method = "HiP-LoRA on inputs"
        return keys

    def settings(self, module: str) -> HipLoraSettings:
        """Return the settings of a module, patterns applied."""
        return self._settings[module]

    def weight_hash(self, module: str) -> str | None:
        """Return the content hash of the base weight a module was trained on."""
        return str(self._base_weights[module]["hash"]) if module in self._keys else None

    def _shape(self, module: str) -> tuple[int, int]:
        shapes = self.tensors.shapes
        return shapes[self._key(module, "hiplora_B")][0], shapes[self._key(module, "hiplora_A")][1]

    def scale(self, module: str) -> float | None:
        """Return the factor of the residual channel."""
        return self.settings(module).scaling if module in self._keys else None

    def epsilon(self, module: str) -> float | None:
        """Return the budget a module was trained under."""
        return self.settings(module).epsilon if module in self._keys else None

    def principal_rank(self, module: str) -> int | None:
        """Return the principal rank a module was trained at."""
        return int(self._base_weights[module]["principal_rank"]) if module in self._keys else None

    def trained_inputs(self, module: str) -> str | None:
        """Return the digest of the inputs in whose geometry a module was trained; None for that of the weights."""
        return self._base_weights.get(module, {}).get("inputs")

    def _delta(self, module: str, weight: np.ndarray | None) -> Delta:
        """Return `[U_k | B'] [C 0; 0 alpha/r] [V_k | A'^T]^T`, (m, n) out x in.

        Raises:
            HiploraError: NaN or infinity in its weights, a missing tensor, or factors that were left out of the file
                and are not in the cache.
        """
        keys = self._keys[module]
        tensors = dict(zip(keys, self._read(list(keys.values()), self.tensors), strict=True))
        entry = self._base_weights[module]
        return LowRankDelta(*low_rank_factors(with_factors(tensors, entry, module), self.settings(module)))
