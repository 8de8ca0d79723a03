"""Updates: the common form of every change of a base, be it an adapter, a merge, an edit or a full fine-tune."""

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hiplora.adapters.delta import Delta
from hiplora.card import Card


@dataclass(frozen=True)
class Content:
    """One tensor of an update on disk.

    Attributes:
        key: its name in the file.
        shape: its shape.
        part: what it is for, or why it does not count.
        module: that it belongs to; may be empty.
        read: whether it counts in the numbers.
        lost: whether it was trained, and yet does not count in the numbers.
    """

    key: str
    shape: tuple[int, ...]
    part: str
    module: str = ""
    read: bool = True
    lost: bool = False


class Update(ABC):
    """An update of some of a base's weights. Deltas are handed out one module at a time.

    A subclass gives `name`, `method`, `modules`, `shape` and `delta`; everything else has a default.

    Attributes:
        name: in tables and figures.
        method: how it was made, such as `LoRA` or `HiP-LoRA`.
        modules: names of the changed matrices.
        caveats: one sentence each for what is changed but not measured, or looks wrong.
        config: settings it was trained with, in PEFT's names; empty when there are none.
    """

    name: str
    method: str
    modules: Sequence[str]
    caveats: Sequence[str] = ()
    config: Mapping[str, Any] = {}

    @abstractmethod
    def shape(self, module: str) -> tuple[int, int] | None:
        """Return `(m, n)`, out x in, of one module's update, from its form alone; None where only the base tells."""

    def misfit(self, module: str, shape: tuple[int, ...]) -> str | None:
        """Return why the update of a module does not fit a weight, as a clause; None where it does.

        Args:
            module: one of `modules`.
            shape: of the weight, `(m, n)` out x in, or out x in x kernel for a convolution.
        """
        own, flat = self.shape(module), (shape[0], math.prod(shape[1:]))
        if own in (None, flat):
            return None
        there, here = (" x ".join(map(str, sizes)) for sizes in (own or (), flat))
        return f"it is {there} in the adapter and {here} in the base"

    @abstractmethod
    def delta(self, module: str, weight: np.ndarray | None = None) -> Delta:
        """Return the update of one module relative to the base, (m, n) out x in, scaling included.

        Args:
            module: one of `modules`.
            weight: the base's weight, (m, n) out x in, or out x in x kernel for a convolution; used only where
                `needs_weight`.

        Raises:
            HiploraError: NaN or infinity in its values, factors that do not fit each other, or no `weight` where the
                update needs it.
        """

    def needs_weight(self, module: str) -> bool:
        """Return whether `delta` must be given the base's weight of this module."""
        return False

    def whole(self, module: str) -> np.ndarray | None:
        """Return the weight that takes the base's place, (m, n) out x in; None where the update is a difference.

        Raises:
            HiploraError: NaN or infinity in its values.
        """
        return None

    def original(self, module: str) -> str:
        """Return the name that a module's weight has in the base: another one where a layer is used several times."""
        return module

    @property
    def identity(self) -> Hashable:
        """A key that changes whenever the update does; tables are cached under it."""
        return self

    @property
    def source(self) -> str:
        """The name or path that opens it again; empty when it exists in memory only."""
        return ""

    @property
    def folder(self) -> Path | None:
        """The folder, or the one file, that it was read from; None when it exists in memory only."""
        return None

    @property
    def long_name(self) -> str:
        """A longer name, used when two updates share the short one."""
        return self.name

    @property
    def base_name(self) -> str:
        """The base that it names; may be empty."""
        return ""

    @property
    def card(self) -> Card:
        """Its training and its scores; an empty card when they are not known.

        Raises:
            HiploraError: the card is damaged.
        """
        return Card()

    def scale(self, module: str) -> float | None:
        """Return the factor of a module's product of factors; None when the method has none.

        Raises:
            HiploraError: the settings do not say it.
        """
        return None

    def contents(self) -> list[Content]:
        """Return the tensors that it was read from; none when it exists in memory only."""
        return []

    def epsilon(self, module: str) -> float | None:
        """Return the budget a module was trained under; None when the method has none."""
        return None

    def principal_rank(self, module: str) -> int | None:
        """Return the principal rank a module was trained at; None when the method has none."""
        return None

    def trained_inputs(self, module: str) -> str | None:
        """Return the digest of the inputs in whose geometry a module was trained; None for that of the weights."""
        return None

    def weight_hash(self, module: str) -> str | None:
        """Return the content hash of the base weight a module was trained on; None when it is not recorded."""
        return None
