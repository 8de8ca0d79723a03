"""Changes of the demo's base, scored exactly."""

import math
import zlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from hiplora.adapters import Placement, Update
from hiplora.demo.skills import SKILLS, TASKS, evaluation_examples
from hiplora.effects import Outcome, Scorer, Scores, TaskScores
from hiplora.effects.scores import RESAMPLES, picks
from hiplora.errors import HiploraError
from hiplora.paths import demo_base
from hiplora.settings import COUNT
from hiplora.sources.transformers_models import load_causal_lm, load_tokenizer

_KEPT_TASK = 0.01


@dataclass(frozen=True)
class ExactScores(Scores, TaskScores):
    """Score on the base's skills and on the update's task, by exact match: for the demo's base alone.

    An outcome says of each skill, and of the task where it is known, whether each example is answered right.

    Attributes:
        size: examples per skill, at most.
        seed: chooses the examples.

    Raises:
        HiploraError: `size` is not a number of examples.
    """

    size: int = 200
    seed: int = 0
    task: ClassVar[str] = "task_score"
    kept: ClassVar[str] = "retention"
    better: ClassVar[int] = 1

    def __post_init__(self) -> None:
        COUNT.require("size", self.size)

    @property
    def identity(self) -> Hashable:
        """Which examples."""
        return "exact", self.size, self.seed

    def open(self, placement: Placement) -> Scorer:
        """Load the demo's base.

        Raises:
            HiploraError: the base is not the demo's.
        """
        task = self.task_of(placement.update)
        return self.open_tasks(placement, [] if task is None else [task])

    def open_tasks(self, placement: Placement, tasks: Sequence[str]) -> Scorer:
        """Load the demo's base, to be scored on several tasks.

        Raises:
            HiploraError: the base is not the demo's.
        """
        base = placement.base
        if base.path.resolve() != demo_base().resolve():
            raise HiploraError(
                f"{base.name} has no exact scores: they belong to the demo world, so choose demo, or score by loss on "
                "a text of the task (task_text, --task-text)."
            )
        from hiplora.demo.scoring import right_answers

        tokenizer: Any = load_tokenizer(base.path)
        examples = {name: evaluation_examples(name, self.size, self.seed) for name in (*SKILLS, *tasks)}
        return Scorer(
            load_causal_lm(base.path).eval(),
            placement,
            lambda model: {name: right_answers(model, tokenizer, each) for name, each in examples.items()},
        )

    def task_of(self, update: Update) -> str | None:
        """Return the task on an update's card, where it is one of the demo world's."""
        task = update.card.task
        return task if task in TASKS else None

    def score_of(self, task: str, outcome: Outcome) -> float:
        """Return the share of right answers on one task."""
        return float(outcome[task].mean())

    def share(self, task: str, base: Outcome, one: Outcome, other: Outcome) -> float:
        """Return the right answers of `one` on a task over those of `other`; NaN where that has nothing right."""
        beside = self.score_of(task, other)
        return self.score_of(task, one) / beside if beside else math.nan

    def resampled_share(self, task: str, base: Outcome, one: Outcome, other: Outcome) -> np.ndarray:
        """Return `share` with the examples of the task resampled, (1000,)."""
        chosen = picks(len(one[task]), np.random.default_rng(zlib.crc32(task.encode())))
        right, beside = (each[task][chosen].mean(axis=1) for each in (one, other))
        found: np.ndarray = np.divide(right, beside, out=np.full(RESAMPLES, np.nan), where=beside > 0)
        return found

    def task_score(self, outcome: Outcome) -> float:
        """Return the share of right answers on the update's task; NaN where it is not known."""
        return next((float(right.mean()) for name, right in outcome.items() if name not in SKILLS), math.nan)

    def kept_score(self, base: Outcome, outcome: Outcome) -> float:
        """Return the mean over the base's skills of the score over the base's own; without those it never has right."""
        return float(np.mean([outcome[name].mean() / base[name].mean() for name in SKILLS if base[name].any()]))

    def resampled_gain(self, base: Outcome, one: Outcome, other: Outcome) -> np.ndarray:
        """Return how much more `one` keeps than `other`, with the examples of each skill resampled, (1000,)."""
        rng = np.random.default_rng(0)
        differences = np.zeros(RESAMPLES)
        skills = [name for name in SKILLS if base[name].any()]
        for name in skills:
            paired = one[name].astype(float) - other[name]
            differences += paired[picks(len(paired), rng)].mean(axis=1) / base[name].mean() / len(skills)
        return differences

    def flips(self, base: Outcome, trained: Outcome, now: Outcome) -> dict[str, float]:
        """Return the shares of the base's right answers that an edit heals and damages.

        `healed` is of those that the update broke the share that is right again; `damaged` of those that it left right
        the share that is now wrong.
        """
        broken = healed = kept = damaged = 0
        for name in SKILLS:
            lost, left = base[name] & ~trained[name], base[name] & trained[name]
            broken, healed = broken + int(lost.sum()), healed + int((lost & now[name]).sum())
            kept, damaged = kept + int(left.sum()), damaged + int((left & ~now[name]).sum())
        return {"healed": healed / broken if broken else math.nan, "damaged": damaged / kept if kept else math.nan}

    def allowance(self, base: Outcome, trained: Outcome) -> float:
        """Return one point."""
        return _KEPT_TASK
