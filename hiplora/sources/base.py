"""A base model as a set of frozen matrices in safetensors files; no module is built and nothing is held."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hiplora.errors import HiploraError
from hiplora.files import Tensors, read_json, require_finite
from hiplora.sources.files import checkpoint_files, hub_name
from hiplora.sources.layout import Layout, Place, Recipe, is_plain, layout_of, sources_of
from hiplora.sources.names import layer_and_kind
from hiplora.sources.stored import StoredTensors
from hiplora.sources.transformers_models import convert, meta_model

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# Matrices that are looked up by row, not multiplied with; `lm_head` is stored only where it is not one of them.
_EMBEDDING_PARTS = {"wte", "wpe", "shared", "relative_attention_bias"}
# Architectures whose maps are transformers' Conv1D, stored in x out, where transformers cannot be asked.
_CONV1D_TYPES = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp"}
# What kohya's scripts put before the name of a module.
_COMPONENT = re.compile(r"^(?:lora_(?:unet|te\d?|transformer)|lycoris)_")
_CONV1D_LEAVES = {"c_attn", "c_proj", "c_fc", "q_attn"}


@dataclass(frozen=True)
class Weight:
    """One matrix of a base and its place in the files.

    Attributes:
        module: name of the module in memory, without `.weight`; `[e]` behind the parameter for expert `e` of several.
        path: the safetensors file, or the first of several.
        key: name of the tensor in the file; of the parameter, where it is made from several.
        shape: `(m, n)`, out x in, whichever way it is stored.
        transposed: whether it is held in x out (Conv1D).
        recipe: how it is made, where it is not one tensor.
        kernel: sizes of a convolution's kernel, which `n` counts; else empty.
    """

    module: str
    path: Path
    key: str
    shape: tuple[int, int]
    transposed: bool
    recipe: Recipe | None = None
    kernel: tuple[int, ...] = ()

    @property
    def natural_shape(self) -> tuple[int, ...]:
        """`(m, n)`, or out x in x kernel for a convolution."""
        return (self.shape[0], self.shape[1] // math.prod(self.kernel), *self.kernel) if self.kernel else self.shape


class BaseModel:
    """A transformers folder with safetensors weights, single or sharded.

    Args:
        path: the folder.
        name: in tables and figures; the folder's name by default, `owner/model` in the hub's cache.

    Raises:
        HiploraError: not a folder, no `config.json`, no safetensors weights, a Git LFS pointer or a damaged file.
    """

    def __init__(self, path: Path, name: str | None = None):
        if not path.is_dir():
            raise HiploraError(f"{path} is not a folder: pass a transformers model folder, or a known name.")
        if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
            raise HiploraError(f"{path} is an adapter: pass the base model that it belongs to.")
        self.path = path
        self.name = name or hub_name(path) or path.resolve().name
        self.config: dict[str, Any] = read_json(path / "config.json")
        self.files = [Tensors(file) for file in checkpoint_files(path)]
        self._stored = StoredTensors(self.files, self.config.get("quantization_config"))

    @cached_property
    def notes(self) -> list[str]:
        """One sentence each for what cannot be read of it, and for names of modules that are not certain."""
        known = self._layout is not None or self._plain
        return [*self.unreadable, *([] if known else [self._unknown])]

    @property
    def unreadable(self) -> list[str]:
        """One sentence for matrices that are quantized in a form that is not read, if there are any."""
        return self._stored.unreadable

    @cached_property
    def weights(self) -> dict[str, Weight]:
        """All matrices, embeddings included, by module name, in the order of the files."""
        places = self._layout.places if self._layout else []
        parts = self._layout.converted if self._layout else frozenset()
        placed = parts | {place.key for place in places}
        found = {place.module: self._weight(place) for place in places}
        for key, shape in self._stored.shapes.items():
            # Those that the model in memory does not have keep their names; so do all where it is not known.
            if key not in placed and (weight := self._by_key(key, shape)) is not None:
                found.setdefault(weight.module, weight)
        return found

    @cached_property
    def linear_maps(self) -> list[str]:
        """Linear maps: every matrix but embeddings and convolutions, in the order in which data passes the layers."""
        others = {place.module for place in self._layout.places if not place.linear} if self._layout else set()
        names = [
            module
            for module in self.weights
            if module not in others
            and not self._is_convolution(module)
            and not any("embed" in part or part in _EMBEDDING_PARTS for part in module.split("."))
        ]
        return in_data_order(names)

    def find(self, module: str) -> Weight | None:
        """Return the matrix an adapter means by `module`.

        It may go by its name in memory, by the one on disk, which older versions of transformers had in memory too, or
        by either without the prefix of the model's body (`h.0...` for `transformer.h.0...`), or with one more: then the
        names must agree in exactly one place. A tied `lm_head` is the embedding. Of names in kohya's form,
        `lora_unet_` and `_` for each dot, the whole must agree.
        """
        renamed = self._layout.renamed if self._layout else {}
        exact = self.weights.get(module) or self.weights.get(renamed.get(module, ""))
        if exact is None and "." not in module:
            exact = self._by_flat_name.get(_COMPONENT.sub("", module))
        if exact is not None:
            return exact
        tied = self._layout.tied.get(module) if self._layout else None
        if tied:
            return self.weights.get(tied)
        if self._layout is None and module.rpartition(".")[2] in ("lm_head", "embed_out"):
            embeddings = [w for name, w in self.weights.items() if name.endswith(("embed_tokens", "wte", "shared"))]
            return embeddings[0] if len(embeddings) == 1 and self.config.get("tie_word_embeddings", True) else None
        # A part of a merged parameter, such as one expert's own matrix.
        key = f"{module}.weight"
        if key in self._stored.shapes:
            return self._by_key(key, self._stored.shapes[key])
        named = self.weights | {name: self.weights[new] for name, new in renamed.items() if new in self.weights}
        close = {weight for name, weight in named.items() if name.endswith(f".{module}") or module.endswith(f".{name}")}
        return close.pop() if len(close) == 1 else None

    def read(self, weight: Weight) -> np.ndarray:
        """Return one matrix, (m, n) out x in, in its stored dtype; float32 where it is quantized.

        Raises:
            HiploraError: it cannot be read, is quantized in a form that is not, or holds NaN or infinity.
        """
        array = self._stored.read(weight.key) if weight.recipe is None else self._make(weight.recipe, weight.path)
        require_finite(array, f"{weight.path}: {weight.key}")
        return np.ascontiguousarray(array.T) if weight.transposed else array

    def parameters(self, model: "PreTrainedModel") -> dict[str, dict[str, list[str]]]:
        """Return from which tensors of the files each parameter of a model is made; see `sources_of`."""
        return sources_of(model, self._stored.shapes)

    def read_parameter(
        self, model: "PreTrainedModel", name: str, sources: Mapping[str, Sequence[str]]
    ) -> "torch.Tensor":
        """Return one parameter of a model as transformers makes it, in its stored dtype; float32 where it is quantized.

        Args:
            model: that has the parameter, with or without data.
            name: of the parameter.
            sources: as `parameters` has them.

        Raises:
            HiploraError: it cannot be read, or is quantized or stored in a form that is not.
        """
        if list(sources) == [""] and len(sources[""]) == 1:
            return self._stored.read_torch(sources[""][0])
        made = convert(model, name, sources.items(), self._stored.read_torch)
        if made is None:
            path = self._stored.file(next(iter(sources.values()))[0]).path
            raise HiploraError(f"{path}: {name} is stored in a form that transformers does not convert.")
        return made

    @property
    def identity(self) -> tuple[tuple[str, int, int], ...]:
        """Path, size and modification time of each file that was read: changes when the model on disk does."""
        paths = [self.path / "config.json", *(file.path for file in self.files)]
        stats = [(str(path.resolve()), path.stat()) for path in paths]
        return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)

    @cached_property
    def _plain(self) -> bool:
        # Models of diffusers have the same names on disk and in memory.
        return self._of_diffusers or is_plain(self.config, self._stored.shapes)

    @property
    def _of_diffusers(self) -> bool:
        return "_class_name" in self.config

    @cached_property
    def _by_flat_name(self) -> dict[str, Weight]:
        """Weights by their names with `_` for each dot, without those that two share."""
        flat: dict[str, list[Weight]] = {}
        for name, weight in self.weights.items():
            flat.setdefault(name.replace(".", "_"), []).append(weight)
        return {name: weights[0] for name, weights in flat.items() if len(weights) == 1}

    def _is_convolution(self, module: str) -> bool:
        return self._of_diffusers and self.weights[module].recipe is not None

    @cached_property
    def _layout(self) -> Layout | None:
        """The layout in memory; None where it is that on disk, or transformers cannot tell."""
        if self._plain:
            return None
        try:
            return layout_of(self.path, self.config, self._stored.shapes, self.identity)
        except HiploraError as error:
            self._unknown = f"{str(error).rstrip('.')}: modules go by their names in the files."
            return None

    def _weight(self, place: Place) -> Weight:
        recipe = place.recipe
        first = recipe.sources[0][1][0] if recipe else place.key
        path = self._stored.file(first).path
        return Weight(place.module, path, place.key, place.shape, place.transposed, place.recipe, place.kernel)

    def _by_key(self, key: str, shape: tuple[int, ...]) -> Weight | None:
        module, dot, leaf = key.rpartition(".")
        if leaf == "weight" and dot and len(shape) > 2 and self._of_diffusers:
            out_in = (shape[0], math.prod(shape[1:]))
            recipe = Recipe(key, (("", (key,)),), None, out_in)
            return Weight(module, self._stored.file(key).path, key, out_in, False, recipe, shape[2:])
        if leaf != "weight" or not dot or len(shape) != 2:
            return None
        conv1d = str(self.config.get("model_type")) in _CONV1D_TYPES and module.rpartition(".")[2] in _CONV1D_LEAVES
        transposed = self._layout is None and conv1d
        out_in = (shape[1], shape[0]) if transposed else (shape[0], shape[1])
        return Weight(module, self._stored.file(key).path, key, out_in, transposed)

    def _make(self, recipe: Recipe, path: Path) -> np.ndarray:
        """Make one matrix as transformers makes the parameter on loading."""
        [(pattern, keys), *others] = recipe.sources
        if not pattern and not others and len(keys) == 1:
            return self._stored.read(keys[0], recipe.index).reshape(recipe.shape)
        import torch

        value = self.read_parameter(self._meta, recipe.target, dict(recipe.sources))
        # bfloat16 is not one of numpy's own dtypes.
        array = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
        return np.ascontiguousarray(array if recipe.index is None else array[recipe.index]).reshape(recipe.shape)

    @cached_property
    def _meta(self) -> Any:
        return meta_model(self.path, self.config, len(self._stored.shapes))


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
