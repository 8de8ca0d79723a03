"""An update on its base, changed on demand and scored; what was scored once is remembered."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import astuple
from functools import cached_property
from typing import Any

from hiplora.adapters import Delta, Gains, Placement, edited
from hiplora.effects.changed import Change
from hiplora.effects.scores import Outcome, Scorer, Scores
from hiplora.memory import Memory
from hiplora.spectrum import BaseSpectra

Chosen = Gains | Mapping[str, Gains]
"""Gains of all modules, or of some by name; the others stay as they are."""


class Bench:
    """An update on its base, changed on demand and scored.

    The base is loaded when something must be scored, and let go with the bench.

    Args:
        spectra: tell the principal directions.
        placement: the update.
        k: principal rank.
        scores: the way to score.
        memory: of outcomes of this update, at this `k` and in this geometry.
    """

    def __init__(self, spectra: BaseSpectra, placement: Placement, k: int, scores: Scores, memory: Memory):
        self.placement, self.scores = placement, scores
        self.modules = list(placement.places)
        self._spectra, self._k, self._memory = spectra, k, memory
        self._deltas: dict[str, Delta] = {}

    @cached_property
    def _scorer(self) -> Scorer:
        return self.scores.open(self.placement)

    @property
    def base(self) -> Outcome:
        """The outcome of the base itself."""
        return self._memory.get("base", lambda: self._scorer.base)

    @property
    def beside(self) -> dict[str, Any]:
        """What the table says of how it is scored: the base's own losses, the texts, and what is to be said of them."""
        about: dict[str, Any] = self._memory.get("about", lambda: self._scorer.about)
        return about

    def outcome(self, key: Hashable, change: Change) -> Outcome:
        """Return the outcome of a change, from memory or scored.

        Args:
            key: tells the change from any other.
            change: of each module.
        """
        return self._memory.get(key, lambda: self._scorer.outcome(change))

    def edit(self, chosen: Chosen) -> Outcome:
        """Return the outcome of an edit."""
        return self.outcome(("edit", self._key(chosen)), lambda module: self._edited(module, chosen))

    def norm(self, chosen: Chosen) -> float:
        """Return the norm of an edit over that of the update, all modules together; 0 for an update of zeros."""
        return self.norm_of(("edit", self._key(chosen)), lambda module: self._edited(module, chosen))

    def norm_of(self, key: Hashable, change: Change) -> float:
        """Return the norm of a change over that of the update, all modules together.

        Args:
            key: as for `outcome`.
            change: of each module.
        """

        def ratio() -> float:
            whole = sum(self._delta(module).energy for module in self.modules)
            return math.sqrt(sum(change(module).energy for module in self.modules) / whole) if whole else 0.0

        found: float = self._memory.get(("norm", key), ratio)
        return found

    def _key(self, chosen: Chosen) -> Hashable:
        return tuple(astuple(self._gains(module, chosen)) for module in self.modules)

    def _edited(self, module: str, chosen: Chosen) -> Delta:
        gains = self._gains(module, chosen)
        if len(set(astuple(gains))) == 1:
            # No principal direction is needed, and the rank stays as it is.
            return self._delta(module) * gains.pp
        return edited(self._delta(module), *self._spectra.bases(self.placement.places[module], self._k), gains)

    def _delta(self, module: str) -> Delta:
        """Return the update of a module; those of low rank are held."""
        found = self._deltas.get(module)
        if found is None:
            found = self.placement.delta(module)
            if found.rank < min(found.shape):
                self._deltas[module] = found
        return found

    @staticmethod
    def _gains(module: str, chosen: Chosen) -> Gains:
        return chosen if isinstance(chosen, Gains) else chosen.get(module, Gains())
