"""The demo world: a small base model with exact skills, and adapters trained on it. Does not import torch.

`skills` is the text, `tokenizer` and `base` make the model, `scoring` scores it and the adapters trained on it;
`hiplora.training.demo_world` rebuilds everything that ships from seeds.
"""

from pathlib import Path
from typing import Final

from hiplora.demo.skills import SKILLS, TASKS
from hiplora.errors import HiploraError
from hiplora.paths import demo_base, site_root

SHIPPED_METHODS: Final = ("lora", "hiplora")
"""The methods that the shipped adapters were trained with, at matched trainable parameters."""

ADAPTERS: Final = tuple(f"{task}-{method}" for task in TASKS for method in SHIPPED_METHODS)
"""Names of the shipped adapters, which are also their folders' names."""

__all__ = [
    "ADAPTERS",
    "SHIPPED_METHODS",
    "SKILLS",
    "TASKS",
    "adapter_path",
    "base_path",
    "demo_root",
]


def demo_root() -> Path:
    """Return the folder with the shipped demo: in the checkout, or its copy inside an installed package."""
    return site_root() / "assets" / "demo"


def base_path() -> Path:
    """Return the folder of the demo base, which `transformers` loads as it is."""
    return demo_base()


def adapter_path(name: str) -> Path:
    """Return the folder of a shipped adapter, which PEFT loads as it is.

    Args:
        name: One of `ADAPTERS`, such as `swap-hiplora`.

    Raises:
        HiploraError: No shipped adapter has this name.
    """
    if name not in ADAPTERS:
        raise HiploraError(f"'{name}' is not an adapter of the demo: choose one of {', '.join(ADAPTERS)}.")
    return demo_root() / "adapters" / name
