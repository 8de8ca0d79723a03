"""The matrices of a model as it is in memory, and the tensors on disk from which each is made.

transformers renames, merges and splits tensors when it loads a checkpoint: the names on disk are not those of the
modules. Here its own conversion is followed on a model without data (on torch's meta device). The result is plain data
and is kept in the cache folder, so that a base that was opened before needs neither torch nor transformers.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiplora.errors import HiploraError
from hiplora.files import atomic_path
from hiplora.paths import cache_root

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PLAIN_TYPES = frozenset(
    ["gemma", "gemma2", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3", "stablelm"]
)
"""Model types whose causal models have the same names and shapes on disk and in memory: a test asks transformers."""
_VERSION = 2


@dataclass(frozen=True)
class Recipe:
    """One matrix that is not one tensor on disk.

    Attributes:
        target: name of the parameter in memory.
        sources: `((pattern of transformers' converter, keys on disk), ...)`; one pair with an empty pattern where the
            parameter is one tensor.
        index: which slice of the parameter, None for all of it.
        shape: of the parameter, or of its slice, flattened to a matrix.
    """

    target: str
    sources: tuple[tuple[str, tuple[str, ...]], ...]
    index: int | None
    shape: tuple[int, int]


@dataclass(frozen=True)
class Place:
    """One matrix of the model in memory.

    Attributes:
        module: its name, `[e]` behind it for expert `e` of a parameter of three dimensions.
        key: of the one tensor on disk, or a name for the recipe that is as unique.
        shape: `(m, n)`, out x in.
        transposed: whether the model holds it in x out.
        linear: whether it is multiplied with, not looked up by row or moved over its input.
        recipe: how it is made; None for one tensor of the same shape.
        kernel: sizes of a convolution's kernel, of which its inputs have one number each; else empty.
    """

    module: str
    key: str
    shape: tuple[int, int]
    transposed: bool = False
    linear: bool = True
    recipe: Recipe | None = None
    kernel: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layout:
    """What a model holds in memory.

    Attributes:
        places: its matrices.
        renamed: `{name of a module on disk: its name in memory}`, where they differ and are one to one.
        tied: `{module without a tensor of its own: the module whose tensor it shares}`.
        converted: keys on disk that are parts of a place with another name.
    """

    places: list[Place]
    renamed: dict[str, str] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    converted: frozenset[str] = frozenset()


def is_plain(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Return whether names on disk are certainly those in memory, which transformers then need not be asked."""
    composite = any(isinstance(value, dict) and "model_type" in value for value in config.values())
    headless = any(key.startswith("layers.") for key in shapes)
    return str(config.get("model_type")) in PLAIN_TYPES and not composite and not headless


def layout_of(folder: Path, config: dict[str, Any], shapes: Mapping[str, tuple[int, ...]], identity: object) -> Layout:
    """Return the layout of a checkpoint, from the cache or from transformers.

    Args:
        folder: of the checkpoint, for errors.
        config: `config.json`.
        shapes: `{key on disk: shape}`, quantized tensors by the shape that they stand for.
        identity: of the base; the layout is kept under it.

    Raises:
        HiploraError: transformers does not know the architecture, or cannot build it from this config.
    """
    name = hashlib.sha256(repr((_VERSION, version("transformers"), identity)).encode()).hexdigest()
    path = cache_root() / "layouts" / f"{name}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        return _from_json(json.loads(path.read_text()))
    layout = _ask_transformers(folder, config, shapes)
    # A cache that cannot be written only means that transformers is asked again.
    with suppress(HiploraError), atomic_path(path) as draft:
        draft.write_text(json.dumps(asdict(layout) | {"converted": sorted(layout.converted)}))
    return layout


def _from_json(data: dict[str, Any]) -> Layout:
    places = []
    for place in data["places"]:
        recipe = place.pop("recipe")
        if recipe is not None:
            sources = tuple((pattern, tuple(keys)) for pattern, keys in recipe["sources"])
            recipe = Recipe(recipe["target"], sources, recipe["index"], tuple(recipe["shape"]))
        places.append(
            Place(**place | {"shape": tuple(place["shape"]), "recipe": recipe, "kernel": tuple(place["kernel"])})
        )
    return Layout(places, data["renamed"], data["tied"], frozenset(data["converted"]))


