"""Merges of the updates of a study."""

from collections.abc import Sequence

from hiplora.merging import MergedUpdate, merge
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
