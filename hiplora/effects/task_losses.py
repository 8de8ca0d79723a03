"""Scores of merges on any base: the loss of the next token on a text of each adapter's task, and on one to keep."""

import math
import zlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hiplora.adapters import Placement, Update
from hiplora.effects.losses import KEPT, apart, as_text, mean_loss, require_tokens, text_scorer
from hiplora.effects.scores import RESAMPLES, Outcome, Scorer, TaskScores, picks
from hiplora.errors import HiploraError
from hiplora.geometry import Text
from hiplora.settings import LOSS_TOKENS
from hiplora.spectrum.prepare import resolve_device


@dataclass(frozen=True)
class TaskLosses(TaskScores):
    """Score merges by the mean cross-entropy of the next token, on a text of each task and on one of what is kept.

    What an adapter learned of its task is its loss there below the base's. A merge has that share of it by which its
    own loss is below the base's: 1 is what the adapter has alone, 0 what the base has. Of the base it keeps
    `exp(loss of the base - loss of the merge)`: the base's perplexity over its own. Texts are read as `TextLosses`
    reads them.

    >>> from hiplora.effects import TaskLosses
    >>> TaskLosses({"code": "code.txt", "chat": "chat.txt"}, tokens=4096).kept
    'retention'

    Attributes:
        task_texts: file of a task, or a text, by the name of the adapter.
        kept_text: file of what should be kept, or a text; by default English that comes with Python.
        tokens: of each text, at most.
        device: where to compute: `cpu`, `cuda`, or `auto` for a GPU where there is one.

    Raises:
        HiploraError: no text of a task, or `tokens` is not a number of tokens, or fewer than 256.
    """

    task_texts: Mapping[str, str | Path | Text]
    kept_text: str | Path | Text | None = None
    tokens: int = LOSS_TOKENS
    device: str = "auto"
    kept: ClassVar[str] = "retention"
    better: ClassVar[int] = 1

    def __post_init__(self) -> None:
        require_tokens(self.tokens)
        if not self.task_texts:
            raise HiploraError("task_texts is empty: name a text of its task for at least one adapter.")

    @cached_property
    def texts(self) -> dict[str, Text]:
        """The text of each task by the name of its adapter, and the one of what should be kept as `kept`.

        Raises:
            HiploraError: a file cannot be read as text, or a task has the text of what should be kept.
        """
        kept = as_text(self.kept_text)
        return {_key(name): apart(as_text(text), kept) for name, text in self.task_texts.items()} | {KEPT: kept}

    @property
    def identity(self) -> Hashable:
        """What the texts say, how much of them is read, and where: a GPU computes in the base's own dtype."""
        digests = tuple(sorted((name, text.digest) for name, text in self.texts.items()))
        return "task losses", digests, self.tokens, resolve_device(self.device)

    def task_of(self, update: Update) -> str | None:
        """Return the key of the text of an update's task, where there is one."""
        return _key(update.name) if update.name in self.task_texts else None

    def open_tasks(self, placement: Placement, tasks: Sequence[str]) -> Scorer:
        """Load the base of an update, and read the texts of tasks with its tokenizer.

        Raises:
            HiploraError: the base is not a causal language model, or a text is too short.
        """
        texts = {name: text for name, text in self.texts.items() if name == KEPT or name in tasks}
        scorer = text_scorer(placement, texts, self.tokens, self.device)
        tell = scorer.tell

        def together(outcome: Outcome) -> dict[str, Any]:
            about = tell(outcome)
            kept = {name: about[name] for name in ("kept_text", "base_kept_loss", "caveat")}
            return kept | {"task_texts": "; ".join(about[f"{name}_text"] for name in texts if name != KEPT)}

        return replace(scorer, tell=together)

    def score_of(self, task: str, outcome: Outcome) -> float:
        """Return the mean loss on the text of one task, nats per token."""
        return mean_loss(outcome[task])

    def share(self, task: str, base: Outcome, one: Outcome, other: Outcome) -> float:
        """Return what `one` has of the loss that `other` takes away from the base; NaN where it takes nothing away."""
        return _ratio(*(each[task][:, 0].sum() for each in (base, one, other)))

    def resampled_share(self, task: str, base: Outcome, one: Outcome, other: Outcome) -> np.ndarray:
        """Return `share` with the windows of the text resampled, (1000,)."""
        if math.isnan(self.share(task, base, one, other)):
            return np.full(RESAMPLES, np.nan)
        chosen = picks(len(base[task]), np.random.default_rng(zlib.crc32(task.encode())))
        before, with_one, with_other = (each[task][:, 0][chosen].sum(axis=1) for each in (base, one, other))
        return np.array([_ratio(*losses) for losses in zip(before, with_one, with_other, strict=True)])

    def kept_score(self, base: Outcome, outcome: Outcome) -> float:
        """Return the perplexity of the base on the text of what should be kept over that of an outcome."""
        return math.exp(mean_loss(base[KEPT]) - mean_loss(outcome[KEPT]))

    def resampled_gain(self, base: Outcome, one: Outcome, other: Outcome) -> np.ndarray:
        """Return how much more `one` keeps than `other`, with the windows of the text resampled, (1000,)."""
        chosen = picks(len(base[KEPT]), np.random.default_rng(0))
        before, with_one, with_other = (
            each[KEPT][:, 0][chosen].sum(axis=1) / each[KEPT][:, 1][chosen].sum(axis=1) for each in (base, one, other)
        )
        gains: np.ndarray = np.exp(before - with_one) - np.exp(before - with_other)
        return gains


def _key(adapter: str) -> str:
    # An adapter may be called as the text of what is kept.
    return f"task of {adapter}"


def _ratio(base: float, one: float, other: float) -> float:
    return float((base - one) / (base - other)) if base > other else math.nan
