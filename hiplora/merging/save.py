"""A merge on disk: a LoRA or a whole model, with a report of how it was made beside it."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from hiplora import __version__
from hiplora.adapters import place, save_lora
from hiplora.adapters.save import check_replaceable
from hiplora.errors import HiploraError
from hiplora.files import atomic_path, hash_of, hashes_of
from hiplora.merging.merge import MergedUpdate
from hiplora.merging.model import save_model
from hiplora.sources import BaseModel

REPORT_FILE = "merge.json"


def save_merge(
    merge: MergedUpdate,
    base: BaseModel,
    out: Path,
    r: int | None = None,
    *,
    model: bool = False,
    conflicts: pd.DataFrame | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Write a merge as an ordinary LoRA, or as the merged model, with `merge.json` beside it; return its modules.

    The folder appears whole or not at all. The report holds the SHA-256 of each file of the adapters, and of the base
    where the result depends on its weights, the way and its settings, the error of each module, and the conflicts.
    Columns of what is returned: as `save_lora` or `save_model`.

    Args:
        merge: the merge.
        base: its base.
        out: folder to write, which does not exist or is empty.
        r: largest rank of a module of the LoRA; exact by default.
        model: whether the merged model is written, in the place of a LoRA.
        conflicts: for the report, from `conflict_table`.
        progress: called with the number of modules done, and of all.

    Raises:
        HiploraError: the folder holds anything, or as `save_lora` or `save_model`.
    """
    require_new(out)
    for placement in merge.placements:
        check_replaceable(out, placement.update.folder)
    if model and r is not None:
        raise HiploraError("A rank cuts a LoRA, and a merged model holds each weight whole: leave one of the two out.")
    placement = place(base, merge)
    with atomic_path(out) as draft:
        table = save_model(placement, draft, progress) if model else save_lora(placement, draft, r, progress)
        report = report_of(merge, base, table, conflicts, whole=model)
        (draft / REPORT_FILE).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return table


def require_new(out: Path) -> None:
    """Raise unless nothing lies where a folder is to be written.

    Raises:
        HiploraError: a file, or a folder that holds something.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise HiploraError(f"{out} exists already: name a new folder to write.")


def total_error(table: pd.DataFrame) -> float:
    """Return the error of all modules together, relative to the norm of all.

    Args:
        table: from `save_merge`.
    """
    energy = float((table["norm"] ** 2).sum())
    return math.sqrt(float(((table["error"] * table["norm"]) ** 2).sum()) / energy) if energy else 0.0


def report_of(
    merge: MergedUpdate,
    base: BaseModel,
    table: pd.DataFrame,
    conflicts: pd.DataFrame | None = None,
    *,
    whole: bool = False,
) -> dict[str, Any]:
    """Return how a merge was made, as plain data for JSON.

    Args:
        merge: the merge.
        base: its base.
        table: from `save_merge`.
        conflicts: from `conflict_table`.
        whole: whether a model was written, and not a LoRA.
    """
    depends = whole or merge.way.needs_spectrum
    hashes = {"sha256": {file.path.name: hash_of(file.path) for file in base.files}} if depends else {}
    settings: dict[str, Any] = {}
    if merge.way.density is not None:
        settings["density"] = merge.density
    if merge.way.random:
        settings["seed"] = merge.seed
    if merge.way.needs_spectrum:
        settings |= {"k": merge.k, "power": merge.power, "geometry": merge.geometry}
        if (calibration := merge.calibration) is not None:
            calibration.complete()
            inputs = {"text": calibration.index["text"], "tokens": calibration.index["tokens"]}
            settings["inputs"] = inputs | {"calibration": calibration.index.get("key")}
        settings["epsilon"] = {module: merge.epsilon(module) for module in merge.modules}
    return {
        "hiplora": __version__,
        "merge": merge.name,
        "how": merge.way.key,
        "source": merge.way.source,
        "settings": settings,
        "base": {"name": base.name, "files": {file.path.name: file.path.stat().st_size for file in base.files}}
        | hashes,
        "adapters": [
            {
                "name": placement.update.name,
                "method": placement.update.method,
                "from": placement.update.source,
                "weight": weight,
                "sha256": hashes_of(placement.update.folder),
            }
            for placement, weight in zip(merge.placements, merge.weights, strict=True)
        ],
        "caveats": list(merge.caveats),
        "error": total_error(table),
        "modules": _records(table),
        "conflicts": None if conflicts is None else _records(conflicts),
    }


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    return found
