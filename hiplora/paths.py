"""Where the project's own files lie: the app with its assets, and the user's cache folder."""

import os
from pathlib import Path

import platformdirs


def site_root() -> Path:
    """Return the folder with `app.py`, `pages/` and `assets/`: the checkout, or its copy inside an installed wheel."""
    package = Path(__file__).resolve().parent
    return package.parent if (package.parent / "app.py").is_file() else package / "_site"


def demo_base() -> Path:
    """Return the folder of the demo world's base model."""
    return site_root() / "assets" / "demo" / "base"


def demo_adapters() -> list[Path]:
    """Return the folders of the demo world's adapters, sorted by name."""
    folder = site_root() / "assets" / "demo" / "adapters"
    return sorted(path.parent for path in folder.glob("*/adapter_config.json"))


def cache_root() -> Path:
    """Return the user's cache folder: `$HIPLORA_CACHE`, or the system's place for caches."""
    return Path(os.environ.get("HIPLORA_CACHE") or platformdirs.user_cache_dir("hiplora", appauthor=False))
