"""Merges of the updates of a study."""

from collections.abc import Sequence

import pandas as pd

from hiplora.errors import HiploraError
from hiplora.merging import MergedUpdate, conflict_table, merge
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
