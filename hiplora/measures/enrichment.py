"""An update's share in the leading singular directions, relative to chance."""

from hiplora.measure_info import OURS
from hiplora.measures.measure import Measure
from hiplora.measures.measurement import Measurement


def _enrichment(measurement: Measurement) -> float:
    return measurement.channels.share("pp") / (measurement.k / measurement.shape[0] * measurement.right_chance)


ENRICHMENT = Measure(
    "enrichment",
    "Enrichment",
    "principal block, 1 = chance",
    r"\frac{\lVert U_k^\top \Delta W V_k\rVert_F^2 / \lVert\Delta W\rVert_F^2}{k^2/(mn)}",
    "How many times a random update's share the update puts into the leading k x k singular directions.",
    "chance",
    OURS,
    null="1",
    value=_enrichment,
    beside={
        "enrichment_left": lambda m: m.channels.left_share / (m.k / m.shape[0]),
        "enrichment_right": lambda m: m.channels.right_share / m.right_chance,
    },
)
