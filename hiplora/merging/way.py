"""A way to merge the updates of one weight: what it is given, what it gives back, and where it is from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hiplora.adapters import Delta


@dataclass(frozen=True)
class Site:
    """One weight where updates meet: all that a way may use beside their deltas.

    Attributes:
        module: its name in tables.
        keys: tell the updates that change it apart in draws, in the order of their deltas.
        density: share of the entries that a way that prunes keeps, above 0 and at most 1.
        seed: of ways that draw.
        bases: gives the principal directions of outputs, (k, m), and of inputs, (k, n), as rows.
        tightness: gives the tightness of an update of this weight under the joint budget.
    """

    module: str
    keys: tuple[str, ...]
    density: float = 1.0
    seed: int = 0
    bases: Callable[[], tuple[np.ndarray, np.ndarray]] = lambda: (np.empty((0, 0)), np.empty((0, 0)))
    tightness: Callable[[Delta], float] = lambda delta: 0.0


@dataclass(frozen=True)
class Way:
    """A way to merge. To add one: a file with its `Way`, a line in `registry.py`, and its key in `settings.py`.

    Attributes:
        key: on the command line and in tables.
        title: in figures and texts.
        formula: LaTeX; `tau_t` are the updates after their weights.
        meaning: one sentence.
        source: where it was published, or that it is our choice.
        merge: gives the merged delta, (m, n), of the deltas of one weight, weights applied.
        density: share of the entries that are kept by default; None for a way that prunes nothing.
        random: whether it draws.
        ordered: whether the order of the updates changes the result.
        needs_spectrum: whether it uses the singular directions of the frozen weight.
    """

    key: str
    title: str
    formula: str
    meaning: str
    source: str
    merge: Callable[[Sequence[Delta], Site], Delta]
    density: float | None = None
    random: bool = False
    ordered: bool = False
    needs_spectrum: bool = False
