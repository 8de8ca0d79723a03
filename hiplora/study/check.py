"""Adapters against limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from hiplora.adapters.placement import UNCHANGED
from hiplora.errors import HiploraError
from hiplora.geometry import Calibration
from hiplora.measures.limits import LIMIT_COLUMNS, Limit, limit_table, optional_measures

if TYPE_CHECKING:
    from hiplora.study.study import Study


@dataclass(frozen=True)
class Check:
    """What became of a check.

    Attributes:
        study: that was checked, without the adapters that cannot be measured.
        limits: in the order given.
        table: one row per adapter, module and limit: see `hiplora.measures.limits.limit_table`.
    """

    study: "Study"
    limits: Sequence[Limit]
    table: pd.DataFrame

    @property
    def refusals(self) -> list[str]:
        """One sentence for each requested adapter that was not checked."""
        return self.study.refusals

    @property
    def over(self) -> pd.DataFrame:
        """The rows that are not within their limits."""
        return self.table[~self.table["within"].astype(bool)]

    @property
    def code(self) -> int:
        """Exit code: 2 if an adapter could not be checked, 1 if anything is not within its limit, else 0."""
        return 2 if self.refusals or self.table.empty else int(len(self.over) > 0)


def check(study: "Study", limits: Sequence[Limit], inputs: Calibration | None = None) -> Check:
    """Hold the updates of a study against limits.

    Args:
        study: whose updates are checked.
        limits: at least one.
        inputs: those on which limits of the geometry `inputs` hold; by default the study's own, or those of the text
            that the base brings along.

    Raises:
        HiploraError: there is no limit, or the spectra cannot be computed.
    """
    if not limits:
        raise HiploraError("Nothing is limited: give at least one limit, such as tightness=1.")
    own = study.calibration or "weights"
    groups: dict[str, list[Limit]] = {}
    for limit in limits:
        groups.setdefault(limit.geometry or study.geometry, []).append(limit)
    for geometry, of_it in groups.items():
        there = _seen(study, geometry, inputs).measurable(optional=optional_measures(of_it))
        study = there.at(geometry=own)
    parts = [pd.DataFrame(columns=list(LIMIT_COLUMNS))] if not study.updates else []
    for geometry, of_it in groups.items() if study.updates else ():
        there, optional = _seen(study, geometry, inputs), optional_measures(of_it)
        left_out = [
            (placement.update.name, module, reason)
            for placement in there.placements
            for module, reason in placement.left_out.items()
            if reason != UNCHANGED
        ]
        layers, summary = there.layers(optional=optional), there.summary(optional=optional)
        parts += [limit_table(summary if limit.whole else layers, limit, left_out) for limit in of_it]
    return Check(study, limits, pd.concat(parts, ignore_index=True))


def _seen(study: "Study", geometry: str, inputs: Calibration | None) -> "Study":
    """Return a study in a geometry; its own where that is the same."""
    if geometry == study.geometry:
        return study
    return study.at(geometry=inputs if geometry == "inputs" and inputs is not None else geometry)
