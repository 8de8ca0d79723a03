"""HiP-LoRA adapters as ordinary LoRA folders. Works from the adapter's own files: no base model, no torch, no PEFT."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from hiplora.adapters.hiplora_format import base_entry, group_keys, low_rank_factors, module_settings, with_factors
from hiplora.errors import HiploraError
from hiplora.files import Tensors, atomic_path, read_json, require_finite

_EXPORTED = {"adapter_config.json", "adapter_model.safetensors"}
_KEPT = ("base_model_name_or_path", "revision", "task_type", "auto_mapping", "fan_in_fan_out", "modules_to_save")


def export_lora(adapter_dir: Path, out_dir: Path) -> Path:
    """Write a HiP-LoRA adapter as a LoRA adapter of rank k + r with the same outputs to float32 rounding.

    `lora_B = [U_k C | (alpha/r) B']` and `lora_A = [V_k^T ; A']` in float32, scaling 1 (alpha = rank), with
    `rank_pattern` and `alpha_pattern` where modules differ (METHOD.md section 2: the whole update has that rank).
    Tensors of `modules_to_save` are copied. The folder appears whole or not at all; an earlier export is replaced.

    Args:
        adapter_dir: folder with `adapter_config.json` and `adapter_model.safetensors`.
        out_dir: folder to write: new, empty, or an earlier export.

    Returns:
        `out_dir`.

    Raises:
        HiploraError: the folder is not a HiP-LoRA adapter or is damaged, its singular vectors were left out and are not
            in the cache, or `out_dir` cannot be written, holds anything else, or is, contains or lies in `adapter_dir`.
    """
    _check_replaceable(out_dir, adapter_dir)
    config = read_json(adapter_dir / "adapter_config.json")
    if config.get("peft_type") != "HIPLORA":
        raise HiploraError(f"{adapter_dir} is a {config.get('peft_type')} adapter: only HiP-LoRA is exported as LoRA.")
    tensors = Tensors(adapter_dir / "adapter_model.safetensors")
    modules = group_keys(tensors.shapes)
    if not modules:
        raise HiploraError(f"{tensors.path} holds no HiP-LoRA tensors: save the adapter again.")
    own = {key for keys in modules.values() for key in keys.values()}
    lora = {key: tensors.read(key) for key in tensors.shapes if key not in own}
    try:
        settings = module_settings(config, modules)
    except HiploraError as error:
        raise HiploraError(f"{adapter_dir}: {error}") from None
    ranks = {}
    for module, keys in modules.items():
        held = {name: require_finite(tensors.read(key), f"{tensors.path}: {key}") for name, key in keys.items()}
        complete = with_factors(held, base_entry(config, module), module)
        L, R = low_rank_factors(complete, settings[module])
        prefix = next(iter(keys.values())).rpartition(".")[0]
        lora[f"{prefix}.lora_A.weight"] = np.ascontiguousarray(R, dtype=np.float32)
        lora[f"{prefix}.lora_B.weight"] = np.ascontiguousarray(L, dtype=np.float32)
        ranks[module] = len(R)
    with atomic_path(out_dir) as draft:
        draft.mkdir()
        save_file(lora, draft / "adapter_model.safetensors", {"format": "pt"})
        text = json.dumps(_lora_config(config, ranks), indent=2, sort_keys=True) + "\n"
        (draft / "adapter_config.json").write_text(text, encoding="utf-8")
    return out_dir


def _check_replaceable(out_dir: Path, adapter_dir: Path) -> None:
    out, adapter = out_dir.resolve(), adapter_dir.resolve()
    if out == adapter or out in adapter.parents or adapter in out.parents:
        place = "is" if out == adapter else "contains" if out in adapter.parents else "lies in"
        raise HiploraError(f"{out_dir} {place} the adapter itself: choose another folder to write.")
    if not out_dir.is_dir():
        return
    held = {path.name for path in out_dir.iterdir()}
    # A trained HiP-LoRA adapter has files of the same names.
    is_export = (
        held - {"README.md"} == _EXPORTED and read_json(out_dir / "adapter_config.json").get("peft_type") == "LORA"
    )
    if held and not is_export:
        raise HiploraError(f"{out_dir} holds files that are not an earlier export: choose another folder to write.")


def _lora_config(config: dict[str, Any], ranks: dict[str, int]) -> dict[str, Any]:
    r = Counter(ranks.values()).most_common(1)[0][0]
    # Keys of a pattern are regular expressions, matched from any dot on: anchored, each matches one module.
    pattern = {f"^{re.escape(module)}": rank for module, rank in ranks.items() if rank != r}
    return {name: config.get(name) for name in _KEPT} | {
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
