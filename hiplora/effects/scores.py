"""How changes of a base are scored: on a task, and on what should be kept."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Final

import numpy as np

from hiplora.adapters import Placement, Update
from hiplora.effects.changed import Change, changed, require_maps

RESAMPLES: Final = 1000
Outcome = dict[str, np.ndarray]
"""Of each skill or text, a row for each example or window: (n,) or (n, columns)."""


@dataclass
class Scorer:
    """A base in memory, on which any change of an update's modules can be put and scored.

    Attributes:
        model: in evaluation mode.
        placement: tells the modules.
        read: scores the model as it is.
        tell: says how it is scored, from the base's own outcome: see `about`.

    Raises:
        HiploraError: a module is not a linear map of the model.
    """

    model: Any
    placement: Placement
    read: Callable[[Any], Outcome]
    tell: Callable[[Outcome], dict[str, Any]] = field(default=lambda _: {})

    def __post_init__(self) -> None:
        self.placement.require_apart()
        require_maps(self.model, list(self.placement.places), self.placement.base.name)

    @cached_property
    def base(self) -> Outcome:
        """The outcome of the base itself."""
        return self.read(self.model)

    @property
    def about(self) -> dict[str, Any]:
        """How it is scored, in columns of the table: texts, and what is to be said of them."""
        return self.tell(self.base)

    def outcome(self, change: Change) -> Outcome:
        """Return the outcome of the base with a change."""
        with changed(self.model, list(self.placement.places), change):
            return self.read(self.model)


@dataclass(frozen=True)
class KeptScores(ABC):
    """A way to score what is kept of a base. It holds no model.

    Attributes:
        kept: column of what is kept of the base.
        better: 1 where higher is better, -1 where lower is.
    """

    kept: ClassVar[str]
    better: ClassVar[int]

    @property
    @abstractmethod
    def identity(self) -> Hashable:
        """A key that changes whenever the way to score does."""

    @abstractmethod
    def kept_score(self, base: Outcome, outcome: Outcome) -> float:
        """Return what is kept of the base."""

    @abstractmethod
    def resampled_gain(self, base: Outcome, one: Outcome, other: Outcome) -> np.ndarray:
        """Return how much better `one` keeps the base than `other`, with the examples of both resampled, (1000,)."""

    def gain(self, base: Outcome, one: Outcome, other: Outcome) -> float:
        """Return how much better `one` keeps the base than `other`, in units of `kept`."""
        better, worse = (one, other) if self.better > 0 else (other, one)
        return self.kept_score(base, better) - self.kept_score(base, worse)

    def gain_interval(self, base: Outcome, one: Outcome, other: Outcome) -> tuple[float, float]:
        """Return the 95 % interval of `gain`, resampling the examples that both were scored on."""
        low, high = np.quantile(self.resampled_gain(base, one, other), [0.025, 0.975])
        return float(low), float(high)


class Scores(KeptScores):
    """A way to score edits of one update. It holds no model: `open` loads one.

    Attributes:
        task: column of the score on the task.
    """

    task: ClassVar[str]

    @abstractmethod
    def open(self, placement: Placement) -> Scorer:
        """Load the base of an update.

        Raises:
            HiploraError: the base cannot be loaded, or cannot be scored in this way.
        """

    @abstractmethod
    def task_score(self, outcome: Outcome) -> float:
        """Return the score on the task; NaN where it is not known."""

    @abstractmethod
    def flips(self, base: Outcome, trained: Outcome, now: Outcome) -> dict[str, float]:
        """Return `healed` and `damaged`: what an edit takes back of what the update broke, and what it breaks newly."""

    @abstractmethod
    def allowance(self, base: Outcome, trained: Outcome) -> float:
        """Return how much of the task's score may be lost where the task counts as kept."""

    def damage(self, base: Outcome, outcome: Outcome, energy: float) -> dict[str, float]:
        """Return what is lost of the base per unit of energy, and its 95 % interval; NaN for an edit without energy.

        Args:
            base: outcome of the base.
            outcome: of the edit.
            energy: of the edit, in units of the whole update's.
        """
        names = ("damage_per_energy", "damage_per_energy_low", "damage_per_energy_high")
        if energy <= 0:
            return dict.fromkeys(names, float("nan"))
        values = self.gain(base, base, outcome), *self.gain_interval(base, base, outcome)
        return {name: value / energy for name, value in zip(names, values, strict=True)}


class TaskScores(KeptScores):
    """A way to score several tasks on one base: what a merge needs, which has one of each adapter."""

    @abstractmethod
    def task_of(self, update: Update) -> str | None:
        """Return the name that the task of an update has in outcomes; None where it is not known."""

    @abstractmethod
    def open_tasks(self, placement: Placement, tasks: Sequence[str]) -> Scorer:
        """Load the base, to score changes of the modules of an update on several tasks.

        Raises:
            HiploraError: the base cannot be loaded, or cannot be scored in this way.
        """

    @abstractmethod
    def score_of(self, task: str, outcome: Outcome) -> float:
        """Return the score on one task."""

    @abstractmethod
    def share(self, task: str, base: Outcome, one: Outcome, other: Outcome) -> float:
        """Return how much `one` has of what `other` can do of a task, as a share; NaN where that is nothing."""

    @abstractmethod
    def resampled_share(self, task: str, base: Outcome, one: Outcome, other: Outcome) -> np.ndarray:
        """Return `share` with the examples of all three resampled, (1000,); NaN as there."""


def half(outcome: Outcome, which: int) -> Outcome:
    """Return every other example of each skill or text: 0 for those that choose, 1 for those that judge."""
    return {name: values[which::2] for name, values in outcome.items()}


def picks(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return the examples of each resampling, (1000, count)."""
    return rng.integers(count, size=(RESAMPLES, count))


def shortened(names: Sequence[str], most: int = 3) -> str:
    """Return names for a sentence, a few of many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
