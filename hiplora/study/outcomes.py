"""What the merges of the updates of a study are worth, measured."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Final

import pandas as pd

from hiplora.effects import KeptScores, TaskScores
from hiplora.errors import HiploraError
from hiplora.memory import Memory
from hiplora.merging import WAYS, prediction_table
from hiplora.merging.bench import MergeBench
from hiplora.merging.outcomes import ALL, balance_table, fail_table, outcome_table, set_table
from hiplora.study.merges import Merges

BALANCES: Final = ((1.0, 0.0), (1.0, 0.5), (1.0, 1.0), (0.5, 1.0), (0.0, 1.0))
"""Weights of two adapters, from the first alone to the second alone."""
SIZES: Final = (2, 3)
"""How many adapters the merges of `merge_sets` have."""
_OUTCOMES = 4096
"""Outcomes and norms of merges that are remembered for one way to score."""


class Outcomes(Merges):
    """Updates on a base, merged, and the merges scored."""

    def merge_outcomes(
        self,
        ways: Sequence[str] | None = None,
        weights: Sequence[float] | None = None,
        *,
        names: Sequence[str] | None = None,
        scores: KeptScores | None = None,
    ) -> pd.DataFrame:
        """Return what each way to merge keeps of the tasks and of the base, beside the base and each adapter.

        See `hiplora.merging.outcome_table`.

        Args:
            ways: keys of `hiplora.merging.WAYS`; all by default.
            weights: one for each update; 1 by default.
            names: of the updates; all by default.
            scores: how to score, such as `TaskLosses({"code": "code.txt"})`, which any base can; by default
                `ExactScores()` of the demo world.

        Raises:
            HiploraError: as `merged`, the base cannot be scored in this way, or an update is called `all`.
        """
        *_, table = self.score_merges(ways, weights, names=names, scores=scores)
        return table

    def score_merges(
        self,
        ways: Sequence[str] | None = None,
        weights: Sequence[float] | None = None,
        *,
        names: Sequence[str] | None = None,
        scores: KeptScores | None = None,
    ) -> Iterator[pd.DataFrame]:
        """Yield the table of `merge_outcomes` as it grows."""
        summed = self.merged("sum", weights, names=names)
        return self._named(outcome_table(self._merges(names, scores), self._ways(ways, weights, names), summed))

    def merge_predictions(
        self,
        ways: Sequence[str] | None = None,
        weights: Sequence[float] | None = None,
        *,
        names: Sequence[str] | None = None,
        scores: KeptScores | None = None,
    ) -> pd.DataFrame:
        """Return how well the geometry of each way predicts what it loses of the base.

        See `merge_geometry` and `hiplora.merging.prediction_table`. Arguments are those of `merge_outcomes`.

        Raises:
            HiploraError: as `merge_outcomes` and `merge_geometry`.
        """
        geometry = self.merge_geometry(ways, weights, names=names)
        return prediction_table(geometry, self.merge_outcomes(ways, weights, names=names, scores=scores))

    def merge_balance(
        self, first: str, second: str, how: str = "sum", *, scores: KeptScores | None = None
    ) -> pd.DataFrame:
        """Return what merges of two updates keep at five weights, from the first alone to the second alone.

        Both have weight 1 in the middle; to either side the weight of one falls. See `hiplora.merging.balance_table`.

        Args:
            first: name of an update.
            second: name of another.
            how: a key of `hiplora.merging.WAYS`.
            scores: as for `merge_outcomes`.

        Raises:
            HiploraError: as `merge_outcomes`.
        """
        *_, table = self.score_balance(first, second, how, scores=scores)
        return table

    def score_balance(
        self, first: str, second: str, how: str = "sum", *, scores: KeptScores | None = None
    ) -> Iterator[pd.DataFrame]:
        """Yield the table of `merge_balance` as it grows."""
        pair = (first, second)
        merges = {}
        for weights in BALANCES:
            # An update of weight 0 would still be pruned and counted with the others.
            held = [(name, weight) for name, weight in zip(pair, weights, strict=True) if weight]
            merges[weights] = self.merged(how, [weight for _, weight in held], names=[name for name, _ in held])
        summed = self.merged("sum", names=pair)
        return self._named(balance_table(self._merges(pair, scores), merges, summed))

    def merge_sets(
        self,
        ways: Sequence[str] | None = None,
        weight: float = 1.0,
        *,
        names: Sequence[str] | None = None,
        scores: KeptScores | None = None,
    ) -> pd.DataFrame:
        """Return what the merges of all pairs and triples of the updates keep, all with the same weight.

        See `hiplora.merging.set_table`; `merge_fail` says of it how many fail.

        Args:
            ways: as for `merge_outcomes`.
            weight: of each update.
            names: as for `merge_outcomes`.
            scores: as for `merge_outcomes`.

        Raises:
            HiploraError: fewer than two updates, no way, or as `merge_outcomes`.
        """
        *_, table = self.score_sets(ways, weight, names=names, scores=scores)
        return table

    def score_sets(
        self,
        ways: Sequence[str] | None = None,
        weight: float = 1.0,
        *,
        names: Sequence[str] | None = None,
        scores: KeptScores | None = None,
    ) -> Iterator[pd.DataFrame]:
        """Yield the table of `merge_sets` as it grows, a row at a time."""
        chosen = self.names if names is None else list(names)
        sets = merge_groups(chosen)
        if not sets:
            raise HiploraError("A merge needs two updates: open the study with more adapters, or name more of them.")
        if ways is not None and not ways:
            raise HiploraError(f"ways is empty: name at least one of {', '.join(WAYS)}.")
        merges = [(each, self._ways(ways, [weight] * len(each), each)) for each in sets]
        tables = set_table(self._merges(chosen, scores), merges)
        return (self._marked(table) for table in tables)

    def merge_fail(
        self,
        ways: Sequence[str] | None = None,
        weight: float = 1.0,
        *,
        names: Sequence[str] | None = None,
        scores: KeptScores | None = None,
    ) -> pd.DataFrame:
        """Return MergeFail of each way over thresholds: see `hiplora.merging.fail_table`; arguments as `merge_sets`."""
        return fail_table(self.merge_sets(ways, weight, names=names, scores=scores))

    def _merges(self, names: Sequence[str] | None, scores: KeptScores | None) -> MergeBench:
        """Return updates to be merged and scored; what was scored is remembered for the next table."""
        if scores is None:
            from hiplora.demo.scored import ExactScores

            scores = ExactScores()
        if not isinstance(scores, TaskScores):
            raise HiploraError(
                f"{type(scores).__name__} knows one task, and a merge has one of each adapter: pass TaskLosses with a "
                "text of each, or ExactScores on the demo world."
            )
        key = ("merges", scores.identity, self.base.identity)
        return MergeBench(self.merged("sum", names=names), scores, self._memory.get(key, lambda: Memory(_OUTCOMES)))

    def _named(self, tables: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        if ALL in self.names:
            raise HiploraError(
                f"An adapter called {ALL!r} cannot be told from the rows of all adapters together: rename its folder."
            )
        # The order of all updates determines their colors.
        order = pd.CategoricalDtype([*self.names, ALL])
        return (self._marked(table.astype({"adapter": order})) for table in tables)


def merge_groups(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return all pairs and triples of names."""
    return [group for size in SIZES for group in combinations(names, size)]
