"""Open an adapter on disk in the format that its config names."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hiplora.adapters.adapter import Adapter
from hiplora.adapters.dora import DoraAdapter
from hiplora.adapters.full import FullUpdate
from hiplora.adapters.hiplora import HipLoraAdapter
from hiplora.adapters.initialized import InitializedLoraAdapter
from hiplora.adapters.locate import ADAPTER_FILE, adapter_files, adapters_inside, locate, what_lies_at, without_adapter
from hiplora.adapters.loose import METADATA, LooseAdapter
from hiplora.adapters.lora import LoraAdapter
from hiplora.adapters.peft_adapter import PeftAdapter
from hiplora.adapters.tokens import TrainableTokensAdapter
from hiplora.adapters.tuners import REFUSED
from hiplora.adapters.update import Update
from hiplora.errors import HiploraError
from hiplora.files import Shards, Tensors, TensorSource, read_json, reject_lfs_pointer, user_path
from hiplora.paths import RUN_FILE
from hiplora.sources import BaseModel

READERS: tuple[type[Adapter], ...] = (
    HipLoraAdapter, TrainableTokensAdapter, LooseAdapter, PeftAdapter, InitializedLoraAdapter, DoraAdapter, LoraAdapter,
)  # fmt: skip
"""The formats; the first that can read an adapter is used."""


def read_adapter(path: str | Path) -> Update:
    """Open an adapter folder: `adapter_config.json` beside `adapter_model.safetensors`; or a run's latest adapter.

    Args:
        path: an adapter folder, the folder of a training run, the name of a demo adapter, such as `swap-lora`, or the
            folder of a whole model, which is then an update of the base.

    Raises:
        HiploraError: no such folder, weights without config or the reverse, a Git LFS pointer, a pickle, a run without
            a checkpoint, or a tuner without an update of the weights.
    """
    if (user_path(path) / RUN_FILE).is_file():
        # While a run trains, its adapter is missing for a moment whenever the next one replaces it.
        with suppress(HiploraError):
            return _read(path)
        time.sleep(0.1)
    return _read(path)


def _read(path: str | Path) -> Update:
    where = user_path(path)
    if where.is_file():
        return _read_file(where)
    folder, home = locate(path)
    files = adapter_files(folder)
    config_path = folder / "adapter_config.json"
    if not files and not config_path.is_file() and (folder / "config.json").is_file():
        return FullUpdate(BaseModel(folder))
    if not files and len(inside := adapters_inside(folder)) == 1:
        return _read(inside[0])
    if not files:
        raise HiploraError(without_adapter(folder))
    for file in files:
        reject_lfs_pointer(file)
    opened = [Tensors(file) for file in files]
    tensors: TensorSource = Shards(opened) if len(opened) > 1 else opened[0]
    config = read_json(config_path) if config_path.is_file() else _settings_inside(opened[0])
    if not config_path.is_file() and not LooseAdapter.reads(config, tensors, folder):
        raise HiploraError(_without_config(files[0], tensors))
    return adapter_of(folder, config, tensors, home)


def _read_file(path: Path) -> Update:
    """Open one file: an adapter's own in its folder, or one that stands alone."""
    if path.name == ADAPTER_FILE and (path.parent / "adapter_config.json").is_file():
        return _read(path.parent)
    if path.suffix != ".safetensors":
        raise HiploraError(what_lies_at(path))
    tensors = Tensors(path)
    beside = path.parent / "adapter_config.json"
    if beside.is_file():
        return adapter_of(path.parent, read_json(beside), tensors, path)
    config = _settings_inside(tensors)
    if not LooseAdapter.reads(config, tensors, path.parent):
        raise HiploraError(_without_config(path, tensors))
    return LooseAdapter(path.parent, config, tensors, path)


def _without_config(path: Path, tensors: TensorSource) -> str:
    """Return what is missing to a file of tensors, as a sentence."""
    if path.name == ADAPTER_FILE or any("lora_" in key for key in tensors.shapes):
        return (
            f"{path} has no adapter_config.json beside it: r, alpha and the base are unknown without it, so add the "
            "file from the same run."
        )
    names = ", ".join(list(tensors.shapes)[:2]) or "none"
    return (
        f"{path} holds {len(tensors.shapes)} tensors ({names}), and none with the name of an adapter's: pass the "
        "folder of the adapter, or of the whole model, with its config."
    )


def _settings_inside(tensors: Tensors) -> dict[str, Any]:
    """Return what the writer left of settings in the file itself."""
    try:
        found = json.loads(tensors.metadata.get(METADATA, "{}"))
    except (ValueError, RecursionError):
        raise HiploraError(f"{tensors.name}: its {METADATA} is not valid JSON: save the file again.") from None
    return {METADATA: found} if isinstance(found, dict) and found else {}


def adapter_of(folder: Path, config: dict[str, Any], tensors: TensorSource, home: Path | None = None) -> Adapter:
    """Build an adapter from its config and tensors.

    Args:
        folder: where they lie, with anything else the adapter needs beside them.
        config: as in `adapter_config.json`.
        tensors: as in `adapter_model.safetensors`.
        home: the folder it is named after; `folder` by default.

    Raises:
        HiploraError: the tuner has no update of the weights, or the parts do not fit each other.
    """
    if not config.get("peft_type") and {"r", "lora_alpha"} & set(config):
        # Written by hand, or by a tool that knows of one method only.
        config = config | {"peft_type": "LORA"}
    reader = next((reader for reader in READERS if reader.reads(config, tensors, folder)), None)
    if reader is None:
        kind, path = str(config.get("peft_type", "")).upper(), folder / "adapter_config.json"
        if kind in REFUSED:
            raise HiploraError(f"{path} says peft_type {kind}: {REFUSED[kind]}.")
        raise HiploraError(
            f"{path} says peft_type {kind or 'nothing'}, which PEFT does not have: save the adapter again with PEFT, "
            "or merge it where it was trained and pass the merged model."
        )
    return reader(folder, config, tensors, home)


def read_updates(sources: Iterable[str | Path | Update]) -> list[Update]:
    """Open several adapters, in order, with distinct names; those already open stay as they are.

    Raises:
        HiploraError: as `read_adapter`, for the first that cannot be opened.
    """
    return name_apart([source if isinstance(source, Update) else read_adapter(source) for source in sources])


def name_apart(updates: Sequence[Update]) -> list[Update]:
    """Give updates that share a name longer ones, by parent folder, then by number; return the same updates."""
    for lengthen in (lambda update, number: update.long_name, lambda update, number: f"{update.name}#{number}"):
        for name, count in Counter(update.name for update in updates).items():
            if count > 1:
                for number, update in enumerate([u for u in updates if u.name == name], start=1):
                    update.name = lengthen(update, number)
    return list(updates)