def sources_of(model: "PreTrainedModel", keys: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    """Return from which tensors of a checkpoint each parameter of a model is made, as transformers loads it.

    Args:
        model: without data or with it.
        keys: on disk.

    Returns:
        `{name of the parameter: {pattern of transformers' converter: keys on disk}}`, with one empty pattern and one
        key where the parameter is a tensor as it is.
    """
    from transformers.core_model_loading import dot_natural_key, rename_source_key

    from hiplora.sources.transformers_models import conversions

    renamings, converters = conversions(model)
    of_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    held = model.state_dict()
    sources: dict[str, dict[str, list[str]]] = {}
    for key in sorted(keys, key=dot_natural_key):
        target, pattern = rename_source_key(key, renamings, converters, model.base_model_prefix, held)
        if target not in held and key in held:
            target, pattern = rename_source_key(key, [], [], model.base_model_prefix, held)
        if target not in held:
            continue
        targets = [target]
        if pattern is not None:
            first, *others = of_pattern[pattern].target_patterns
            targets += [other for each in others if (other := target.replace(first, each, 1)) in held]
        for each in targets:
            sources.setdefault(each, {}).setdefault(pattern or "", []).append(key)
    return sources


def _ask_transformers(folder: Path, config: dict[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Layout:
    from torch import nn
    from torch.nn.modules.conv import _ConvNd
    from transformers.pytorch_utils import Conv1D

    from hiplora.sources.transformers_models import meta_model

    model = meta_model(folder, config, len(shapes))
    held = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    sources = sources_of(model, shapes)
    modules = dict(model.named_modules())
    places, renamed, converted = [], {}, set()
    for target, by_pattern in sources.items():
        shape, (owner, _, leaf) = held[target], target.rpartition(".")
        module = modules.get(owner)
        convolution = isinstance(module, _ConvNd)
        plain = list(by_pattern) == [""] and len(by_pattern[""]) == 1
        if plain and shapes[by_pattern[""][0]] != shape:
            # Of another size than the config says: transformers would not load it, its own size counts.
            shape = shapes[by_pattern[""][0]]
        name = owner if leaf == "weight" else target
        keys = tuple((pattern, tuple(keys)) for pattern, keys in by_pattern.items())
        if not plain:
            converted |= {key for _, group in keys for key in group}
        elif by_pattern[""][0] != target and leaf == "weight" and len(shape) > 1:
            renamed[by_pattern[""][0].removesuffix(".weight")] = name
        if len(shape) == 2 and leaf == "weight" and not convolution:
            transposed = isinstance(module, Conv1D)
            places.append(
                Place(
                    name,
                    keys[0][1][0] if plain else target,
                    (shape[1], shape[0]) if transposed else (shape[0], shape[1]),
                    transposed,
                    not isinstance(module, nn.Embedding),
                    None if plain else Recipe(target, keys, None, (shape[0], shape[1])),
                )
            )
        elif convolution and leaf == "weight" and len(shape) > 2:
            flat = (shape[0], prod(shape[1:]))
            recipe = Recipe(target, keys, None, flat)
            key = keys[0][1][0] if plain else target
            places.append(Place(name, key, flat, linear=False, recipe=recipe, kernel=tuple(shape[2:])))
        elif len(shape) == 3 and shape[0] > 1 and "bias" not in leaf:
            transposed = bool(getattr(module, "is_transposed", False))
            stacked = not plain and all(len(group) == shape[0] for _, group in keys)
            for expert in range(shape[0]):
                own = tuple((pattern, (group[expert],)) for pattern, group in keys) if stacked else keys
                places.append(
                    Place(
                        f"{name}[{expert}]",
                        f"{target}[{expert}]",
                        (shape[2], shape[1]) if transposed else (shape[1], shape[2]),
                        transposed,
                        True,
                        Recipe(target, own, 0 if stacked else expert, (shape[1], shape[2])),
                    )
                )
    tied = {
        one.removesuffix(".weight"): other.removesuffix(".weight")
        for one, other in getattr(model, "all_tied_weights_keys", {}).items()
        if one not in sources and other in sources and one.endswith(".weight")
    }
    return Layout(places, renamed, tied, frozenset(converted))
