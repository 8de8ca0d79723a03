"""Updates on one base and their merges, scored; what was scored once is remembered."""

import math
from functools import cached_property
from typing import Any, Final

from hiplora.adapters import Delta, LowRankDelta, Placement, place
from hiplora.effects import Outcome, Scorer, TaskScores
from hiplora.memory import Memory
from hiplora.merging.merge import MergedUpdate

_HELD: Final = 2**25
"""Numbers of merged deltas that are held while a merge is scored: 256 MiB. What is beyond is merged again."""


class Held:
    """The deltas of an update on its base, held as far as they fit; zero where it leaves a module alone.

    Args:
        placement: the update.
    """

    def __init__(self, placement: Placement):
        self._placement = placement
        self._found: dict[str, Delta] = {}
        self._size = 0

    def __call__(self, module: str, shape: tuple[int, int]) -> Delta:
        """Return the delta of a module, (m, n)."""
        if module not in self._placement:
            return LowRankDelta.zero(shape)
        found = self._found.get(module)
        if found is None:
            found = self._placement.delta(module)
            size = found.rank * sum(shape) if isinstance(found, LowRankDelta) else math.prod(shape)
            if self._size + size <= _HELD:
                self._size += size
                self._found[module] = found
        return found

    @property
    def energy(self) -> float:
        """`||dW||_F^2`, all modules together."""
        return sum(self(module, weight.shape).energy for module, weight in self._placement.places.items())


class MergeBench:
    """Updates on one base and their merges, scored on the task of each update and on what is kept of the base.

    The base is loaded when something must be scored, and let go with the bench.

    Args:
        summed: the sum of all updates that are to be merged: tells them, their base and its modules.
        scores: the way to score.
        memory: of outcomes and norms, for this base and this way to score.
    """

    def __init__(self, summed: MergedUpdate, scores: TaskScores, memory: Memory):
        self.scores, self._memory = scores, memory
        self.singles = list(summed.placements)
        self._all = place(self.singles[0].base, summed)
        known = {each.update.name: scores.task_of(each.update) for each in self.singles}
        self.tasks: dict[str, str] = {name: task for name, task in known.items() if task is not None}
        self._last: tuple[object, Held] | None = None

    @cached_property
    def _scorer(self) -> Scorer:
        return self.scores.open_tasks(self._all, sorted(set(self.tasks.values())))

    @property
    def base(self) -> Outcome:
        """The outcome of the base itself."""
        return self._memory.get("base", lambda: self._scorer.base, self._enough)

    @property
    def beside(self) -> dict[str, Any]:
        """What the table says of how merges are scored: the texts, and what is to be said of them."""
        about: dict[str, Any] = self._memory.get(("about", tuple(sorted(self.tasks))), lambda: self._scorer.about)
        return about

    def single(self, placement: Placement) -> Outcome:
        """Return the outcome of one of the updates as it is."""
        return self._outcome(placement, 1.0)

    def merged(self, merge: MergedUpdate, factor: float = 1.0) -> Outcome:
        """Return the outcome of a merge, scaled by a factor."""
        return self._outcome(self._placed(merge), factor)

    def norm(self, update: Placement | MergedUpdate) -> float:
        """Return `||dW||_F` of an update or a merge, all modules together."""
        placement = update if isinstance(update, Placement) else self._placed(update)
        found: float = self._memory.get(
            ("norm", placement.update.identity), lambda: math.sqrt(self._held(placement).energy)
        )
        return found

    def _outcome(self, placement: Placement, factor: float) -> Outcome:
        def score() -> Outcome:
            held, places = self._held(placement), self._all.places
            return self._scorer.outcome(lambda module: factor * held(module, places[module].shape))

        return self._memory.get((placement.update.identity, factor), score, self._enough)

    def _enough(self, outcome: Outcome) -> bool:
        """Whether an outcome from memory was scored on all tasks."""
        return set(self.tasks.values()) <= set(outcome)

    def _placed(self, merge: MergedUpdate) -> Placement:
        return place(self._all.base, merge)

    def _held(self, placement: Placement) -> Held:
        """Return the deltas of an update; those of the last one asked for are kept."""
        if self._last is None or self._last[0] != placement.update.identity:
            self._last = placement.update.identity, Held(placement)
        return self._last[1]
