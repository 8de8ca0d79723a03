"""Merges of the updates of a study."""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from hiplora.adapters import Update
from hiplora.errors import HiploraError
from hiplora.merging import MERGE, SINGLE, WAYS, MergedUpdate, conflict_table, merge
from hiplora.study.edits import Edits


class Merges(Edits):
    """Updates on a base, merged."""

    def merged(
        self,
        how: str = "sum",
        weights: Sequence[float] | None = None,
        *,
        names: Sequence[str] | None = None,
        density: float | None = None,
        seed: int = 0,
    ) -> MergedUpdate:
        """Return updates of the study merged into one, which is itself an update: study it, or save it.

        >>> import hiplora
        >>> study = hiplora.open("demo", ["swap-lora", "rot-lora"])
        >>> merge = study.merged("core", weights=[1, 0.5])
        >>> merge.name
        'core(swap-lora, 0.5 rot-lora)'
        >>> study.at(epsilon=0.05).on([merge]).layers()["tightness"].max().round(3)
        np.float64(1.0)

        Args:
            how: a key of `hiplora.merging.WAYS`.
            weights: one for each update; 1 by default.
            names: of the updates; all by default.
            density: share of the entries that a way that prunes keeps; its own by default.
            seed: of a way that draws.

        Raises:
            HiploraError: the study does not have such an update, or as `hiplora.merging.merge`.
        """
        chosen = self.placements if names is None else [self._placement(name) for name in names]
        return merge(
            self.spectra,
            chosen,
            how,
            weights,
            k=self.k,
            epsilon=self.epsilon,
            power=self.power,
            density=density,
            seed=seed,
            seen_as=self.seen_as,
        )

    def conflicts(self, weights: Sequence[float] | None = None, *, names: Sequence[str] | None = None) -> pd.DataFrame:
        """Return how the updates meet, by module, pair and block, each beside what independent updates have.

        See `hiplora.merging.conflict_table`; `hiplora.merging.conflict_summary` sums it up over modules.

        Args:
            weights: as for `merged`, by which the updates are scaled first.
            names: of the updates; all by default.

        Raises:
            HiploraError: there are fewer than two updates, one of them cannot be read or holds NaN, or as `merged`.
        """
        chosen = self.placements if names is None else [self._placement(name) for name in names]
        if len(chosen) < 2:
            raise HiploraError("A conflict needs two updates: open the study with more adapters.")

        def make() -> pd.DataFrame:
            return conflict_table(self.spectra, chosen, self.k, epsilon=self.epsilon, power=self.power, weights=weights)

        which = tuple(each.update.name for each in chosen), None if weights is None else tuple(weights)
        return self._table("conflicts", which, make)

    def merge_geometry(
        self,
        ways: Sequence[str] | None = None,
        weights: Sequence[float] | None = None,
        *,
        names: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Return where each adapter and each way to merge them puts its energy, before anything is scored.

        Columns: `outcome` (name of an adapter, or key of a way), `kind` (`single` or `merge`), and those of `summary`
        but `adapter`, `task_score` and `retention`. `merge_predictions` says how well it predicts what is measured.

        >>> import hiplora
        >>> table = hiplora.open("demo", ["swap-lora", "edit-lora"]).merge_geometry(["sum", "core"])
        >>> table[["outcome", "relative_norm", "max_tightness"]].round(2)
             outcome  relative_norm  max_tightness
        0  swap-lora           0.10           1.19
        1  edit-lora           0.12           1.20
        2        sum           0.15           1.54
        3       core           0.15           1.00

        Args:
            ways: keys of `hiplora.merging.WAYS`; all by default.
            weights: one for each update; 1 by default.
            names: of the updates; all by default.

        Raises:
            HiploraError: as `merged`, or an update holds NaN.
        """
        *_, table = self.measure_merges(ways, weights, names=names)
        return table

    def measure_merges(
        self,
        ways: Sequence[str] | None = None,
        weights: Sequence[float] | None = None,
        *,
        names: Sequence[str] | None = None,
    ) -> Iterator[pd.DataFrame]:
        """Yield the table of `merge_geometry` as it grows, a row at a time."""
        chosen: list[tuple[str, str, Update]] = [
            (SINGLE, name, self[name]) for name in (self.names if names is None else names)
        ]
        chosen += [(MERGE, key, merged) for key, merged in self._ways(ways, weights, names).items()]
        rows: list[pd.DataFrame] = []
        for kind, outcome, update in chosen:
            summary = self.on([update]).summary().drop(columns=["adapter", "task_score", "retention"])
            summary.insert(0, "outcome", outcome)
            summary.insert(1, "kind", kind)
            rows.append(summary)
            yield pd.concat(rows, ignore_index=True)

    def _ways(
        self, ways: Sequence[str] | None, weights: Sequence[float] | None, names: Sequence[str] | None
    ) -> Mapping[str, MergedUpdate]:
        return {how: self.merged(how, weights, names=names) for how in (WAYS if ways is None else ways)}
