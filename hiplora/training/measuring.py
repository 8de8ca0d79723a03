"""What a run measures of its update as it trains: every layer, and the principal share of the whole."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from hiplora.adapters import Placement
from hiplora.geometry import InputSpectra, seen
from hiplora.measures.progress import progress_table
from hiplora.measures.summary import summed_blocks
from hiplora.spectrum.prepare import BaseSpectra
from hiplora.training.events import Drift, Geometry, Layers, finite

if TYPE_CHECKING:
    from hiplora.tuner import ShadowPrices

_ROUNDING = 2.0**-23
"""Relative norm up to which an update may be rounding: adapters are trained in float32 at best."""
_COLUMNS = ("epsilon", "tightness", "principal_norm", "mixed_norm", "residual_norm", "relative_norm")


@dataclass(frozen=True)
class Measuring:
    """How the update of a run is measured.

    Attributes:
        spectra: of the base.
        inputs: the same on the base's inputs; None where these are not observed.
        k: principal rank.
        epsilon: budget of modules for which the update states none.
        power: `p` of the budget's weights.
    """

    spectra: BaseSpectra
    inputs: InputSpectra | None
    k: int
    epsilon: float
    power: float

    def events(self, step: int, placement: Placement, prices: "ShadowPrices | None" = None) -> Iterator[Layers | Drift]:
        """Yield a measurement of every layer, and the principal share of the whole in each geometry.

        Args:
            step: optimizer steps done.
            placement: the update as it is now.
            prices: of its cores, which start again; None for methods without a core.
        """
        how = (self.k, self.epsilon, self.power)
        table = progress_table(self.spectra, placement, *how)
        found = prices.prices() if prices is not None else {}
        yield Layers(
            step=step,
            total_relative_norm=math.sqrt((table["norm"] ** 2).sum() / (table["base_norm"] ** 2).sum()),
            **{name: [finite(value) for value in table[name]] for name in _COLUMNS},
            shadow_price=[found.get(module, 0.0) for module in table["module"]] if found else None,
        )
        yield from _drift(step, "weights", table)
        if self.inputs is not None:
            effects = progress_table(self.inputs, seen(placement, self.inputs), *how)
            yield from _drift(step, "inputs", effects, self.inputs.calibration.name)


def _drift(step: int, geometry: Geometry, table: pd.DataFrame, text: str = "") -> Iterator[Drift]:
    """Yield the principal share of all modules together, where the update is not zero and its null is known."""
    blocks = summed_blocks(table)
    # DoRA begins with the rounding of its magnitudes, which says nothing.
    if not blocks["relative_norm"] > _ROUNDING:
        return
    names = ("pp", "pp_null", "pp_null_low", "pp_null_high", "enrichment")
    numbers = {name: blocks[name] for name in names}
    if all(map(math.isfinite, numbers.values())):
        yield Drift(step=step, geometry=geometry, text=text, relative_norm=finite(blocks["relative_norm"]), **numbers)
