"""The number of directions that an update really uses."""

from hiplora.measure_info import STANDARD
from hiplora.measures.measure import Measure
from hiplora.measures.ranks import effective_rank, stable_rank

STABLE_RANK = Measure(
    "stable_rank",
    "Stable rank",
    "of the update",
    r"\lVert\Delta W\rVert_F^2 \,/\, \lVert\Delta W\rVert_2^2",
    "How many directions the update really uses: 1 when one direction carries it all.",
    "linear",
    STANDARD,
    value=lambda m: stable_rank(m.singular_values),
)

EFFECTIVE_RANK = Measure(
    "effective_rank",
    "Effective rank",
    "of the update",
    r"\exp\Bigl(-\sum_i p_i \log p_i\Bigr),\quad p_i = s_i(\Delta W)^2 / \lVert\Delta W\rVert_F^2",
    "The number of equally strong directions that would spread the energy as evenly.",
    "linear",
    STANDARD,
    value=lambda m: effective_rank(m.singular_values),
)
