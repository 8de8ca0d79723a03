"""The files of a checkpoint, in transformers' own order, and its name."""

import re
from pathlib import Path

from hiplora.errors import HiploraError
from hiplora.files import read_json

_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_SNAPSHOT = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)/snapshots/[0-9a-f]{7,40}$")


def hub_name(path: Path) -> str | None:
    """Return `owner/model` for a folder in the hub's cache, None for any other.

    >>> hub_name(Path("/cache/hub/models--org--tiny/snapshots/0123456789abcdef0123456789abcdef01234567"))
    'org/tiny'
    """
    match = _SNAPSHOT.search(path.absolute().as_posix())
    return f"{match['owner']}/{match['name']}" if match else None


def checkpoint_files(path: Path) -> list[Path]:
    """Return the safetensors files of a model folder.

    As in transformers: `model.safetensors` before an index, or the same by diffusers' names. Without either, the
    numbered shards, or the one file that is not an adapter's.

    Raises:
        HiploraError: no weights, several files that do not belong together, pickles only, or an index or a link that
            leads out of the folder.
    """
    singles = [path / f"{name}.safetensors" for name in ("model", "diffusion_pytorch_model")]
    indexes = [path / f"{single.name}.index.json" for single in singles]
    if single := next(filter(Path.is_file, singles), None):
        files = [single]
    elif index := next(filter(Path.is_file, indexes), None):
        files = _indexed(index)
    else:
        others = [
            file
            for file in sorted(path.glob("*.safetensors"))
            if not file.name.startswith("adapter_") and "consolidated" not in file.name
        ]
        files = [file for file in others if _SHARD.fullmatch(file.name)] or others
        if len(files) > 1 and not _SHARD.fullmatch(files[0].name):
            raise HiploraError(
                f"{path} holds {', '.join(file.name for file in files[:4])} and no model.safetensors: it is not clear "
                "which of them is the model, so rename that one to model.safetensors."
            )
        if not files:
            raise HiploraError(_without_weights(path))
    for file in files:
        _require_inside(file, path)
    return files


def _indexed(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    names = sorted(set(map(str, weight_map.values()))) if isinstance(weight_map, dict) else []
    fine = (isinstance(weight_map, dict) and all(isinstance(name, str) for name in weight_map.values())) and all(
        Path(name).name == name and "\\" not in name and len(name.encode()) < 256 for name in names
    )
    if not fine:
        raise HiploraError(f"{index} has no weight_map from tensors to files beside it: save the model again.")
    return [index.parent / name for name in names]


def _require_inside(file: Path, folder: Path) -> None:
    """Refuse a link that leads out of a model folder; the hub's cache links into the `blobs` beside its snapshots."""
    if not file.is_symlink():
        return
    allowed = [folder.resolve()]
    if hub_name(folder):
        allowed.append(folder.absolute().parents[1].resolve() / "blobs")
    if not any(file.resolve().is_relative_to(place) for place in allowed):
        raise HiploraError(f"{file} is a link to a file outside its folder: put the file itself there.")


def _without_weights(path: Path) -> str:
    pickled = next(iter(sorted(path.glob("*.bin"))), None)
    if pickled is not None:
        return (
            f"{pickled} is a pickle, which could run code when opened: load the model once and save it with "
            "`model.save_pretrained(folder)`, which writes safetensors."
        )
    packed = sorted(path.glob("*.gguf"))
    if packed:
        return (
            f"{path} holds {packed[0].name} and no .safetensors weights: pass that file itself, it is converted once."
        )
    if (path / "adapter_model.safetensors").is_file():
        return f"{path} holds an adapter's weights only: pass the folder of the base model."
    return f"{path} has no .safetensors weights: pass the folder that `save_pretrained` wrote."
