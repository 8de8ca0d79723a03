"""HiP-LoRA adapters as ordinary LoRA folders. Works from the adapter's own files: no base model, no torch, no PEFT."""

from pathlib import Path

import numpy as np

from hiplora.adapters.hiplora_format import base_entry, group_keys, low_rank_factors, module_settings, with_factors
from hiplora.adapters.save import check_replaceable, write_lora
from hiplora.errors import HiploraError
from hiplora.files import Tensors, read_json, require_finite


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
    check_replaceable(out_dir, adapter_dir)
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
    write_lora(lora.items(), ranks, config, out_dir)
    return out_dir
