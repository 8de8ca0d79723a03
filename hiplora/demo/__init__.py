"""The demo world: a small base model with exact skills, and adapters trained on it. Importing this loads no torch.

`skills` is the text, `tokenizer` and `base` make the model, `scoring` measures it and whatever was trained on it;
`hiplora.training.demo_world` makes everything that ships, from seeds.
"""

from pathlib import Path
from typing import Any, Final

from hiplora.demo.skills import SKILLS, TASKS
from hiplora.errors import HiploraError
from hiplora.files import read_json
from hiplora.paths import demo_base, site_root

METHODS: Final = ("lora", "hiplora")
"""The methods that the shipped adapters were trained with, at matched trainable parameters."""

ADAPTERS: Final = tuple(f"{task}-{method}" for task in TASKS for method in METHODS)
"""Names of the shipped adapters, which are also their folders' names."""

__all__ = [
    "ADAPTERS",
    "METHODS",
    "SKILLS",
    "TASKS",
    "adapter_path",
    "base_path",
    "demo_root",
    "read_card",
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
        raise HiploraError(f"'{name}' is no adapter of the demo; choose one of {', '.join(ADAPTERS)}.")
    return demo_root() / "adapters" / name


def read_card(folder: Path) -> dict[str, Any]:
    """Read how a base or adapter was made and what it scored.

    Args:
        folder: A folder that `hiplora.training.demo_world.build` wrote, such as `base_path()` or `adapter_path(name)`.

    Raises:
        HiploraError: The folder has no readable `card.json`.
    """
    return read_json(folder / "card.json")
