"""Models and tokenizers of a base, loaded by transformers from this machine and by its own code alone.

A base may come from anyone: its own code (`auto_map`) is never run, its pickles are never opened, and no adapter beside
it is loaded.
"""

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


def outline_causal_lm(folder: Path) -> "PreTrainedModel":
    """Build a causal language model without its weights, on torch's meta device: its modules and their shapes.

    Args:
        folder: as `save_pretrained` wrote it.

    Raises:
        HiploraError: transformers cannot build it without code that comes with it.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, **_FLAGS)
        # As above, `config.json` must not name a kernel.
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False, attn_implementation="eager")
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


def _unloadable(path: Path, error: Exception) -> HiploraError:
    return HiploraError(
        f"{path} cannot be loaded as a causal language model by transformers{_reason(error)}: pass a base whose "
        "architecture transformers knows."
    )


def _reason(error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return " without the Python code that it names (auto_map), which is never run"
    return f" ({type(error).__name__}: {str(error).strip().partition(chr(10))[0]})"
