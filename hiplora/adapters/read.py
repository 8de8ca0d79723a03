"""Any adapter on disk, opened by what its config says it is."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from hiplora.adapters.adapter import Adapter
from hiplora.adapters.hiplora import HipLoraAdapter
from hiplora.adapters.lora import LoraAdapter
from hiplora.errors import HiploraError
from hiplora.files import Tensors, read_json, reject_lfs_pointer, user_path
from hiplora.paths import demo_adapters

_READERS: dict[str, type[Adapter]] = {"LORA": LoraAdapter, "HIPLORA": HipLoraAdapter}


def read_adapter(path: str | Path) -> Adapter:
    """Open an adapter folder: `adapter_config.json` beside `adapter_model.safetensors`.

    Args:
        path: the folder, or the name of one of the demo world's adapters, such as `swap-lora`.

    Raises:
        HiploraError: no such folder, weights without config or the reverse, a Git LFS pointer, a pickle, or a tuner
            that is not read yet.
    """
    folder = user_path(path)
    if not folder.is_dir():
        folder = next((shipped for shipped in demo_adapters() if shipped.name == str(path)), folder)
    if not folder.is_dir():
        raise HiploraError(f"{folder} is not a folder: pass the adapter's folder, as `save_pretrained` wrote it.")
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
    config = read_json(config_path)
    peft_type = str(config.get("peft_type", "")).upper()
    reader = _READERS.get(peft_type)
    if reader is None:
        raise HiploraError(
            f"{config_path} says peft_type {peft_type or 'nothing'}, which is not read yet: LoRA, rsLoRA "
            "and HiP-LoRA are."
        )
    return reader(folder, config, Tensors(weights_path))


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
    return f"{adapter.path.resolve().parent.name}/{adapter.name}"


def _with_number(adapter: Adapter, number: int) -> str:
    return f"{adapter.name}#{number}"
