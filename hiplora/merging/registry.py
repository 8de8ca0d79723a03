"""The ways to merge, in the order in which they are offered."""

from hiplora.merging import (
    core_space,
    dare,
    iso_c,
    joint_core,
    knots,
    magnitude,
    orthogonal,
    ties,
    tsv,
    weighted_sum,
)
from hiplora.merging.way import Way

WAYS: dict[str, Way] = {
    module.WAY.key: module.WAY
    for module in (weighted_sum, joint_core, ties, dare, magnitude, knots, core_space, tsv, iso_c, orthogonal)
}
"""`{key: way}`."""
