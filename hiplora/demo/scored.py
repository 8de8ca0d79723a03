"""Changes of the demo's base, scored exactly."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import torch

from hiplora.adapters import Delta, Placement
from hiplora.adapters.edit import Gains, edited
from hiplora.demo.scoring import right_answers
from hiplora.demo.skills import SKILLS, TASKS, evaluation_examples
from hiplora.errors import HiploraError
from hiplora.paths import demo_base
from hiplora.sources.transformers_models import load_causal_lm, load_tokenizer
from hiplora.spectrum import BaseSpectra

_RESAMPLES: Final = 1000
Right = dict[str, np.ndarray]
"""Of each skill and of the task, whether each example is answered right, (n,), bool."""


class Scorer:
    """The demo's base with any change put on it, scored on the base's skills and on the update's task.

    Args:
        placement: the update on the base.
        size: examples per skill, at most.
        seed: chooses the examples.

    Raises:
        HiploraError: the base is not the demo's, or cannot be loaded.
    """

    def __init__(self, placement: Placement, size: int, seed: int):
        base, task = placement.base, placement.update.card.task
        if base.path.resolve() != demo_base().resolve():
            raise HiploraError(f"{base.name} has no exact scores: they belong to the demo world, so choose demo.")
        self._task = task if task in TASKS else None
        self._model: Any = load_causal_lm(base.path).eval()
        self._tokenizer: Any = load_tokenizer(base.path)
        names = [*SKILLS, *filter(None, [self._task])]
        self.examples = {name: evaluation_examples(name, size, seed) for name in names}
        # Conv1D holds its weight in x out.
        self._turned = {module for module, place in placement.places.items() if place.transposed}
        self._frozen = {m: self._model.get_submodule(m).weight.detach().clone() for m in placement.places}

    @torch.no_grad()
    def right(self, changes: Iterable[tuple[str, np.ndarray]]) -> Right:
        """Return `{skill: whether each example is right}` with these changes of weights, each (m, n) out x in."""
        for module, change in changes:
            own = np.ascontiguousarray(change.T if module in self._turned else change, np.float32)
            self._model.get_submodule(module).weight.copy_(self._frozen[module] + torch.from_numpy(own))
        return {name: right_answers(self._model, self._tokenizer, each) for name, each in self.examples.items()}

    def task_score(self, right: Right) -> float:
        """Return the score on the update's task; NaN where it is not known."""
        return float(right[self._task].mean()) if self._task else math.nan


class Parts:
    """The updates of all modules, edited on demand.

    Args:
        spectra: tell the principal directions.
        placement: the update.
        k: principal rank.
    """

    def __init__(self, spectra: BaseSpectra, placement: Placement, k: int):
        self.modules = list(placement.places)
        self._deltas = {module: placement.delta(module) for module in self.modules}
        self._bases = {module: spectra.bases(place, k) for module, place in placement.places.items()}

    def changes(self, gains: Gains | Mapping[str, Gains]) -> Iterator[tuple[str, np.ndarray]]:
        """Return the edited update, module by module; those that a mapping does not name stay as they are."""
        return ((module, delta.dense()) for module, delta in self._edited(gains))

    def norm(self, gains: Gains | Mapping[str, Gains]) -> float:
        """Return the norm of the edited update, all modules together."""
        return math.sqrt(sum(delta.energy for _, delta in self._edited(gains)))

    def _edited(self, gains: Gains | Mapping[str, Gains]) -> Iterator[tuple[str, Delta]]:
        for module in self.modules:
            own = gains if isinstance(gains, Gains) else gains.get(module, Gains())
            yield module, edited(self._deltas[module], *self._bases[module], own)


def retention(base: Right, right: Right) -> float:
    """Return the mean over the base's skills of the score over the base's own; without those it never has right."""
    return float(np.mean([right[name].mean() / base[name].mean() for name in SKILLS if base[name].any()]))


def interval(base: Right, one: Right, other: Right) -> tuple[float, float]:
    """Return the 95 % interval of the difference in retention, resampling the examples that both were scored on."""
    rng = np.random.default_rng(0)
    differences = np.zeros(_RESAMPLES)
    for name in filter(lambda name: base[name].any(), SKILLS):
        paired = one[name].astype(float) - other[name]
        picks = rng.integers(len(paired), size=(_RESAMPLES, len(paired)))
        differences += paired[picks].mean(axis=1) / base[name].mean() / len(SKILLS)
    low, high = np.quantile(differences, [0.025, 0.975])
    return float(low), float(high)
