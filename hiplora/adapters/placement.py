"""An update on a base: the weights that its modules change, and their deltas."""

from collections.abc import Iterator
from dataclasses import dataclass

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
        names: `{module of the base: module of the update}`, in data order.
    """

    base: BaseModel
    update: Update
    names: dict[str, str]

    @property
    def weights(self) -> list[Weight]:
        """The weights that are changed, in data order."""
        return [self.base.weights[module] for module in self.names]

    def __contains__(self, module: str) -> bool:
        return module in self.names

    def __iter__(self) -> Iterator[tuple[Weight, Delta]]:
        return ((weight, self.delta(weight.module)) for weight in self.weights)

    def delta(self, module: str) -> Delta:
        """Return the delta of one weight; the weight itself is read only if the update needs it.

        Args:
            module: of the base.

        Raises:
            HiploraError: the update leaves the module alone, holds NaN or infinity, or cannot be read.
        """
        if module not in self.names:
            raise HiploraError(f"{self.update.name} leaves {module} alone: choose another module.")
        weight = self.base.read(self.base.weights[module]) if self.update.needs_base else None
        return self.update.delta(self.names[module], weight)

    def epsilon(self, module: str) -> float | None:
        """Return the budget a module of the base was trained under, if any."""
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
    found = {weight.module: name for name in update.modules if (weight := base.find(name)) is not None}
    says = f" (it names {update.base_name})" if update.base_name else ""
    belongs = f"{update.source or update.name} belongs to another base{says}"
    if not found:
        raise HiploraError(f"{belongs}: none of its modules, such as {update.modules[0]}, is in {base.name}.")
    for module, name in found.items():
        shape, expected = update.shape(name), base.weights[module].shape
        if shape != expected:
            raise HiploraError(
                f"{belongs}: {name} is {shape[0]} x {shape[1]} there and {expected[0]} x {expected[1]} in {base.name}."
            )
    return Placement(base, update, {module: found[module] for module in in_data_order(found)})
