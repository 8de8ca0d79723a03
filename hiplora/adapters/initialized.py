"""LoRA folders whose initialization moved a part of the base's weights into the factors."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np

from hiplora.adapters.delta import Delta, LowRankDelta
from hiplora.adapters.dora import DoraAdapter
from hiplora.adapters.lora import LoraAdapter
from hiplora.errors import HiploraError
from hiplora.files import Tensors, TensorSource

INITIAL_FILE = "initial.safetensors"
"""Beside `adapter_model.safetensors`, with the same keys: the adapter's weights before its first step."""
INITIALIZATIONS = {"pissa": "PiSSA", "olora": "OLoRA", "corda": "CorDA", "lora_ga": "LoRA-GA"}
"""Prefix of PEFT's `init_lora_weights` -> the method's name."""


class InitializedLoraAdapter(LoraAdapter):
    """`dW = scaling * (B A - B0 A0)` with the initial factors `A0, B0`.

    PEFT initializes these with nonzero factors and subtracts `scaling * B0 A0` from the base, which then trains as
    `W0 - scaling * B0 A0 + scaling * B A`.

    Attributes:
        start: `initial.safetensors`.

    Raises:
        HiploraError: that file does not hold the tensors of the adapter, or OLoRA initialized it on Conv1D.
    """

    def __init__(self, path: Path, config: dict[str, Any], tensors: TensorSource, home: Path | None = None):
        init = config["init_lora_weights"]
        if DoraAdapter.reads(config, tensors, path):
            raise HiploraError(
                f"{path} is a DoRA initialized by {init}, and its start cannot be made again from the base: merge it "
                "with PEFT where it was trained, and pass the merged model."
            )
        if not (path / INITIAL_FILE).is_file():
            raise HiploraError(
                f"{path} was initialized by {init}, which changes the base too, so its factors alone are not an update "
                f"of the original base: put its initial weights beside them as {INITIAL_FILE}, or save it with "
                "PEFT's path_initial_model_for_weight_conversion."
            )
        self.start = Tensors(path / INITIAL_FILE)
        super().__init__(path, config, tensors, home)
        for keys in self._keys.values():
            for key in keys.values():
                if self.start.shapes.get(key) != tensors.shapes[key]:
                    raise HiploraError(
                        f"{self.start.name} does not hold {key} in the shape that {tensors.name} has: it must be "
                        "from the same run."
                    )
        # PEFT factors W0 in its stored layout there, and subtracts another product from the base than it adds.
        if self.method == "OLoRA" and config.get("fan_in_fan_out"):
            raise HiploraError(
                f"{path} was initialized by OLoRA on Conv1D, which PEFT gets wrong: initialize it by PiSSA."
            )

    @classmethod
    def reads(cls, config: dict[str, Any], tensors: TensorSource, folder: Path) -> bool:
        """Return whether it is a LoRA whose initialization depends on the base or on data."""
        init = str(config.get("init_lora_weights", "")).lower()
        return super().reads(config, tensors, folder) and init.startswith(tuple(INITIALIZATIONS))

    @property
    def identity(self) -> Hashable:
        """The files as they were opened, with the initial weights, and the settings."""
        return self.start.identity, super().identity

    @property
    def method(self) -> str:  # type: ignore[override]
        """`PiSSA`, `OLoRA`, `CorDA` or `LoRA-GA`."""
        return next(name for start, name in INITIALIZATIONS.items() if self.initialization.startswith(start))

    def scale(self, module: str) -> float | None:
        """Return the factor of the difference of products."""
        return self.scaling(module, self._configured_rank(module)) if module in self._keys else None

    def _configured_rank(self, module: str) -> int:
        # A singular basis has at most min(m, n) vectors, but PEFT scales by the configured r.
        rank = self.tensors.shapes[self._key(module, "lora_A")][0]
        return max(rank, int(self._setting("r", "rank_pattern", module, rank)))

    def _delta(self, module: str, weight: np.ndarray | None) -> Delta:
        """Return `scaling * (B A - B0 A0)`, (m, n) out x in, of rank at most `2 r`."""
        A, B = self._factors(module, self.tensors)
        A0, B0 = self._factors(module, self.start)
        # B (A - A0) + (B - B0) A0: the same product, without the difference of two large ones.
        L, R = np.concatenate([B, B - B0], axis=1), np.concatenate([A - A0, A0])
        return LowRankDelta(self.scaling(module, self._configured_rank(module)) * L, R)
