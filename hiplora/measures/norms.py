"""The size of an update relative to the weight it changes."""

import math

from hiplora.measure_info import STANDARD
from hiplora.measures.measure import Measure
from hiplora.measures.measurement import Measurement


def _norm(measurement: Measurement) -> float:
    return math.sqrt(measurement.channels.total)


def _ratio(value: float, scale: float) -> float:
    return value / scale if scale > 0 else math.nan


RELATIVE_NORM = Measure(
    "relative_norm",
    "Relative norm",
    "of the update, 1 = as large as the weight",
    r"\lVert\Delta W\rVert_F \,/\, \lVert W_0\rVert_F",
    "How large the update is relative to the weight it changes.",
    "log",
    STANDARD,
    value=lambda m: _ratio(_norm(m), m.frobenius),
    beside={
        "norm": _norm,
        "base_norm": lambda m: m.frobenius,
        "relative_spectral_norm": lambda m: _ratio(float(m.singular_values[0]), float(m.sigma[0])),
    },
)
