"""An update on a base: the weights that its modules change, and their deltas."""

from collections.abc import Container, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from hiplora.adapters.delta import Delta
from hiplora.adapters.update import Update
from hiplora.errors import HiploraError
from hiplora.sources import BaseModel, Weight
from hiplora.sources.base import in_data_order

UNCHANGED = "it is a copy of the base's own weight, unchanged"
"""The reason for which a module is left out although nothing of the update is lost with it."""


@dataclass(frozen=True)
class Placement:
    """An update and the weights of a base that it changes. Iterating gives `(weight, delta)`, in data order.

    Attributes:
        base: the model.
        update: the update of it.
        names: `{module in tables: module of the update}`, in data order.
        places: `{module in tables: the weight it changes, under that name}`, in data order.
        left_out: `{module of the update without a place: the reason, as a clause}`.
    """

    base: BaseModel
    update: Update
    names: dict[str, str]
    places: dict[str, Weight]
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def weights(self) -> list[Weight]:
        """The weights that are changed, in data order."""
        return list(self.places.values())

    def __contains__(self, module: str) -> bool:
        return module in self.names

    def changes(self, weight: Weight) -> bool:
        """Return whether the update changes this weight under this name."""
        return self.places.get(weight.module) == weight

    def __iter__(self) -> Iterator[tuple[Weight, Delta]]:
        return ((weight, self.delta(module)) for module, weight in self.places.items())

    def delta(self, module: str) -> Delta:
        """Return the delta of one weight; the weight itself is read only if the update needs it.

        Args:
            module: as in tables.

        Raises:
            HiploraError: the update leaves the module alone, holds NaN or infinity, or cannot be read.
        """
        if module not in self.names:
            raise HiploraError(f"{self.update.name} leaves {module} alone: choose another module.")
        name = self.names[module]
        if not self.update.needs_weight(name):
            return self.update.delta(name)
        place = self.places[module]
        return self.update.delta(name, self.base.read(place).reshape(place.natural_shape))

    def require_apart(self) -> None:
        """Raise if the update changes one of two layers that share a weight: adding to the weight changes both.

        Raises:
            HiploraError: names the two, such as a head that is tied to the embedding.
        """
        for module, name in self.names.items():
            if name != module and self.update.original(name) == name and module not in self.base.linear_maps:
                raise HiploraError(
                    f"{self.update.source or self.update.name} changes {name}, which shares its weight with {module} "
                    f"in {self.base.name}: the two cannot be changed apart."
                )

    def epsilon(self, module: str) -> float | None:
        """Return the budget a module was trained under, if any."""
        return self.update.epsilon(self.names[module])


def place(base: BaseModel, update: Update) -> Placement:
    """Find the weights of a base changed by an update. Modules that do not fit are left out, each with the reason.

    >>> from hiplora.adapters import read_adapter
    >>> from hiplora.sources import open_base
    >>> placement = place(open_base("demo"), read_adapter("swap-lora"))
    >>> weight, delta = next(iter(placement))
    >>> weight.module, delta.shape, delta.rank
    ('model.layers.0.self_attn.q_proj', (128, 128), 8)

    Raises:
        HiploraError: no module fits; the sentence says why.
    """
    names: dict[str, str] = {}
    places: dict[str, Weight] = {}
    left_out: dict[str, str] = {}
    maps = set(base.linear_maps)
    for name in update.modules:
        original = update.original(name)
        weight = base.find(original)
        if weight is not None and weight.module != original and any(f".{each}" in f".{original}" for each in _WRAPPERS):
            left_out[name] = "its name has a wrapper of the model in it, with which PEFT would not load it"
        elif weight is None:
            left_out[name] = f"{base.name} does not have it"
        elif reason := update.misfit(name, weight.natural_shape) or _as_a_copy(base, update, name, weight, maps):
            left_out[name] = reason
        else:
            # A layer that is used several times has a row for each use.
            module = weight.module if original == name else name
            if module in names:
                left_out[name] = f"{names[module]} changes the same weight of the base"
                continue
            names[module], places[module] = name, replace(weight, module=module)
    if not names:
        raise HiploraError(_why_nothing_fits(base, update, left_out))
    order = in_data_order(names)
    return Placement(base, update, {m: names[m] for m in order}, {m: places[m] for m in order}, left_out)


def _as_a_copy(base: BaseModel, update: Update, name: str, weight: Weight, maps: Container[str]) -> str | None:
    """Return why a weight that was saved whole is not measured; None where it is, and for any other."""
    if (copy := update.whole(name)) is None:
        return None
    if np.array_equal(copy, base.read(weight)):
        return UNCHANGED
    return None if weight.module in maps else "it was trained whole, and an embedding is not a linear map"


# Put around a module by torch.compile, DataParallel and DDP, FSDP, and activation checkpointing.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "module.")


def _why_nothing_fits(base: BaseModel, update: Update, left_out: dict[str, str]) -> str:
    """Return one sentence on an update of which no module fits a base."""
    subject = update.source or update.name
    says = f" (it names {update.base_name})" if update.base_name else ""
    for wrapper in _WRAPPERS:
        bare = {name: name.replace(wrapper, "") for name in left_out}
        if any(f".{wrapper}" in f".{name}" and base.find(plain) is not None for name, plain in bare.items()):
            return (
                f"{subject} has names with {wrapper.rstrip('.')}, which a wrapper of the model left in them; PEFT "
                "would not load it either: save it again from the unwrapped model."
            )
    if base.unreadable:
        return f"{subject} cannot be placed on {base.name}. {base.unreadable[0]}"
    sizes = {name: reason for name, reason in left_out.items() if base.find(update.original(name)) is not None}
    if sizes:
        name, reason = next(iter(sizes.items()))
        return f"{subject} belongs to another base{says}: {name} does not fit, {reason}."
    theirs, ours = update.modules[0], next(iter(base.linear_maps), "none")
    unknown = f" {base.notes[0]}" if base.notes else ""
    if base.config.get("_class_name") and not update.base_name:
        unknown += (
            f" Where it has the names of the model's first release, `hiplora convert {subject} --base {base.path}` "
            "gives it diffusers'."
        )
    return (
        f"{subject} belongs to another base{says}: none of its modules, such as {theirs}, is in {base.name}, whose own "
        f"are named like {ours}.{unknown}"
    )
