"""Open an adapter on disk in the format that its config names."""

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
from hiplora.adapters.locate import locate
from hiplora.adapters.lora import LoraAdapter
from hiplora.adapters.peft_adapter import PeftAdapter
from hiplora.adapters.tokens import TrainableTokensAdapter
from hiplora.adapters.tuners import REFUSED
from hiplora.adapters.update import Update
from hiplora.errors import HiploraError
from hiplora.files import Tensors, TensorSource, read_json, reject_lfs_pointer, user_path
from hiplora.paths import RUN_FILE
from hiplora.sources import BaseModel

READERS: tuple[type[Adapter], ...] = (
    HipLoraAdapter, TrainableTokensAdapter, PeftAdapter, InitializedLoraAdapter, DoraAdapter, LoraAdapter,
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
    folder, home = locate(path)
    config_path, weights_path = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    if not config_path.is_file() and not weights_path.exists() and (folder / "config.json").is_file():
        return FullUpdate(BaseModel(folder))
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
