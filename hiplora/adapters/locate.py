"""Find the folder of an adapter named by a path, a training run, or a demo adapter's name."""

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from hiplora.errors import HiploraError
from hiplora.files import is_lfs_pointer, user_path
from hiplora.paths import RUN_ADAPTER, RUN_FILE, demo_adapters

ADAPTER_FILE: Final = "adapter_model.safetensors"
_OTHER_FILES: Final = ("adapters.safetensors", "pytorch_lora_weights.safetensors")
"""What mlx-lm and diffusers call theirs."""
_SHARD = re.compile(r"adapter_model-\d{5}-of-(\d{5})\.safetensors")
_CONVERT: Final = "convert it with `hiplora convert`, which opens it in a process of its own and runs no code of it"


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
        raise HiploraError(_not_there(home))
    if not (home / RUN_FILE).is_file() or (home / "adapter_model.safetensors").is_file():
        return home, home
    folder = home / RUN_ADAPTER
    if not folder.is_dir():
        raise HiploraError(f"{home} has no checkpoint yet: wait for its first one, or choose another run.")
    return folder, home


def _not_there(path: Path) -> str:
    """Return what to do about an adapter that is not there: the demo's are meant by names alone."""
    what = f"{path} is not a folder: pass the adapter's folder, as `save_pretrained` wrote it"
    names = [shipped.name for shipped in demo_adapters()]
    if path.parent != Path() or not names:
        return f"{what}."
    if near := get_close_matches(path.name, names, 1):
        return f"{path} is not a folder, nor an adapter of the demo: did you mean {near[0]}?"
    return f"{what}, or an adapter of the demo ({', '.join(names)})."


def adapter_files(folder: Path) -> list[Path]:
    """Return the files of an adapter's tensors: PEFT's one, its shards, another tool's, or the only one there is.

    Raises:
        HiploraError: shards are missing.
    """
    for name in (ADAPTER_FILE, *_OTHER_FILES):
        if (folder / name).is_file():
            return [folder / name]
    shards = {file: match for file in sorted(folder.glob("adapter_model-*")) if (match := _SHARD.fullmatch(file.name))}
    if shards:
        count = int(next(iter(shards.values()))[1])
        if len(shards) != count:
            raise HiploraError(f"{folder} holds {len(shards)} of {count} files of its adapter: download the others.")
        return list(shards)
    others = list(folder.glob("*.safetensors"))
    return others if len(others) == 1 and not (folder / "config.json").is_file() else []


def adapters_inside(folder: Path) -> list[Path]:
    """Return the folders of adapters in a folder: named ones, as PEFT saves them, or a trainer's checkpoints."""
    return sorted(path.parent for path in folder.glob("*/adapter_config.json"))


def without_adapter(folder: Path) -> str:
    """Return what a folder without an adapter's tensors holds instead, and what to do, as a sentence."""
    for name in ("adapter_model.bin", "pytorch_lora_weights.bin"):
        if (folder / name).is_file():
            return what_lies_at(folder / name)
    inside = adapters_inside(folder)
    if inside:
        named = ", ".join(path.name for path in inside[:5]) + (", …" if len(inside) > 5 else "")
        return f"{folder} holds {len(inside)} adapters in folders of their own ({named}): pass one of them."
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    if len(files) > 1:
        return f"{folder} holds {', '.join(files[:4])}, and it is not clear which is the adapter: pass that file."
    return f"{folder / ADAPTER_FILE} is missing: pass a folder that `PeftModel.save_pretrained` wrote."


def what_lies_at(path: Path) -> str:
    """Return what a file that is not a safetensors file is, by its first bytes, and what to do, as a sentence."""
    with path.open("rb") as file:
        start = file.read(512)
    if is_lfs_pointer(start):
        return (
            f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository, or download the "
            "file again."
        )
    if not start:
        return f"{path} is empty: download or save it again."
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return f"{path} is a pickle, which could run code when opened: {_CONVERT}."
    if start.startswith(b"GGUF"):
        return f"{path} is a GGUF file, which is read as a base only: pass the adapter as safetensors."
    if start.isascii():
        first = start.decode("ascii").strip().partition("\n")[0][:60]
        return f"{path} is text ({first!r}), perhaps a web page in place of the file: download it again."
    return f"{path} is not a safetensors file: pass an adapter's folder or its .safetensors file."
