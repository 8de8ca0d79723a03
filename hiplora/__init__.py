"""See, teach and use budgeted spectral plasticity (HiP-LoRA) for low-rank adapters.

`import hiplora` costs nothing: what needs torch, transformers or PEFT is imported when first asked for.
`HipLoraConfig` (or `import hiplora.tuner`) registers the method with PEFT.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hiplora import figures, measures
    from hiplora.analysis import analyze, compare, directions, octaves, playback, sweep
    from hiplora.tuner import HipLoraConfig

__version__ = "0.1.0"
__all__ = [
    "HipLoraConfig",
    "__version__",
    "analyze",
    "compare",
    "directions",
    "figures",
    "measures",
    "octaves",
    "playback",
    "sweep",
]

_HOMES = {
    "HipLoraConfig": "tuner",
    "analyze": "analysis",
    "compare": "analysis",
    "directions": "analysis",
    "octaves": "analysis",
    "playback": "analysis",
    "sweep": "analysis",
}


def __getattr__(name: str) -> Any:
    if name in ("figures", "measures"):
        return importlib.import_module(f"hiplora.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"hiplora.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'hiplora' has no attribute {name!r}")
