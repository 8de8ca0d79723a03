"""Locations of the project's own files: the app with its assets, the user's cache folder and the user's runs."""

import os
import sys
from pathlib import Path

RUN_FILE = "run.json"
"""The file that marks a folder as a training run."""
RUN_ADAPTER = "adapter"
"""The folder inside a run that holds its latest adapter, in PEFT's format."""


def site_root() -> Path:
    """Return the folder with `app.py`, `pages/` and `assets/`: the checkout, or its copy inside an installed wheel."""
    package = Path(__file__).resolve().parent
    return package.parent if (package.parent / "app.py").is_file() else package / "_site"


def own_process(module: str) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment that run a module of this package in a process of its own.

    The current folder is not among the places for modules: it may be a stranger's. The package may be next to the app
    without being installed.
    """
    places = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH")]
    return [sys.executable, "-P", "-m", module], os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))}


def demo_base() -> Path:
    """Return the folder of the demo world's base model."""
    return site_root() / "assets" / "demo" / "base"


def demo_adapters() -> list[Path]:
    """Return the folders of the demo world's adapters, sorted by name."""
    folder = site_root() / "assets" / "demo" / "adapters"
    return sorted(path.parent for path in folder.glob("*/adapter_config.json"))


def cache_root() -> Path:
    """Return the user's cache folder: `$HIPLORA_CACHE`, or the system's place for caches."""
    chosen = os.environ.get("HIPLORA_CACHE")
    if chosen:
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_cache_dir("hiplora", appauthor=False))


def runs_root() -> Path:
    """Return the folder of the training runs: `$HIPLORA_RUNS`, or the system's place for a user's data."""
    chosen = os.environ.get("HIPLORA_RUNS")
    if chosen:
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_data_dir("hiplora", appauthor=False)) / "runs"
