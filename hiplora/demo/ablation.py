"""What each block of an update causes: the update without it, with it alone, and each beside its control.

The control of an edit is the whole update scaled to the edit's norm: taking almost anything away helps an adapter that
has learned more than it needs, so an edit says something only beside it.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
import torch

from hiplora.adapters import Placement
from hiplora.adapters.edit import Gains, edited
from hiplora.demo.scoring import right_answers
from hiplora.demo.skills import SKILLS, TASKS, evaluation_examples
from hiplora.errors import HiploraError
from hiplora.paths import demo_base
from hiplora.sources.transformers_models import load_causal_lm, load_tokenizer
from hiplora.spectrum import BaseSpectra

BLOCKS: Final = ("PP", "PR", "RP", "RR")
AS_TRAINED: Final = "as trained"
_RESAMPLES: Final = 1000
_Right = dict[str, np.ndarray]


def edits() -> dict[str, Gains]:
    """Return the edits of an ablation by name: as trained, each block removed, each block alone."""
    none = dict.fromkeys(map(str.lower, BLOCKS), 0.0)
    removed = {f"without {block}": Gains(**{block.lower(): 0.0}) for block in BLOCKS}
    alone = {f"{block} alone": Gains(**(none | {block.lower(): 1.0})) for block in BLOCKS}
    return {AS_TRAINED: Gains()} | removed | alone


def ablation(
    spectra: BaseSpectra,
    placement: Placement,
    k: int,
    size: int = 200,
    seed: int = 0,
    chosen: Mapping[str, Gains] | None = None,
) -> Iterator[pd.DataFrame]:
    """Score the edits of an update of the demo's base one after the other, and yield the table as it grows.

    One row per edit. Columns: `adapter, edit, norm` (relative to the update as trained), `task_score, retention` (mean
    over the base's skills of the score over the base's own), `control_task_score, control_retention` (the update scaled
    to the same norm), `gain, gain_low, gain_high`: the edit's retention less its control's, with its 95 % interval over
    examples (paired bootstrap). Without a known task its scores are NaN.

    Args:
        spectra: of the demo's base.
        placement: the update on it.
        k: principal rank.
        size: examples per skill, at most.
        seed: chooses the examples.
        chosen: edits by name; those of `edits` by default.

    Raises:
        HiploraError: the base is not the demo's, or the update cannot be read.
    """
    if spectra.base.path.resolve() != demo_base().resolve():
        raise HiploraError(f"{spectra.base.name} has no exact scores: they belong to the demo world, so choose demo.")
    scorer = _Scorer(spectra, placement, size, seed)
    parts = _Parts(spectra, placement, k)
    base = scorer.right((module, np.zeros(placement.places[module].shape)) for module in parts.modules)
    whole = parts.norm(Gains())
    rows: list[dict[str, Any]] = []
    for name, gains in (edits() if chosen is None else chosen).items():
        share = parts.norm(gains) / whole if whole else 0.0
        own = scorer.right(parts.changes(gains))
        control = own if name == AS_TRAINED else scorer.right(parts.changes(Gains(share, share, share, share)))
        low, high = _interval(base, own, control)
        kept, control_kept = _retention(base, own), _retention(base, control)
        rows.append(
            {
                "adapter": placement.update.name,
                "edit": name,
                "norm": share,
                "task_score": scorer.task_score(own),
                "retention": kept,
                "control_task_score": scorer.task_score(control),
                "control_retention": control_kept,
                "gain": kept - control_kept,
                "gain_low": low,
                "gain_high": high,
            }
        )
        yield pd.DataFrame(rows)


class _Scorer:
    """The demo's base with any change put on it, scored on the base's skills and on the update's task."""

    def __init__(self, spectra: BaseSpectra, placement: Placement, size: int, seed: int):
        task = placement.update.card.task
        self._task = task if task in TASKS else None
        self._model: Any = load_causal_lm(spectra.base.path).eval()
        self._tokenizer: Any = load_tokenizer(spectra.base.path)
        names = [*SKILLS, *filter(None, [self._task])]
        self._examples = {name: evaluation_examples(name, size, seed) for name in names}
        # Conv1D holds its weight in x out.
        self._turned = {module for module, place in placement.places.items() if place.transposed}
        self._frozen = {m: self._model.get_submodule(m).weight.detach().clone() for m in placement.places}

    @torch.no_grad()
    def right(self, changes: Iterable[tuple[str, np.ndarray]]) -> _Right:
        for module, change in changes:
            own = np.ascontiguousarray(change.T if module in self._turned else change, np.float32)
            self._model.get_submodule(module).weight.copy_(self._frozen[module] + torch.from_numpy(own))
        return {name: right_answers(self._model, self._tokenizer, each) for name, each in self._examples.items()}

    def task_score(self, right: _Right) -> float:
        return float(right[self._task].mean()) if self._task else math.nan


class _Parts:
    """The updates of all modules, edited on demand."""

    def __init__(self, spectra: BaseSpectra, placement: Placement, k: int):
        self.modules = list(placement.places)
        self._deltas = {module: placement.delta(module) for module in self.modules}
        self._bases = {module: spectra.bases(place, k) for module, place in placement.places.items()}

    def changes(self, gains: Gains) -> Iterator[tuple[str, np.ndarray]]:
        for module in self.modules:
            yield module, edited(self._deltas[module], *self._bases[module], gains).dense()

    def norm(self, gains: Gains) -> float:
        return math.sqrt(sum(edited(self._deltas[m], *self._bases[m], gains).energy for m in self.modules))


def _retention(base: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> float:
    return float(np.mean([right[name].mean() / base[name].mean() for name in SKILLS]))


def _interval(base: _Right, one: _Right, other: _Right) -> tuple[float, float]:
    """Return the 95 % interval of the difference in retention, resampling the examples that both were scored on."""
    rng = np.random.default_rng(0)
    differences = np.zeros(_RESAMPLES)
    for name in SKILLS:
        paired = one[name].astype(float) - other[name]
        picks = rng.integers(len(paired), size=(_RESAMPLES, len(paired)))
        differences += paired[picks].mean(axis=1) / base[name].mean() / len(SKILLS)
    low, high = np.quantile(differences, [0.025, 0.975])
    return float(low), float(high)
