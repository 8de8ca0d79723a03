"""What a watched training must be, checked before its first step: its model, its base, its run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hiplora.errors import HiploraError
from hiplora.files import user_path
from hiplora.geometry import Calibration, read_text
from hiplora.paths import RUN_FILE, runs_root
from hiplora.sources import BaseModel, Weight
from hiplora.spectrum.prepare import BaseSpectra
from hiplora.training.run import Run
from hiplora.training.watched import WatchedConfig

if TYPE_CHECKING:
    import torch
    from peft import PeftModel


def peft_model(model: Any) -> "PeftModel":
    """Return the PEFT model inside what training put around it.

    Raises:
        HiploraError: it is not one, or it does not have one active adapter.
    """
    from accelerate.utils import extract_model_from_parallel
    from peft import PeftModel

    # FSDP2 shards in place: only DDP, DataParallel and torch.compile have a model inside.
    found = extract_model_from_parallel(model, keep_fp32_wrapper=True, keep_torch_compile=False)
    if not isinstance(found, PeftModel):
        raise HiploraError(
            f"{type(found).__name__} is not a PEFT model: wrap the base with peft.get_peft_model before training."
        )
    if len(found.active_adapters) != 1:
        raise HiploraError(
            f"{len(found.active_adapters)} adapters are active ({', '.join(found.active_adapters) or 'none'}): "
            "train one at a time to watch it."
        )
    return found


def base_of(model: "PeftModel") -> str:
    """Return from where the base of a model was loaded.

    Raises:
        HiploraError: the model does not say it.
    """
    config = getattr(model.get_base_model(), "config", None)
    found = getattr(config, "_name_or_path", "") or model.peft_config[model.active_adapter].base_model_name_or_path
    if not found:
        raise HiploraError(
            "The model does not say from where its base was loaded: pass base= with the folder of its weights, or its "
            "name."
        )
    return str(found)


def sample_of(model: "PeftModel") -> "dict[str, torch.Tensor]":
    """Return the base's weights of the first and the last adapted layer, by module; in all processes at once."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [(n, m) for n, m in model.get_base_model().named_modules() if isinstance(m, BaseTunerLayer)]
    found = {}
    for name, layer in layers[:1] + layers[1:][-1:]:
        weight = getattr(layer.get_base_layer(), "weight", None)
        if weight is not None:
            found[name] = weight.full_tensor() if hasattr(weight, "full_tensor") else weight.detach()
    return found


def require_same(base: BaseModel, sample: "dict[str, torch.Tensor]") -> None:
    """Raise if weights in memory are not the base's on disk, but for the rounding of their dtype.

    Quantized ones are left out: they differ by design.

    Raises:
        HiploraError: they differ; names the first.
    """
    import torch

    for module, weight in sample.items():
        place_ = base.find(module)
        if place_ is None or weight.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            continue
        there = base.read(place_).reshape(place_.natural_shape).astype(np.float32)
        here = weight.float().cpu().numpy()
        here = here.T if place_.transposed else here
        epsilon = torch.finfo(weight.dtype).eps
        if here.shape != there.shape or not np.allclose(here, there, rtol=epsilon, atol=1e-6):
            raise HiploraError(
                f"The model's weight of {module} is not the one of {base.name}: pass base= with the folder of the "
                "weights that the adapter was put on."
            )


def require_rank(weights: list[Weight], k: int) -> None:
    """Raise if a weight has fewer than k singular directions.

    Raises:
        HiploraError: names the smallest.
    """
    if not weights:
        raise HiploraError("The adapter trains weights whole, and nothing of low rank: there is nothing to watch.")
    smallest = min(weights, key=lambda weight: min(weight.shape))
    if min(smallest.shape) < k:
        m, n = smallest.shape
        raise HiploraError(
            f"k={k} is larger than {smallest.module}, which is {m} x {n}: choose a k of at most {min(m, n)}."
        )


def observed(spectra: BaseSpectra, weights: list[Weight], text: str | Path | None) -> Calibration:
    """Return what was observed of the base's inputs.

    Raises:
        HiploraError: nothing was.
    """
    found = Calibration(spectra, None if text is None else read_text(str(text)))
    if not found.ready or not any(weight.module in found for weight in weights):
        told = "" if text is None else f" --text {text}"
        raise HiploraError(
            f"The inputs of {spectra.base.name} have not been observed: run `hiplora calibrate "
            f"{spectra.base.path}{told}` first, or leave out geometry='inputs'."
        )
    return found


def run_of(run: str | Path | None, settings: WatchedConfig, modules: list[str], start: int) -> Run:
    """Return the run to write: a new one, or above step 0 the one of this name.

    Raises:
        HiploraError: the name is taken, or the run of this name was recorded in another way.
    """
    if run is None:
        return Run.create_in(None, settings)
    name = str(run)
    if not name or name in (".", ".."):
        raise HiploraError(f"run must be a name or a folder, got {name!r}.")
    path = user_path(run) if Path(name).name != name else runs_root() / name
    if not (start and (path / RUN_FILE).is_file()):
        return Run.create(path, settings)
    found, now = Run(path), settings.with_absolute_paths()
    before = found.config
    if not isinstance(before, WatchedConfig):
        raise HiploraError(f"{path} is a run of another kind: choose another name for this one.")
    for field in ("base", "method", "principal_rank", "epsilon", "geometry"):
        if (old := getattr(before, field)) != (new := getattr(now, field)):
            raise HiploraError(
                f"{path} was recorded with {field} {old}, not {new}: resume it with the same, or choose another name."
            )
    if found.facts.get("modules") != modules:
        raise HiploraError(f"{path} was recorded of other modules: choose another name for this run.")
    found.config = now
    return found
