"""A base model as a set of frozen matrices in safetensors files; no module is built and nothing is held."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hiplora.errors import HiploraError
from hiplora.files import Tensors, read_json, require_finite
from hiplora.sources.names import layer_and_kind

# Matrices that are looked up by row, not multiplied with; `lm_head` is stored only where it is not one of them.
_EMBEDDING_PARTS = {"wte", "wpe", "shared", "relative_attention_bias"}
# Architectures whose maps are transformers' Conv1D: stored in x out.
_CONV1D_TYPES = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp"}
_CONV1D_LEAVES = {"c_attn", "c_proj", "c_fc", "q_attn"}
_UNQUANTIZED = {"float64", "float32", "float16", "bfloat16"}


@dataclass(frozen=True)
class Weight:
    """The place of one matrix in the files of a base.

    Attributes:
        module: name of the module in the model, without `.weight`.
        path: the safetensors file.
        key: name of the tensor in the file.
        shape: `(m, n)`, out x in, whichever way it is stored.
        transposed: whether the file holds it in x out (Conv1D).
    """

    module: str
    path: Path
    key: str
    shape: tuple[int, int]
    transposed: bool


class BaseModel:
    """A transformers folder with safetensors weights, single or sharded.

    Args:
        path: the folder.
        name: in tables and figures; the folder's name by default.

    Raises:
        HiploraError: not a folder, no `config.json`, no safetensors weights, a Git LFS pointer or a damaged file.
    """

    def __init__(self, path: Path, name: str | None = None):
        if not path.is_dir():
            raise HiploraError(f"{path} is not a folder: pass a transformers model folder, or a known name.")
        if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
            raise HiploraError(f"{path} is an adapter: pass the base model that it belongs to.")
        self.path = path
        self.name = name or path.resolve().name
        self.config: dict[str, Any] = read_json(path / "config.json")
        files = sorted(path.glob("*.safetensors"))
        index = path / "model.safetensors.index.json"
        if index.is_file():
            weight_map = read_json(index).get("weight_map")
            if not isinstance(weight_map, dict) or not all(
                isinstance(name, str) and Path(name).name == name for name in weight_map.values()
            ):
                raise HiploraError(f"{index} has no weight_map from tensors to files beside it: save the model again.")
            files = [path / name for name in sorted(set(weight_map.values()))]
        elif (path / "model.safetensors").is_file():
            files = [path / "model.safetensors"]
        if not files:
            pickled = next(iter(sorted(path.glob("*.bin"))), None)
            if pickled is not None:
                raise HiploraError(
                    f"{pickled} is a pickle, which could run code when opened: load the model once and save it with "
                    "`model.save_pretrained(folder)`, which writes safetensors."
                )
            raise HiploraError(f"{path} has no .safetensors weights: pass the folder that `save_pretrained` wrote.")
        self.files = [Tensors(file) for file in files]

    @cached_property
    def weights(self) -> dict[str, Weight]:
        """All matrices, embeddings included, by module name, in the order of the files."""
        conv1d = self.config.get("model_type") in _CONV1D_TYPES
        found = {}
        for file in self.files:
            for key, shape in file.shapes.items():
                module, dot, leaf = key.rpartition(".")
                if leaf != "weight" or not dot or len(shape) != 2:
                    continue
                transposed = conv1d and module.rpartition(".")[2] in _CONV1D_LEAVES
                out_in = (shape[1], shape[0]) if transposed else (shape[0], shape[1])
                found[module] = Weight(module, file.path, key, out_in, transposed)
        return found

    @cached_property
    def linear_maps(self) -> list[str]:
        """Linear maps: every matrix except the embeddings, in the order in which data passes the layers."""
        names = [
            module
            for module in self.weights
            if not any("embed" in part or part in _EMBEDDING_PARTS for part in module.split("."))
        ]
        return in_data_order(names)

    def find(self, module: str) -> Weight | None:
        """Return the matrix an adapter means by `module`.

        A checkpoint may leave out the prefix of its head-less body (`h.0...` for `transformer.h.0...`), or the adapter
        may: the names then agree up to that prefix, in exactly one place. A tied `lm_head` is the embedding.
        """
        exact = self.weights.get(module)
        if exact is not None:
            return exact
        if module.rpartition(".")[2] in ("lm_head", "embed_out") and self.config.get("tie_word_embeddings", True):
            embeddings = [w for name, w in self.weights.items() if name.endswith(("embed_tokens", "wte", "shared"))]
            return embeddings[0] if len(embeddings) == 1 else None
        close = [
            weight
            for name, weight in self.weights.items()
            if name.endswith(f".{module}") or module.endswith(f".{name}")
        ]
        return close[0] if len(close) == 1 else None

    def read(self, weight: Weight) -> np.ndarray:
        """Return one matrix, (m, n) out x in, in its stored dtype.

        Raises:
            HiploraError: it cannot be read, is quantized, or holds NaN or infinity.
        """
        file = next(file for file in self.files if file.path == weight.path)
        array = file.read(weight.key)
        if array.dtype.name not in _UNQUANTIZED:
            raise HiploraError(
                f"{weight.path}: {weight.key} is quantized ({array.dtype.name}), and its scale lies elsewhere: pass "
                "the model in 16 or 32 bits."
            )
        require_finite(array, f"{weight.path}: {weight.key}")
        return np.ascontiguousarray(array.T) if weight.transposed else array

    @property
    def identity(self) -> tuple[tuple[str, int, int], ...]:
        """Path, size and modification time of each file that was read: changes when the model on disk does."""
        paths = [self.path / "config.json", *(file.path for file in self.files)]
        stats = [(str(path.resolve()), path.stat()) for path in paths]
        return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


# Within a layer, the order in which data passes the matrices: q, k, v, o, gate, up, down, as many models name them.
_DATA_ORDER = tuple(
    re.compile(pattern)
    for pattern in (
        r"c_attn|qkv|query|\bq(_proj|_lin)?$",
        r"key|\bk(_proj|_lin)?$",
        r"value|\bv(_proj|_lin)?$",
        r"attention\.output|attn\.c_proj|out_lin|out_proj|attention\.dense|\bo(_proj)?$",
        r"gate|wi_0",
        r"up_proj|wi|c_fc|fc1|lin1|intermediate|h_to_4h",
    )
)


def in_data_order(modules: Iterable[str]) -> list[str]:
    """Sort module names by layer, and within a layer in data order: q, k, v, o, gate, up, down."""

    def place(module: str) -> tuple[float, bool, int, str]:
        layer, kind = layer_and_kind(module)
        rank = next((i for i, pattern in enumerate(_DATA_ORDER) if pattern.search(kind)), len(_DATA_ORDER))
        return math.inf if layer is None else layer, kind.startswith("decoder."), rank, kind

    return sorted(modules, key=place)
