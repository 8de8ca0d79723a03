"""An update on a base: the weights that its modules change, and their deltas."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from hiplora.adapters.delta import Delta
from hiplora.adapters.update import Update
from hiplora.errors import HiploraError
from hiplora.sources import BaseModel, Weight
from hiplora.sources.base import in_data_order


@dataclass(frozen=True)
class Placement:
    """An update and the weights of a base that it changes. Iterating gives `(weight, delta)`, in data order.

    Attributes:
        base: the model.
        update: the update of it.
        names: `{module in tables: module of the update}`, in data order.
        places: `{module in tables: the weight it changes, under that name}`, in data order.
    """

    base: BaseModel
    update: Update
    names: dict[str, str]
    places: dict[str, Weight]

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
        weight = self.base.read(self.places[module]) if self.update.needs_weight(name) else None
        return self.update.delta(name, weight)

    def epsilon(self, module: str) -> float | None:
        """Return the budget a module was trained under, if any."""
        return self.update.epsilon(self.names[module])


def place(base: BaseModel, update: Update) -> Placement:
    """Find the weights of a base changed by an update. Modules that the base does not have are left out.

    >>> from hiplora.adapters import read_adapter
    >>> from hiplora.sources import open_base
    >>> placement = place(open_base("demo"), read_adapter("swap-lora"))
    >>> weight, delta = next(iter(placement))
    >>> weight.module, delta.shape, delta.rank
    ('model.layers.0.self_attn.q_proj', (128, 128), 8)

    Raises:
        HiploraError: no module is in the base, or a module's shape differs: the update is of another base.
    """
    names, places = {}, {}
    for name in update.modules:
        original = update.original(name)
        weight = base.find(original)
        if weight is not None:
            # A layer that is used several times has a row for each use.
            module = weight.module if original == name else name
            names[module], places[module] = name, replace(weight, module=module)
    says = f" (it names {update.base_name})" if update.base_name else ""
    belongs = f"{update.source or update.name} belongs to another base{says}"
    if not names:
        raise HiploraError(f"{belongs}: none of its modules, such as {update.modules[0]}, is in {base.name}.")
    for module, name in names.items():
        shape, expected = update.shape(name), places[module].shape
        if shape != expected:
            raise HiploraError(
                f"{belongs}: {name} is {shape[0]} x {shape[1]} there and {expected[0]} x {expected[1]} in {base.name}."
            )
    order = in_data_order(names)
    return Placement(base, update, {m: names[m] for m in order}, {m: places[m] for m in order})
