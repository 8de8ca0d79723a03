"""Edits of the updates of a study, and what they cause on the demo world."""

from collections.abc import Iterator, Mapping
from functools import partial

import pandas as pd

from hiplora.adapters import EditedUpdate, Gains
from hiplora.settings import one_of
from hiplora.study.tables import Tables

REPAIR_BUDGETS = (0.05, 0.02, 0.01)
"""Budgets that `repair` tries."""
_ROUNDING = 1e-6
"""An edit is saved in float32, whose rounding would pass a budget that is met exactly."""


class Edits(Tables):
    """Updates on a base, changed by block, and scored."""

    def edit(self, name: str, gains: Gains | None = None, **blocks: float) -> EditedUpdate:
        """Return an update with its blocks at `k` changed: `study.edit("swap-lora", pp=0)`.

        Args:
            name: of an update of the study.
            gains: of all modules; by default made from `blocks`.
            blocks: `pp`, `pr`, `rp` and `rr`; those not named stay as they are.

        Raises:
            HiploraError: the study does not have such an update, or a gain is not a number.
        """
        gains = gains or Gains(**blocks)
        return self._edited(name, gains, f"{name}, {gains.words}")

    def rebudget(self, name: str, epsilon: float | None = None) -> EditedUpdate:
        """Return an update whose principal block is scaled down to the budget wherever it is over it.

        Args:
            name: of an update of the study.
            epsilon: the budget; the study's own by default, else the update's.

        Raises:
            HiploraError: the study does not have such an update, or `epsilon` is not positive.
        """
        return self._edited(name, self._within(name, epsilon), f"{name}, within budget")

    def ablation(self, name: str, size: int = 200, seed: int = 0) -> pd.DataFrame:
        """Return what each block of an update of the demo's base causes: see `hiplora.demo.ablation`.

        Args:
            name: of an update of the study.
            size: examples per skill, at most.
            seed: chooses the examples.

        Raises:
            HiploraError: the study does not have such an update, or the base is not the demo's.
        """
        *_, table = self.ablate(name, size, seed)
        return table

    def ablate(
        self,
        name: str,
        size: int = 200,
        seed: int = 0,
        chosen: Mapping[str, Gains | Mapping[str, Gains]] | None = None,
    ) -> Iterator[pd.DataFrame]:
        """Yield the table of `ablation` as it grows, a row at a time; of edits of one's own with `chosen`."""
        from hiplora.demo.ablation import ablation

        # The order of all updates determines their colors.
        order = pd.CategoricalDtype(self.names)
        for table in ablation(self.spectra, self._placement(name), self.k, size, seed, chosen):
            yield self._marked(table.astype({"adapter": order}))

    def part_ablation(self, name: str, by: str = "layer", size: int = 200, seed: int = 0) -> pd.DataFrame:
        """Return what removing one part of an update at a time gives back, beside what the indicators say of the part.

        See `hiplora.demo.ablation.with_indicators`; `hiplora.demo.ablation.indicator_table` ranks the indicators.

        Args:
            name: of an update of the study.
            by: `layer`, `kind` or `module`.
            size: examples per skill, at most.
            seed: chooses the examples.

        Raises:
            HiploraError: as `ablation`, or `by` is none of these.
        """
        *_, table = self.ablate_parts(name, by, size, seed)
        return table

    def ablate_parts(self, name: str, by: str = "layer", size: int = 200, seed: int = 0) -> Iterator[pd.DataFrame]:
        """Yield the table of `part_ablation` as it grows, a row at a time."""
        from hiplora.demo.ablation import removals, with_indicators

        one_of("layer", "kind", "module").require("by", by)
        self._placement(name)
        layers = self.layers()
        rows = layers[layers["adapter"] == name].reset_index(drop=True)
        for table in self.ablate(name, size, seed, removals(rows, by)):
            yield with_indicators(table, rows, by)

    def repair(self, name: str, size: int = 200, seed: int = 0) -> pd.DataFrame:
        """Return which edit keeps the task of an update of the demo's base, and most of the base, beside its peers.

        See `hiplora.demo.repair`. The best edit is `study.edit` with the gains in the row that is `chosen` among the
        `blocks`.

        Args:
            name: of an update of the study.
            size: examples per skill, at most; half of them choose.
            seed: chooses the examples.

        Raises:
            HiploraError: as `ablation`.
        """
        *_, table = self.search_repair(name, size, seed)
        return table

    def search_repair(self, name: str, size: int = 200, seed: int = 0) -> Iterator[pd.DataFrame]:
        """Yield the table of `repair` as it grows, a row at a time."""
        from hiplora.demo.repair import repair

        budgets = {epsilon: self._within(name, epsilon) for epsilon in REPAIR_BUDGETS}
        order = pd.CategoricalDtype(self.names)
        for table in repair(self.spectra, self._placement(name), self.k, size, seed, budgets):
            yield self._marked(table.astype({"adapter": order}))

    def _within(self, name: str, epsilon: float | None) -> dict[str, Gains]:
        """Return the gains that hold an update within a budget, for each module that is over it."""
        rows = self.at(epsilon=self.epsilon if epsilon is None else epsilon).layers()
        over = rows[(rows["adapter"] == name) & (rows["tightness"] > 1)]
        return {str(m): Gains(pp=(1 - _ROUNDING) / t) for m, t in zip(over["module"], over["tightness"], strict=True)}

    def _edited(self, name: str, gains: Gains | Mapping[str, Gains], title: str) -> EditedUpdate:
        placement = self._placement(name)
        bases = partial(self.spectra.bases, k=self.k)
        return EditedUpdate(placement, bases, self.k, gains, title, self.seen_as)
