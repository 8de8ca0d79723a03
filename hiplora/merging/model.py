"""A base with an update merged into it, written as a checkpoint of the same form, one matrix at a time."""

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from hiplora.adapters import Placement
from hiplora.errors import HiploraError
from hiplora.files import Tensors, atomic_path
from hiplora.geometry.calibration import SHIPPED
from hiplora.merging.rows import by_rows
from hiplora.sources import BaseModel, Weight

_FLOATS = {"F64", "F32", "F16", "BF16"}
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".onnx", ".gguf", ".ot")
_OF_THE_BASE = ("card.json", "README.md")
"""Files that say how the base was made and what it scored, which does not hold for the merged model."""
_OTHER_FOLDERS = (SHIPPED, "onnx", "openvino", "original", "metal", "coreml", "gguf")
"""Folders of the inputs of the base's own weights, and of those weights in other forms."""
_MODULE_FILES = ("model.safetensors", "pytorch_model.bin")
"""Weights of further modules, each in a folder of its own, as those of sentence-transformers."""


def save_model(
    placement: Placement, out: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> pd.DataFrame:
    """Write a base with an update merged into it, and return what rounding to the stored dtype costs.

    Each file of the base is copied, and its changed matrices are written over in place: memory follows the largest
    matrix, and all else stays as it is, byte for byte. The folder appears whole or not at all.

    Columns: `module, norm, error`; `norm` is `||dW||_F`, `error` the Frobenius norm of what rounding changes, relative
    to it.

    Args:
        placement: the update on its base.
        out: folder to write, which does not exist.
        progress: called with the number of modules done, and of all.

    Raises:
        HiploraError: a weight is quantized, is stored in another form than the model has it in memory, shares its
            tensor with another module, or would overflow; or the folder exists or cannot be written.
    """
    if out.exists():
        raise HiploraError(f"{out} exists already: name a new folder to write.")
    base = placement.base
    files = {file.path: file for file in base.files}
    places = {module: _stored_at(base, weight, files) for module, weight in placement.places.items()}
    kept = [*files, *(path for path in _beside(base.path) if path not in files)]
    rows = []
    with atomic_path(out) as draft:
        draft.mkdir()
        for path in kept:
            target = draft / path.relative_to(base.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        for done, (module, weight) in enumerate(placement.places.items(), start=1):
            file, key, index = places[module]
            before = base.read(weight)
            stored, change, lost = np.empty_like(before), 0.0, 0.0
            for block, delta in by_rows(placement.delta(module)):
                merged = before[block].astype(np.float64) + delta
                with np.errstate(over="ignore"):
                    stored[block] = merged.astype(before.dtype)
                change += float(np.sum(delta**2))
                lost += float(np.sum((stored[block].astype(np.float64) - merged) ** 2))
            if not math.isfinite(lost):
                raise HiploraError(
                    f"{module} of the merged model overflows {before.dtype}: merge with smaller weights, or into a "
                    "base of a wider dtype."
                )
            error = math.sqrt(lost / change) if change else math.nan
            rows.append({"module": module, "norm": math.sqrt(change), "error": error})
            _write_over(draft / file.path.name, file, key, index, stored.T if weight.transposed else stored)
            progress(done, len(places))
    return pd.DataFrame(rows)


def _stored_at(base: BaseModel, weight: Weight, files: dict[Path, Tensors]) -> tuple[Tensors, str, int | None]:
    """Return the file, the key and the slice in which a weight is stored.

    Raises:
        HiploraError: it cannot be written back there.
    """
    key, index = weight.key, None
    if weight.recipe is not None:
        [(pattern, keys), *others] = weight.recipe.sources
        if pattern or others or len(keys) != 1:
            raise HiploraError(
                f"{weight.module} is not stored as the model has it in memory, so it cannot be written there: load "
                "the base with transformers, save it again, and merge into that."
            )
        key, index = keys[0], weight.recipe.index
    file = files[weight.path]
    if file.dtypes.get(key) not in _FLOATS:
        raise HiploraError(
            f"{weight.path}: {key} is quantized, and a merge would not fit its steps: merge into the base in 16 or 32 "
            "bits."
        )
    head = base.find("lm_head")
    if head is not None and head.key == weight.key and weight.module not in base.linear_maps:
        raise HiploraError(
            f"{weight.module} is lm_head too in {base.name}, so that merging would change both: save the merge as a "
            "LoRA, or untie the two first."
        )
    return file, key, index


def _beside(folder: Path) -> Iterator[Path]:
    """Yield the files beside the weights that belong to the merged model too: settings, tokenizer, further modules."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if path.name not in _OTHER_FOLDERS and not path.is_symlink():
                yield from _beside(path)
                yield from (path / name for name in _MODULE_FILES if (path / name).is_file())
        elif path.is_file() and path.suffix not in _WEIGHTS and path.name not in _OF_THE_BASE:
            yield path


def _write_over(path: Path, original: Tensors, key: str, index: int | None, matrix: np.ndarray) -> None:
    start, size = original.place(key)
    data = np.ascontiguousarray(matrix)
    if index is not None:
        size = data.nbytes
        start += index * size
    # A shape that is not the tensor's own would be written into its neighbor.
    assert data.nbytes == size
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data.view(np.uint8).data)
