"""PEFT's DoRA folders."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from hiplora.adapters.delta import Delta, DenseDelta
from hiplora.adapters.lora import LoraAdapter
from hiplora.errors import HiploraError
from hiplora.files import TensorSource
from hiplora.sources import strip_peft_prefix

MAGNITUDE = "lora_magnitude_vector"
"""Name of the magnitudes in the keys of the file."""
# With and without the adapter's name and `.weight` after it: PEFT has written all of these.
_KEY = re.compile(rf"^(?P<module>.+)\.{MAGNITUDE}(?:\.[^.]+)*$")


class DoraAdapter(LoraAdapter):
    """`dW = diag(m / ||V||_row) V - W0` with `V = W0 + scaling * B A` (Liu et al., arXiv 2402.09353, as PEFT has it).

    `m` holds one magnitude per output, so the update depends on the base weight and is not low-rank.
    """

    method = "DoRA"

    @classmethod
    def reads(cls, config: dict[str, Any], tensors: TensorSource, folder: Path) -> bool:
        """Return whether it is a LoRA with magnitudes."""
        return super().reads(config, tensors, folder) and (
            bool(config.get("use_dora")) or any(MAGNITUDE in key for key in tensors.shapes)
        )

    def _needs_weight(self, module: str) -> bool:
        return True

    def _find_keys(self) -> dict[str, dict[str, str]]:
        # An embedding's magnitudes are of another form than a map's.
        keys = {module: tensors for module, tensors in super()._find_keys().items() if "lora_A" in tensors}
        for match in (_KEY.match(key) for key in self.tensors.shapes):
            module = strip_peft_prefix(match["module"]) if match else ""
            # An embedding's magnitudes are left out, since its factors are not read.
            if match and module in keys:
                keys[module][MAGNITUDE] = match.string
        return keys

    def _delta(self, module: str, weight: np.ndarray | None) -> Delta:
        """Return `diag(m / ||V||_row) V - W0`, (m, n) out x in."""
        magnitude = self._read([self._key(module, MAGNITUDE)], self.tensors)[0].reshape(-1)
        change = super()._delta(module, None).dense()
        W0 = np.asarray(weight, dtype=np.float64).reshape(change.shape)
        V = W0 + change
        if len(magnitude) != len(V):
            raise HiploraError(
                f"{self.tensors.name}: {module} has {len(magnitude)} magnitudes for {len(V)} outputs: save the adapter "
                "again."
            )
        norms = np.linalg.norm(V, axis=1)
        # A row of zeros does not have a direction, and stays zero.
        stretch = np.divide(magnitude, norms, out=np.zeros_like(norms), where=norms > 0)
        return DenseDelta(stretch[:, None] * V - W0)

    def _own_caveats(self) -> list[str]:
        for module in self._keys:
            self._key(module, MAGNITUDE)
        return super()._own_caveats()
