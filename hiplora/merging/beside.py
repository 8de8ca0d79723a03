"""What an update changes beside matrices, which a merge would lose."""

from collections.abc import Collection, Iterator, Mapping

import numpy as np

from hiplora.adapters import FullUpdate, Placement
from hiplora.files import Tensors
from hiplora.sources import BaseModel

_HEAD = "lm_head.weight"
_COPY = "it is a copy of the base's own weight"


def unmergeable(placement: Placement) -> str | None:
    """Return why an update cannot be merged, as a sentence; None where it can.

    A merge holds the matrices of an update. One that changes anything else would lose it in silence.

    Args:
        placement: the update on its base.
    """
    update = placement.update
    subject = update.source or update.name
    if isinstance(update, FullUpdate) and (other := next(different_tensors(placement.base, update.model), None)):
        return (
            f"{subject} is a whole model that has another {other} than {placement.base.name}, and a merge holds linear "
            "maps only: pass its adapter, or a model that differs in its linear maps alone."
        )
    if lost := [each for each in update.contents() if each.lost]:
        trained = " (lora_bias)" if update.config.get("lora_bias") else ""
        return (
            f"{subject} also trained {lost[0].key}, which is {lost[0].part}{trained}, and a merge holds matrices only: "
            "train the adapter without it, or merge it into the base first."
        )
    if update.config.get("alora_invocation_tokens"):
        return f"{subject} is an aLoRA, which acts on some tokens only: it cannot be merged into one update for all."
    for name, reason in placement.left_out.items():
        if not reason.startswith(_COPY):
            return f"{subject} also changes {name}, which a merge would lose, since {reason}: train it without that."
    if again := [name for name in placement.names.values() if update.original(name) != name]:
        return f"{subject} changes a layer that is used several times ({again[0]}), which one weight cannot hold."
    return None


def different_tensors(base: BaseModel, other: BaseModel, compared: Collection[str] = ()) -> Iterator[str]:
    """Yield the keys of tensors besides linear maps that another checkpoint has otherwise than rounding would.

    A tensor that only one of them has is one, but for a copy of a tied embedding as the head.

    Args:
        base: the model.
        other: of the same architecture.
        compared: modules besides linear maps that are left out too.
    """
    ours, theirs = ({key: file for file in reversed(each.files) for key in file.shapes} for each in (base, other))
    maps = {
        key
        for model in (base, other)
        for module in (*model.linear_maps, *compared)
        if module in model.weights
        for key in (model.weights[module].key, *_sources(model, module))
    }
    tied = base.find("lm_head")
    if tied is None or tied.key != _HEAD:
        # A head that only the other checkpoint has is not a map that is compared with the base's.
        maps.discard(_HEAD)
    copies = {_HEAD} if tied is not None and all(_is_copy(each, tied.key) for each in (ours, theirs)) else set()
    for key in sorted((ours.keys() | theirs.keys()) - maps - copies):
        if key not in ours or key not in theirs or ours[key].shapes[key] != theirs[key].shapes[key]:
            yield key
            continue
        mine, found = (file.read(key) for file in (ours[key], theirs[key]))
        if not np.array_equal(mine.astype(found.dtype), found) and not np.array_equal(mine, found.astype(mine.dtype)):
            yield key


def _is_copy(files: Mapping[str, Tensors], tied: str) -> bool:
    """Return whether a checkpoint has no head, or one that equals the tensor which it is tied to."""
    if _HEAD not in files:
        return True
    return tied != _HEAD and tied in files and np.array_equal(files[_HEAD].read(_HEAD), files[tied].read(tied))


def _sources(model: BaseModel, module: str) -> list[str]:
    recipe = model.weights[module].recipe
    return [key for _, keys in recipe.sources for key in keys] if recipe else []
