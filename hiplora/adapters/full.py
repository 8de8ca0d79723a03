"""A whole model as an update of its base: a full fine-tune, or a model that adapters were merged into."""

from collections.abc import Hashable
from pathlib import Path

import numpy as np

from hiplora.adapters.delta import Delta, DenseDelta
from hiplora.adapters.update import Content, Update
from hiplora.errors import HiploraError
from hiplora.sources import BaseModel


class FullUpdate(Update):
    """`dW = W - W0` for every linear map of a model, dense, one at a time.

    Of a model saved in 16 bits, the deltas hold the rounding of its weights too: about 0.2 % of each entry in
    bfloat16, as noise of full rank.

    Args:
        model: of the base's architecture.
    """

    method = "full model"

    def __init__(self, model: BaseModel):
        self.model = model
        self.name = model.name.rpartition("/")[2]
        self.modules = model.linear_maps
        self.caveats = [
            *model.notes,
            "It is a whole model: its embeddings, norms and biases are not in these numbers.",
        ]

    @property
    def path(self) -> Path:
        """The folder of the model."""
        return self.model.path

    @property
    def folder(self) -> Path:
        """The folder of the model."""
        return self.path

    @property
    def source(self) -> str:
        """The folder, as text."""
        return str(self.path)

    @property
    def long_name(self) -> str:
        """The name with the parent folder's name before it."""
        return f"{self.path.resolve().parent.name}/{self.name}"

    @property
    def identity(self) -> Hashable:
        """The files as they are."""
        return self.model.identity

    def shape(self, module: str) -> tuple[int, int]:
        """Return `(m, n)`, out x in."""
        return self.model.weights[module].shape

    def contents(self) -> list[Content]:
        """Return the matrices of the model."""
        maps = set(self.modules)
        return [
            Content(
                weight.key,
                weight.shape,
                "the update" if module in maps else "an embedding or a convolution",
                module,
                module in maps,
            )
            for module, weight in self.model.weights.items()
        ]

    def needs_weight(self, module: str) -> bool:
        """Return True: the update is a difference."""
        return True

    def delta(self, module: str, weight: np.ndarray | None = None) -> Delta:
        """Return `W - W0`, (m, n) out x in.

        Raises:
            HiploraError: no `weight`, or the model's own cannot be read or holds NaN or infinity.
        """
        if weight is None:
            raise HiploraError(f"{self.path} is a whole model, whose update is known on its base only: name the base.")
        own = self.model.read(self.model.weights[module])
        return DenseDelta(np.asarray(own, dtype=np.float64) - np.asarray(weight, dtype=np.float64).reshape(own.shape))
