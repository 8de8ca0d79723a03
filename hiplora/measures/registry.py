"""All measures of one update on one weight, in the order in which the app offers them."""

from hiplora.measures.dimensions import EFFECTIVE_RANK, STABLE_RANK
from hiplora.measures.enrichment import ENRICHMENT
from hiplora.measures.intruder_scale import INTRUDER_SCALE
from hiplora.measures.intruders import INTRUDERS
from hiplora.measures.measure import Measure
from hiplora.measures.norms import RELATIVE_NORM
from hiplora.measures.shares import LEFT_SHARE, PRINCIPAL_SHARE, RIGHT_SHARE
from hiplora.measures.tightness import TIGHTNESS

_ALL = (
    ENRICHMENT,
    PRINCIPAL_SHARE,
    LEFT_SHARE,
    RIGHT_SHARE,
    RELATIVE_NORM,
    TIGHTNESS,
    STABLE_RANK,
    EFFECTIVE_RANK,
    INTRUDERS,
    INTRUDER_SCALE,
)

MEASURES: dict[str, Measure] = {measure.column: measure for measure in _ALL}
"""`{column of the layer table: measure}`."""
