"""Any adapter on disk, opened by what its config says it is."""

import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hiplora.adapters.adapter import Adapter
from hiplora.adapters.dora import MAGNITUDE, DoraAdapter
from hiplora.adapters.hiplora import HipLoraAdapter
from hiplora.adapters.initialized import INITIAL_FILE, INITIALIZATIONS, InitializedLoraAdapter
from hiplora.adapters.lora import LoraAdapter
from hiplora.errors import HiploraError
from hiplora.files import Tensors, read_json, reject_lfs_pointer, user_path
from hiplora.paths import RUN_ADAPTER, RUN_FILE, demo_adapters


def read_adapter(path: str | Path) -> Adapter:
    """Open an adapter folder: `adapter_config.json` beside `adapter_model.safetensors`; or a run's latest adapter.

    Args:
        path: the folder, that of a training run, or the name of one of the demo world's adapters, such as `swap-lora`.

    Raises:
        HiploraError: no such folder, weights without config or the reverse, a Git LFS pointer, a pickle, a run without
            a checkpoint, or a tuner that is not read yet.
    """
    home = user_path(path)
    if (home / RUN_FILE).is_file():
        # While a run trains, its adapter is not there for the moment in which the next one takes its place.
        with suppress(HiploraError):
            return _read(home)
        time.sleep(0.1)
    return _read(home)


def _read(home: Path) -> Adapter:
    path = home
    if not home.is_dir():
        home = next((shipped for shipped in demo_adapters() if shipped.name == str(path)), home)
    if not home.is_dir():
        raise HiploraError(f"{home} is not a folder: pass the adapter's folder, as `save_pretrained` wrote it.")
    folder = home
    if (home / RUN_FILE).is_file() and not (home / "adapter_model.safetensors").is_file():
        folder = home / RUN_ADAPTER
        if not folder.is_dir():
            raise HiploraError(f"{home} has no checkpoint yet: wait for its first one, or choose another run.")
    config_path, weights_path = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    if not weights_path.is_file():
        pickled = folder / "adapter_model.bin"
        if pickled.is_file():
            raise HiploraError(
                f"{pickled} is a pickle, which could run code when opened: load it once with PEFT and save it again "
                "with `save_pretrained`, which writes safetensors."
            )
        raise HiploraError(f"{weights_path} is missing: pass a folder that `PeftModel.save_pretrained` wrote.")
    reject_lfs_pointer(weights_path)
    if not config_path.is_file():
        raise HiploraError(
            f"{weights_path} has no adapter_config.json beside it: r, alpha and the base are unknown "
            "without it, so add the file from the same run."
        )
    return adapter_of(folder, read_json(config_path), Tensors(weights_path), home)


def adapter_of(folder: Path, config: dict[str, Any], tensors: Tensors, home: Path | None = None) -> Adapter:
    """Return the adapter that a config and tensors make up.

    Args:
        folder: where they lie, with whatever else the adapter needs beside them.
        config: as in `adapter_config.json`.
        tensors: as in `adapter_model.safetensors`.
        home: the folder it is called after; `folder` by default.

    Raises:
        HiploraError: the tuner is not read yet, or the parts do not fit each other.
    """
    peft_type = str(config.get("peft_type", "")).upper()
    if peft_type not in ("LORA", "HIPLORA"):
        raise HiploraError(
            f"{folder / 'adapter_config.json'} says peft_type {peft_type or 'nothing'}, which is not read yet: LoRA, "
            "rsLoRA, DoRA and HiP-LoRA are."
        )
    reader = HipLoraAdapter if peft_type == "HIPLORA" else _lora_reader(folder, config, tensors)
    return reader(folder, config, tensors, home)


def _lora_reader(folder: Path, config: dict[str, Any], tensors: Tensors) -> type[Adapter]:
    """Return the class for what PEFT calls LoRA, by how it started and what it trains."""
    init = str(config.get("init_lora_weights", "")).lower()
    dora = bool(config.get("use_dora")) or any(MAGNITUDE in key for key in tensors.shapes)
    if init.startswith("loftq"):
        raise HiploraError(
            f"{folder} was started by {init}, which changes the base too, by quantising it, so its update of the "
            "original base is not known: pass an adapter with another start."
        )
    if not init.startswith(tuple(INITIALIZATIONS)):
        return DoraAdapter if dora else LoraAdapter
    if dora:
        raise HiploraError(
            f"{folder} is a DoRA that was started by {init}, which is not read yet: pass a DoRA with a plain start."
        )
    if not (folder / INITIAL_FILE).is_file():
        raise HiploraError(
            f"{folder} was started by {init}, which changes the base too, so its factors alone are no update of the "
            f"original base: put the weights it started from beside them as {INITIAL_FILE}, or save it with PEFT's "
            "path_initial_model_for_weight_conversion."
        )
    return InitializedLoraAdapter


def read_adapters(paths: Iterable[str | Path]) -> list[Adapter]:
    """Open several adapter folders, in order, with names told apart.

    Raises:
        HiploraError: as `read_adapter`, for the first that cannot be opened.
    """
    return name_apart([read_adapter(path) for path in paths])


def name_apart(adapters: list[Adapter]) -> list[Adapter]:
    """Give adapters that share a name longer ones, by parent folder, then by number; returns the same list."""
    for lengthen in (_with_parent, _with_number):
        for name, count in Counter(adapter.name for adapter in adapters).items():
            if count > 1:
                for number, adapter in enumerate([a for a in adapters if a.name == name], start=1):
                    adapter.name = lengthen(adapter, number)
    return adapters


def _with_parent(adapter: Adapter, number: int) -> str:
    return f"{adapter.home.resolve().parent.name}/{adapter.name}"


def _with_number(adapter: Adapter, number: int) -> str:
    return f"{adapter.name}#{number}"
