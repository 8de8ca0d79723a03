"""Edits of the updates of a study, and what they cause."""

from collections.abc import Iterator, Mapping
from functools import partial

import pandas as pd

from hiplora.adapters import EditedUpdate, Gains
from hiplora.budget import gain_within
from hiplora.effects.ablation import ablation, removals, with_indicators
from hiplora.effects.bench import Bench, Chosen
from hiplora.effects.repair import repair
from hiplora.effects.scores import Scores
from hiplora.memory import Memory
from hiplora.settings import one_of
from hiplora.study.tables import Tables

REPAIR_BUDGETS = (0.05, 0.02, 0.01)
"""Budgets that `repair` tries."""
_OUTCOMES = 2048
"""Outcomes and norms of edits that are remembered for one update and one way to score."""


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

    def ablation(self, name: str, scores: Scores | None = None) -> pd.DataFrame:
        """Return what each block of an update causes: see `hiplora.effects.ablation`.

        Args:
            name: of an update of the study.
            scores: how to score, such as `TextLosses("task.txt")`, which any base can; by default `ExactScores()` of
                the demo world.

        Raises:
            HiploraError: the study does not have such an update, or the base cannot be scored in this way.
        """
        *_, table = self.ablate(name, scores)
        return table

    def ablate(
        self,
        name: str,
        scores: Scores | None = None,
        chosen: Mapping[str, Chosen] | None = None,
    ) -> Iterator[pd.DataFrame]:
        """Yield the table of `ablation` as it grows, a row at a time; of edits of one's own with `chosen`."""
        return self._in_order(ablation(self._bench(name, scores), chosen))

    def part_ablation(self, name: str, by: str = "layer", scores: Scores | None = None) -> pd.DataFrame:
        """Return what removing one part of an update at a time gives back, beside what the indicators say of the part.

        See `hiplora.effects.ablation.with_indicators`; `hiplora.effects.indicator_table` ranks the indicators.

        Args:
            name: of an update of the study.
            by: `layer`, `kind` or `module`.
            scores: as for `ablation`.

        Raises:
            HiploraError: as `ablation`, or `by` is none of these.
        """
        *_, table = self.ablate_parts(name, by, scores)
        return table

    def ablate_parts(self, name: str, by: str = "layer", scores: Scores | None = None) -> Iterator[pd.DataFrame]:
        """Yield the table of `part_ablation` as it grows, a row at a time."""
        one_of("layer", "kind", "module").require("by", by)
        self._placement(name)
        layers = self.layers()
        rows = layers[layers["adapter"] == name].reset_index(drop=True)
        for table in self.ablate(name, scores, removals(rows, by)):
            yield with_indicators(table, rows, by)

    def repair(self, name: str, scores: Scores | None = None) -> pd.DataFrame:
        """Return which edit keeps the task of an update, and most of the base, beside its peers.

        See `hiplora.effects.repair`. The best edit is `study.edit` with the gains in the row that is `chosen` among the
        `blocks`.

        Args:
            name: of an update of the study.
            scores: as for `ablation`; half of the examples, or of the windows of each text, choose.

        Raises:
            HiploraError: as `ablation`.
        """
        *_, table = self.search_repair(name, scores)
        return table

    def search_repair(self, name: str, scores: Scores | None = None) -> Iterator[pd.DataFrame]:
        """Yield the table of `repair` as it grows, a row at a time."""
        bench = self._bench(name, scores)
        budgets = {epsilon: self._within(name, epsilon) for epsilon in REPAIR_BUDGETS}
        return self._in_order(repair(bench, budgets))

    def _bench(self, name: str, scores: Scores | None) -> Bench:
        """Return an update to be edited and scored; what was scored is remembered for the next table."""
        if scores is None:
            from hiplora.demo.scored import ExactScores

            scores = ExactScores()
        placement = self._placement(name)
        key = ("outcomes", scores.identity, self.base.identity, placement.update.identity, self.seen_as, self.k)
        return Bench(self.spectra, placement, self.k, scores, self._memory.get(key, lambda: Memory(_OUTCOMES)))

    def _in_order(self, tables: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        # The order of all updates determines their colors.
        order = pd.CategoricalDtype(self.names)
        return (self._marked(table.astype({"adapter": order})) for table in tables)

    def _within(self, name: str, epsilon: float | None) -> dict[str, Gains]:
        """Return the gains that hold an update within a budget, for each module that is over it."""
        rows = self.at(epsilon=self.epsilon if epsilon is None else epsilon).layers()
        over = rows[(rows["adapter"] == name) & (rows["tightness"] > 1)]
        return {str(m): Gains(pp=gain_within(t)) for m, t in zip(over["module"], over["tightness"], strict=True)}

    def _edited(self, name: str, gains: Gains | Mapping[str, Gains], title: str) -> EditedUpdate:
        placement = self._placement(name)
        bases = partial(self.spectra.bases, k=self.k)
        return EditedUpdate(placement, bases, self.k, gains, title, self.seen_as)
