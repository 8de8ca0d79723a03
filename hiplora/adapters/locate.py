"""Find the folder of an adapter named by a path, a training run, or a demo adapter's name."""

from pathlib import Path

from hiplora.errors import HiploraError
from hiplora.files import user_path
from hiplora.paths import RUN_ADAPTER, RUN_FILE, demo_adapters


def locate(where: str | Path) -> tuple[Path, Path]:
    """Return the folder with the adapter's files, and the one it is named after: a run's adapter lies inside the run.

    Args:
        where: an adapter folder, the folder of a training run, or the name of a demo adapter, such as `swap-lora`.

    Raises:
        HiploraError: no such folder, or a run without a checkpoint.
    """
    home = user_path(where)
    if not home.is_dir():
        home = next((shipped for shipped in demo_adapters() if shipped.name == str(where)), home)
    if not home.is_dir():
        raise HiploraError(f"{home} is not a folder: pass the adapter's folder, as `save_pretrained` wrote it.")
    if not (home / RUN_FILE).is_file() or (home / "adapter_model.safetensors").is_file():
        return home, home
    folder = home / RUN_ADAPTER
    if not folder.is_dir():
        raise HiploraError(f"{home} has no checkpoint yet: wait for its first one, or choose another run.")
    return folder, home
