"""See, teach and use budgeted spectral plasticity (HiP-LoRA) for low-rank adapters.

`import hiplora` costs nothing: what needs torch, transformers or PEFT is imported when first asked for.
`HipLoraConfig` (or `import hiplora.tuner`) registers the method with PEFT.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hiplora.tuner import HipLoraConfig

__version__ = "0.1.0"
__all__ = ["HipLoraConfig", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "HipLoraConfig":
        from hiplora.tuner import HipLoraConfig

        return HipLoraConfig
    raise AttributeError(f"module 'hiplora' has no attribute {name!r}")
