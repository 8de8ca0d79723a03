"""Files of adapters in a form that can be read: pickles as safetensors, and the names of another tool as diffusers'.

A pickle is read in a process of its own, by torch's loader of weights alone: python -m hiplora.convert INPUT OUTPUT
"""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hiplora.errors import HiploraError
from hiplora.files import Tensors, atomic_path, user_path
from hiplora.paths import own_process
from hiplora.sources import BaseModel

_FACTOR = re.compile(r"\.(?:lora_(?:down|up|mid|A|B)\.weight|alpha)$")


def convert(source: str | Path, target: str | Path | None = None) -> Path:
    """Write the tensors of a pickle, such as `adapter_model.bin`, as safetensors, and return where.

    The pickle is opened by another process, with `torch.load(weights_only=True)`, which knows tensors and plain
    containers only and runs no code of the file.

    Args:
        source: a file that `torch.save` wrote.
        target: the file to write; by default beside the pickle, with its name and the suffix `.safetensors`.

    Raises:
        HiploraError: no such file, the target exists already, the pickle holds more than tensors, or it is damaged.
    """
    path = user_path(source)
    if not path.is_file():
        raise HiploraError(f"{path} is not a file: pass the pickle itself, such as adapter_model.bin.")
    out = path.with_suffix(".safetensors") if target is None else user_path(target)
    if out.exists():
        raise HiploraError(f"{out} exists already: remove it, or name another file to write.")
    command, environment = own_process("hiplora.convert")
    with atomic_path(out) as draft:
        done = subprocess.run(
            [*command, str(path.absolute()), str(draft.absolute())],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode or not draft.is_file():
            said = done.stderr.strip().splitlines()[-1:] or [f"it ended with code {done.returncode}"]
            raise HiploraError(
                f"{path} cannot be converted ({said[0][:300]}): save it as safetensors where it was made."
            )
    return out


def rename(source: str | Path, base: BaseModel, target: str | Path | None = None) -> Path:
    """Write a LoRA of kohya, ComfyUI or ai-toolkit under the names of a model of diffusers, and return where.

    SDXL, Flux, Wan and others have blocks of other names, some of them joined, in the tools that came first. Diffusers'
    own loader for the model translates them (`pip install diffusers`); each module's alpha is written beside it.

    Args:
        source: the safetensors file.
        base: the model, such as the folder `unet/` or `transformer/` of a pipeline.
        target: the file to write; by default beside the file, with `-diffusers` after its name.

    Raises:
        HiploraError: diffusers is not installed or does not know the names, the base is not a model of it, the file
            holds magnitudes of a DoRA, or the target exists already.
    """
    path = user_path(source)
    shapes = Tensors(path).shapes
    out = path.with_name(f"{path.stem}-diffusers.safetensors") if target is None else user_path(target)
    if out.exists():
        raise HiploraError(f"{out} exists already: remove it, or name another file to write.")
    kind = str(base.config.get("_class_name") or "")
    if not kind:
        raise HiploraError(f"{base.path} is not a model of diffusers: pass its folder, such as unet/ or transformer/.")
    if importlib.util.find_spec("diffusers") is None:
        raise HiploraError(f"The names of {path} are translated by diffusers: `pip install diffusers`.")
    if any("dora_scale" in key for key in shapes):
        # Diffusers would leave them out in silence.
        raise HiploraError(f"{path} holds magnitudes of a DoRA, which diffusers does not translate.")
    tensors = _translated(path, base, kind)
    from safetensors.torch import save_file

    with atomic_path(out) as draft:
        save_file(tensors, draft, {"format": "pt"})
    return out


def _translated(path: Path, base: BaseModel, kind: str) -> dict[str, Any]:
    """Return the tensors of a file by the names of diffusers, and the alpha of each module."""
    from diffusers import loaders
    from safetensors.torch import load_file

    name = "StableDiffusionXL" if kind.startswith("UNet2D") else re.sub(r"Transformer\dDModel$", "", kind)
    loader = getattr(loaders, f"{name}LoraLoaderMixin", None)
    if loader is None:
        raise HiploraError(f"diffusers does not have a loader of LoRAs for a {kind}, of which {base.path} is one.")
    tensors = load_file(path)
    # What is not the model's stays as it is: diffusers would leave some of it out in silence.
    own = {key: value for key, value in tensors.items() if _FACTOR.search(key) and not key.startswith("lora_te")}
    others = {key: value for key, value in tensors.items() if key not in own}
    # Its loaders tell a file of the original names by kohya's word for a factor.
    kohyas = {key.replace(".lora_A.", ".lora_down.").replace(".lora_B.", ".lora_up."): own[key] for key in own}
    said = ""
    for candidate in (own, kohyas):
        try:
            found = _by_diffusers(loader, candidate, base)
        except Exception as error:
            said = f": {error}".partition("\n")[0][:200]
            continue
        modules = [key.rpartition(".lora_")[0] for key in found if ".lora_" in key]
        if modules and all(map(base.find, modules)):
            return found | others
    raise HiploraError(f"diffusers cannot translate the names of {path} to those of {base.path}{said}.")


def _by_diffusers(loader: Any, tensors: dict[str, Any], base: BaseModel) -> dict[str, Any]:
    import torch
    from diffusers.utils import convert_unet_state_dict_to_peft

    if "UNet" in str(base.config["_class_name"]):
        translated, alphas = loader.lora_state_dict(dict(tensors), unet_config=SimpleNamespace(**base.config))
        translated = convert_unet_state_dict_to_peft(translated)
        alphas = {key.removesuffix(".alpha"): value for key, value in (alphas or {}).items()}
        alphas = convert_unet_state_dict_to_peft(alphas)
    else:
        translated, alphas = loader.lora_state_dict(dict(tensors)), {}
    found = {key: value.contiguous().clone() for key, value in translated.items()}
    for key, value in translated.items():
        if key.endswith(".lora_A.weight"):
            # What diffusers does not say is r: the factors hold it then.
            module = key.removesuffix(".lora_A.weight")
            found.setdefault(f"{module}.alpha", torch.tensor(float(alphas.get(key, value.shape[0]))))
    return found


def _write(source: Path, target: Path) -> None:
    """Convert within this process."""
    import torch
    from safetensors.torch import save_file

    try:
        found = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:
        sys.exit(f"it holds more than tensors, or is damaged: {str(error).partition(chr(10))[0][:200]}")
    # Trainers put the tensors one level down.
    for name in ("state_dict", "model"):
        found = found[name] if isinstance(found, dict) and isinstance(found.get(name), dict) else found
    tensors = {
        key: torch.as_tensor(value).detach().contiguous().clone()
        for key, value in (found.items() if isinstance(found, dict) else ())
        # Some tools keep a number, such as alpha, as one.
        if isinstance(key, str) and isinstance(value, torch.Tensor | int | float)
    }
    if isinstance(found, dict) and (others := [str(key) for key in found if key not in tensors]):
        sys.exit(f"it holds more than tensors: {', '.join(others[:5])}")
    if not tensors:
        sys.exit("it holds no tensors by name")
    save_file(tensors, target, {"format": "pt"})


if __name__ == "__main__":
    _write(Path(sys.argv[1]), Path(sys.argv[2]))
