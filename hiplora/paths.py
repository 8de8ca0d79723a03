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


def portable(where: str | Path) -> str:
    """Return the form of a path that opens the same from the current folder, on other machines too where it can.

    Args:
        where: a path; a relative one stays as it is.

    Returns:
        The name of a part of the demo world, a path relative to the current folder or to the user's (`~`), or the path.
    """
    path = Path(where)
    if not path.is_absolute():
        return str(where)
    names = {demo_base(): "demo", **{adapter: adapter.name for adapter in demo_adapters()}}
    # A folder of that name here would be opened in its place.
    if path in names and not Path(names[path]).exists():
        return names[path]
    for start, sign in ((Path.cwd(), "./"), (Path.home(), "~/")):
        if path.is_relative_to(start) and path != start:
            inside = path.relative_to(start).as_posix()
            # A path of one part could be taken for a name.
            return inside if sign == "./" and "/" in inside else sign + inside
    return str(path)


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
