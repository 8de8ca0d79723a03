"""See, teach and use budgeted spectral plasticity (HiP-LoRA) for low-rank adapters.

    import hiplora
    study = hiplora.open("demo", ["swap-lora", "swap-hiplora"], k=16)
    study.layers()
    study.plot.layer_map("enrichment").show()

`import hiplora` registers HiP-LoRA with PEFT, whichever of the two is imported first, and costs little: the parts that
need torch, transformers or PEFT are imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from hiplora.registration import register_with_peft

if TYPE_CHECKING:
    from hiplora import figures, measures
    from hiplora.adapters import read_adapter
    from hiplora.demo.scored import ExactScores
    from hiplora.effects import TaskLosses, TextLosses
    from hiplora.study import Study, analyze
    from hiplora.study import open_study as open
    from hiplora.training.callback import SpectralCallback
    from hiplora.training.spectral import SpectralRecorder
    from hiplora.tuner import HipLoraConfig

__version__ = "0.1.0"
__all__ = [
    "ExactScores",
    "HipLoraConfig",
    "SpectralCallback",
    "SpectralRecorder",
    "Study",
    "TaskLosses",
    "TextLosses",
    "__version__",
    "analyze",
    "figures",
    "measures",
    "open",
    "read_adapter",
]

_HOMES = {
    "ExactScores": ("demo.scored", "ExactScores"),
    "HipLoraConfig": ("tuner", "HipLoraConfig"),
    "SpectralCallback": ("training.callback", "SpectralCallback"),
    "SpectralRecorder": ("training.spectral", "SpectralRecorder"),
    "Study": ("study", "Study"),
    "TaskLosses": ("effects", "TaskLosses"),
    "TextLosses": ("effects", "TextLosses"),
    "open": ("study", "open_study"),
    "read_adapter": ("adapters", "read_adapter"),
    "analyze": ("study", "analyze"),
}


def __getattr__(name: str) -> Any:
    if name in ("figures", "measures"):
        return importlib.import_module(f"hiplora.{name}")
    if name in _HOMES:
        module, found = _HOMES[name]
        return getattr(importlib.import_module(f"hiplora.{module}"), found)
    raise AttributeError(f"module 'hiplora' has no attribute {name!r}")


register_with_peft()
