"""Any low-rank update as an ordinary LoRA folder that PEFT loads."""

import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hiplora.adapters.locate import ADAPTER_FILE
from hiplora.adapters.placement import Placement
from hiplora.errors import HiploraError
from hiplora.files import Tensors, atomic_path, write_tensors
from hiplora.sources import PEFT_PREFIX

_AUTHOR = "hiplora"
"""In the metadata of the files that are written here, which may be replaced."""
_WRITTEN = {"adapter_config.json", ADAPTER_FILE}
_KEPT = ("base_model_name_or_path", "revision", "task_type", "auto_mapping", "fan_in_fan_out", "modules_to_save")


def save_lora(
    placement: Placement,
    out: Path,
    r: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Write an update as a LoRA of scaling 1, exact to float32 or cut back to a rank, and return what that costs.

    The factors are `lora_B = Q1 sqrt(s)` and `lora_A = sqrt(s) Q2^T` from the update's own SVD, so a cut keeps the
    largest part (Eckart-Young). What the placement leaves out is not written.

    Columns: `module, rank, norm, error`; `norm` is `||dW||_F`, `error` is `||dW - dW_r||_F / ||dW||_F`, 0 where nothing
    is cut.

    Args:
        placement: the update on its base.
        out: folder to write: new, empty, or one that this wrote earlier.
        r: largest rank of a module; that of the update by default.
        progress: called with the number of modules done, and of all.

    Raises:
        HiploraError: `r` is below 1, a module cannot be a LoRA of PEFT's (an expert, a convolution, an embedding, a
            layer used several times), or the folder is the update's own, cannot be written or holds anything else.
    """
    if r is not None and r < 1:
        raise HiploraError(f"The rank must be 1 or more, got {r}.")
    check_replaceable(out, placement.update.folder)
    if repeated := [name for name in placement.names.values() if placement.update.original(name) != name]:
        raise HiploraError(
            f"{placement.update.name} changes a layer that is used several times ({repeated[0]}), and is not written "
            "as a LoRA: that would need layer_replication."
        )
    maps = set(placement.base.linear_maps)
    for module, place in placement.places.items():
        if module != place.module or place.kernel or "[" in module or place.module not in maps:
            raise HiploraError(f"{module} is not a linear map of its own, and is not written as a LoRA: leave it out.")
    rows: list[dict[str, Any]] = []
    ranks: dict[str, int] = {}

    def factors() -> Iterator[tuple[str, np.ndarray]]:
        for done, (module, place) in enumerate(placement.places.items()):
            Q1, s, Q2t = placement.delta(module).compact_svd
            # What rounding leaves of a rank that is not there.
            held = int(np.sum(s > s[0] * max(place.shape) * np.finfo(np.float64).eps)) or 1
            ranks[module] = rank = min(held, r or held)
            root = np.sqrt(s[:rank])
            yield f"{PEFT_PREFIX}{module}.lora_A.weight", (root[:, None] * Q2t[:rank]).astype(np.float32)
            yield f"{PEFT_PREFIX}{module}.lora_B.weight", (Q1[:, :rank] * root).astype(np.float32)
            total = float(np.sum(s**2))
            error = math.sqrt(float(np.sum(s[rank:] ** 2)) / total) if total and rank < held else 0.0
            rows.append({"module": module, "rank": rank, "norm": math.sqrt(total), "error": error})
            progress(done + 1, len(placement.places))

    config = {name: placement.update.config.get(name) for name in _KEPT} | {
        "base_model_name_or_path": placement.update.base_name or str(placement.base.path),
        "fan_in_fan_out": any(place.transposed for place in placement.weights),
        "modules_to_save": None,
    }
    write_lora(factors(), ranks, config, out)
    return pd.DataFrame(rows)


def write_lora(
    tensors: Iterable[tuple[str, np.ndarray]], ranks: Mapping[str, int], config: Mapping[str, Any], out: Path
) -> None:
    """Write a LoRA folder of scaling 1. It appears whole or not at all.

    Args:
        tensors: keys as in `adapter_model.safetensors`, and arrays; taken and written one at a time.
        ranks: `{module: rank}`, complete once the tensors were taken.
        config: of what it was made from; what names the base and the form of its maps is kept.
        out: folder to write.

    Raises:
        HiploraError: it cannot be written.
    """
    with atomic_path(out) as draft:
        draft.mkdir()
        write_tensors(draft / ADAPTER_FILE, tensors, {"format": "pt", "written_by": _AUTHOR})
        r = Counter(ranks.values()).most_common(1)[0][0]
        # Keys of a pattern are regular expressions, matched from any dot on: anchored, each matches one module.
        pattern = {f"^{re.escape(module)}": rank for module, rank in ranks.items() if rank != r}
        settings = {name: config.get(name) for name in _KEPT} | {
            "peft_type": "LORA",
            "r": r,
            "lora_alpha": r,
            "rank_pattern": pattern,
            "alpha_pattern": pattern,
            "target_modules": list(ranks),
            "lora_dropout": 0.0,
            "bias": "none",
            "use_rslora": False,
            "use_dora": False,
            "inference_mode": True,
        }
        if (out / "README.md").is_file():
            shutil.copy2(out / "README.md", draft / "README.md")
        text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        (draft / "adapter_config.json").write_text(text, encoding="utf-8")


def check_replaceable(out: Path, source: Path | None = None) -> None:
    """Raise unless a folder may be written: it is new, empty, or holds a LoRA that was written here.

    Raises:
        HiploraError: it holds anything else, or is, contains or lies in `source`.
    """
    place = out.resolve()
    if source is not None:
        adapter = source.resolve()
        if place == adapter or place in adapter.parents or adapter in place.parents:
            relation = "is" if place == adapter else "contains" if place in adapter.parents else "lies in"
            raise HiploraError(f"{out} {relation} the adapter itself: choose another folder to write.")
    if not out.is_dir():
        return
    held = {path.name for path in out.iterdir()}
    # A trained adapter has files of the same names.
    written = held - {"README.md"} == _WRITTEN and Tensors(out / ADAPTER_FILE).metadata.get("written_by") == _AUTHOR
    if held and not written:
        raise HiploraError(f"{out} holds files that are not an earlier export: choose another folder to write.")
