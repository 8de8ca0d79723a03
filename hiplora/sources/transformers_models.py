"""Models and tokenizers of a base, loaded by transformers from this machine and by its own code alone.

A base may come from anyone: its own code (`auto_map`) is never run, its pickles are never opened, and no adapter beside
it is loaded.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hiplora.errors import HiploraError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_FLAGS: Final[dict[str, Any]] = {"local_files_only": True, "trust_remote_code": False}


def load_causal_lm(
    folder: Path, *, dtype: "str | torch.dtype" = "auto", gguf_file: str | None = None
) -> "PreTrainedModel":
    """Load a causal language model.

    Args:
        folder: as `save_pretrained` wrote it.
        dtype: of the weights; by default their own, since a bfloat16 and a float32 copy of one base are two bases.
        gguf_file: a GGUF file in `folder` to read in place of safetensors.

    Raises:
        HiploraError: transformers cannot load it without code that comes with it, or an adapter lies beside it.
    """
    from transformers import AutoModelForCausalLM

    if (folder / "adapter_config.json").is_file():
        raise HiploraError(
            f"{folder} holds an adapter beside the model (adapter_config.json), which transformers would put on it: "
            "move the adapter to a folder of its own."
        )
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder,
            **_FLAGS,
            dtype=dtype,
            gguf_file=gguf_file,
            use_safetensors=None if gguf_file else True,
            # Otherwise `config.json` could name a kernel on the hub.
            attn_implementation=None,
        )
    except Exception as error:
        raise _unloadable(folder / (gguf_file or "config.json"), error) from error


def outline_causal_lm(folder: Path, *, dtype: "torch.dtype | None" = None) -> "PreTrainedModel":
    """Build a causal language model without its weights, on torch's meta device: its modules and their shapes.

    Args:
        folder: as `save_pretrained` wrote it.
        dtype: of the weights; by default that of the config.

    Raises:
        HiploraError: transformers cannot build it without code that comes with it.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, **_FLAGS)
        kept = {} if dtype is None else {"dtype": dtype}
        # As above, `config.json` must not name a kernel.
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False, attn_implementation=None, **kept)
    except Exception as error:
        raise _unloadable(folder / "config.json", error) from error


def load_tokenizer(folder: Path, *, gguf_file: str | None = None) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a model.

    Args:
        folder: as `save_pretrained` wrote it.
        gguf_file: a GGUF file in `folder` to read it from.

    Raises:
        HiploraError: transformers cannot load it without code that comes with it.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, **_FLAGS, gguf_file=gguf_file)
    except Exception as error:
        raise HiploraError(
            f"{folder} has no tokenizer that transformers can load{_reason(error)}: put the model's tokenizer.json and "
            "tokenizer_config.json beside its weights."
        ) from error


# Named in a config, these would load code, kernels or a quantizer; the names of modules do not depend on them.
_LEFT_OUT = ("auto_map", "quantization_config", "use_kernels", "kernel_config")
_IMPLEMENTATION = "_implementation"
_TASKS = ("CausalLM", "ImageTextToText", "Seq2SeqLM", "MaskedLM")
"""The heads that a model without `architectures` in its config is taken to have, the first that exists."""


def meta_model(folder: Path, config: dict[str, Any], tensors: int) -> "PreTrainedModel":
    """Build the model that a config describes, without data, on torch's meta device.

    Args:
        folder: of the checkpoint, for the error.
        config: `config.json`.
        tensors: number of tensors in the checkpoint; a config with more layers than that is not its own.

    Raises:
        HiploraError: transformers does not know the architecture, or cannot build it from this config.
    """
    import torch
    import transformers
    from transformers import CONFIG_MAPPING, AutoModel, PreTrainedModel
    from transformers.models.auto import modeling_auto

    try:
        _refuse_more_layers(config, max(tensors, 1000))
        description = _without_code(config)
        known = CONFIG_MAPPING[str(config.get("model_type"))].from_dict(description)
        known._attn_implementation = "eager"
        names = config.get("architectures")
        name = str(names[0]) if isinstance(names, list) and names else ""
        kind = getattr(transformers, name, None)
        with torch.device("meta"):
            if inspect.isclass(kind) and issubclass(kind, PreTrainedModel):
                build: Any = kind
                return build._from_config(known, attn_implementation="eager")
            heads = (getattr(modeling_auto, f"AutoModelFor{task}") for task in _TASKS)
            auto = next((head for head in heads if type(known) in head._model_mapping), AutoModel)
            return auto.from_config(known, attn_implementation="eager")
    except Exception as error:
        raise HiploraError(
            f"{folder / 'config.json'} is not one of a model that transformers can build{_reason(error)}."
        ) from error


def conversions(model: "PreTrainedModel") -> tuple[list[Any], list[Any]]:
    """Return transformers' own renamings and converters between a checkpoint and a model."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming

    found = get_model_conversion_mapping(model)
    return [each for each in found if isinstance(each, WeightRenaming)], [
        each for each in found if isinstance(each, WeightConverter)
    ]


def convert(
    model: "PreTrainedModel",
    target: str,
    sources: Iterable[tuple[str, Sequence[str]]],
    read: "Callable[[str], torch.Tensor]",
) -> "torch.Tensor | None":
    """Make one parameter from several tensors of a checkpoint, as transformers makes it on loading.

    Args:
        model: that has the parameter.
        target: its name.
        sources: `(pattern of transformers' converter, keys on disk)`.
        read: returns a tensor by its key.

    Returns:
        None where transformers has no converter for it.
    """
    sources = list(sources)
    for each in conversions(model)[1]:
        if sources[0][0] in each.source_patterns:
            converter = deepcopy(each)
            for pattern, keys in sources:
                for key in keys:
                    converter.add_tensor(target, key, pattern, read(key))
            made = converter.convert(target, model=model, config=model.config)[target]
            found: torch.Tensor = made[0] if isinstance(made, list) else made
            return found
    return None


def _without_code(config: Any) -> Any:
    if isinstance(config, dict):
        return {
            name: _without_code(value)
            for name, value in config.items()
            if name not in _LEFT_OUT and not str(name).endswith(_IMPLEMENTATION)
        }
    return config


def _refuse_more_layers(config: Any, most: int) -> None:
    for name, value in config.items() if isinstance(config, dict) else ():
        if isinstance(value, dict):
            _refuse_more_layers(value, most)
        elif isinstance(value, int) and ("layers" in name or "depth" in name or "experts" in name) and value > most:
            raise ValueError(f"{name} is {value}, more than the checkpoint holds")


def _unloadable(path: Path, error: Exception) -> HiploraError:
    return HiploraError(
        f"{path} cannot be loaded as a causal language model by transformers{_reason(error)}: pass a base whose "
        "architecture transformers knows."
    )


def _reason(error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return " without the Python code that it names (auto_map), which is never run"
    return f" ({type(error).__name__}: {str(error).strip().partition(chr(10))[0]})"
