"""A measure of one update on one weight: its description, its value and its needs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hiplora.measure_info import MeasureInfo

if TYPE_CHECKING:
    from hiplora.adapters import Delta
    from hiplora.measures.measurement import Measurement
    from hiplora.spectrum import Spectrum

Value = Callable[["Measurement"], "float | int | None"]


@dataclass(frozen=True)
class Measure(MeasureInfo):
    """A column of the layer table. To add one: a file with its `Measure`, and a line in `registry.py`.

    Attributes:
        value: of a measurement; NaN where it is not defined.
        beside: further columns that belong to it, such as its null: `{column: value}`.
        compute: for a slow measure: computes its result on request, from spectrum and update. It needs all singular
            triplets, and `value` finds the result in `Measurement.computed[column]`.
    """

    value: Value
    beside: Mapping[str, Value] = field(default_factory=dict)
    compute: "Callable[[Spectrum, Delta], Any] | None" = None

    @property
    def optional(self) -> bool:
        """Whether it is computed on request only."""
        return self.compute is not None

    def columns(self, measurement: "Measurement") -> "dict[str, float | int | None]":
        """Return its columns of one row; None for an optional measure that was not computed."""
        values = {self.column: self.value, **self.beside}
        if self.optional and self.column not in measurement.computed:
            return dict.fromkeys(values)
        return {column: value(measurement) for column, value in values.items()}
