"""PEFT's LoRA and rsLoRA folders."""

import math
import re
from functools import cached_property
from typing import Any

import numpy as np

from hiplora.adapters.adapter import Adapter
from hiplora.adapters.delta import Delta, LowRankDelta
from hiplora.adapters.patterns import match_patterns
from hiplora.errors import HiploraError
from hiplora.files import TensorSource
from hiplora.sources import strip_peft_prefix

# PEFT 0.3 and older wrote the adapter's name between the two.
_KEY = re.compile(r"^(?P<module>.+)\.(?P<factor>lora_[AB])\.(?:[^.]+\.)?weight$")


class LoraAdapter(Adapter):
    """`dW = scaling * B A` with `scaling = alpha / r`, or `alpha / sqrt(r)` for rsLoRA.

    Raises:
        HiploraError: the folder holds a variant with another formula.
    """

    titles: tuple[str, ...] = ("LoRA", "rsLoRA")

    @classmethod
    def reads(cls, config: dict[str, Any], tensors: TensorSource) -> bool:
        """Return whether PEFT calls it a LoRA."""
        return str(config.get("peft_type", "")).upper() == "LORA"

    @property
    def method(self) -> str:  # type: ignore[override]
        """`LoRA` or `rsLoRA`."""
        return "rsLoRA" if self.config.get("use_rslora") else "LoRA"

    @property
    def initialization(self) -> str:
        """PEFT's `init_lora_weights`, in lower case."""
        return str(self.config.get("init_lora_weights", "")).lower()

    def _find_keys(self) -> dict[str, dict[str, str]]:
        if self.initialization.startswith("loftq"):
            raise HiploraError(
                f"{self.path} was initialized by {self.initialization}, which changes the base too, by quantizing it, "
                "so its update of the original base is not known: pass an adapter with another initialization."
            )
        for flag in ("use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config", "kasa_config"):
            if self.config.get(flag):
                raise HiploraError(f"{self.path} uses {flag}, which is not read yet: pass a plain LoRA adapter.")
        keys: dict[str, dict[str, str]] = {}
        for match in (_KEY.match(key) for key in self.tensors.shapes):
            if match:
                keys.setdefault(strip_peft_prefix(match["module"]), {})[match["factor"]] = match.string
        return keys

    def shape(self, module: str) -> tuple[int, int]:
        """Return `(m, n)`, out x in."""
        shapes = self.tensors.shapes
        return shapes[self._key(module, "lora_B")][0], shapes[self._key(module, "lora_A")][-1]

    @cached_property
    def _matches(self) -> dict[str, dict[str, tuple[str, Any]]]:
        """Results of `match_patterns` so far, by field."""
        return {}

    def scaling(self, module: str, r: int) -> float:
        """Return the factor of `B A`: `alpha / r`, or `alpha / sqrt(r)` for rsLoRA."""
        alpha = self._setting("lora_alpha", "alpha_pattern", module, r)
        return alpha / (math.sqrt(r) if self.config.get("use_rslora") else r)

    def _setting(self, name: str, pattern_name: str, module: str, missing: float) -> float:
        """Return a setting of one module: the value of the first pattern that matches it, else the field itself."""
        patterns, default = self.config.get(pattern_name) or {}, self.config.get(name, missing)
        try:
            if pattern_name not in self._matches:
                self._matches[pattern_name] = match_patterns(patterns, self.modules, pattern_name)
            _, value = self._matches[pattern_name].get(module, ("", default))
            return float(value)
        except HiploraError as error:
            raise HiploraError(f"{self.path}: {error}") from None
        except (TypeError, ValueError, AttributeError):
            raise HiploraError(
                f"{self.path / 'adapter_config.json'}: {name} must be a number and {pattern_name} an object of "
                f"numbers, got {default!r} and {patterns!r}."
            ) from None

    def delta(self, module: str, weight: np.ndarray | None = None) -> Delta:
        """Return `scaling * B A`, (m, n) out x in; PEFT stores both factors this way for Conv1D too.

        Raises:
            HiploraError: NaN or infinity in its weights, or factors that do not fit each other.
        """
        A, B = self._factors(module, self.tensors)
        return LowRankDelta(self.scaling(module, A.shape[0]) * B, A)

    def _factors(self, module: str, tensors: TensorSource) -> tuple[np.ndarray, np.ndarray]:
        """Return `A` (r, n) and `B` (m, r)."""
        A, B = self._read([self._key(module, factor) for factor in ("lora_A", "lora_B")], tensors)
        if A.ndim != 2 or B.ndim != 2 or A.shape[0] != B.shape[1]:
            raise HiploraError(
                f"{tensors.name}: the factors of {module} are {B.shape} and {A.shape}, which do not multiply: "
                "only adapters of linear maps are read."
            )
        return A, B

    def _own_caveats(self) -> list[str]:
        caveats = []
        shapes = self.tensors.shapes
        sizes = {
            module: (shapes[self._key(module, "lora_A")], shapes[self._key(module, "lora_B")])
            for module in self.modules
        }
        wide = [m for m, (a, b) in sizes.items() if len(a) == len(b) == 2 and a[0] > min(a[1], b[0])]
        if wide:
            caveats.append(
                f"r is larger than the layer in {len(wide)} modules ({wide[0]}): the rank beyond it does nothing."
            )
        if self.config.get("lora_bias"):
            caveats.append("lora_bias is on: the biases of B are not in these numbers.")
        return caveats
