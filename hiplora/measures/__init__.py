"""Measures of METHOD.md section 4: deltas x spectra -> tidy pandas tables."""

from hiplora.budget import budget_cost, direction_weights, tightness
from hiplora.measure_info import DIFFERENCES, MEASURES, MeasureInfo
from hiplora.measures.caveats import caveats_on
from hiplora.measures.channels import Channels, channels
from hiplora.measures.differences import difference, difference_table
from hiplora.measures.directions import direction_table, sweep_table
from hiplora.measures.intruders import Intruders, intruder_dimensions
from hiplora.measures.layers import (
    DEFAULT_EPSILON,
    Measurement,
    changed_weights,
    layer_table,
    matched_weights,
    measure,
    measure_layers,
    update_of,
)
from hiplora.measures.null import Null, isotropic_null
from hiplora.measures.octaves import octave_table
from hiplora.measures.pairs import pair_table
from hiplora.measures.playback import checkpoint_table
from hiplora.measures.progress import progress_table
from hiplora.measures.ranks import effective_rank, stable_rank
from hiplora.measures.scores import card_table, frontier_table, skill_table
from hiplora.measures.summary import channel_table, cut_table, summary_table

__all__ = [
    "DEFAULT_EPSILON",
    "DIFFERENCES",
    "MEASURES",
    "Channels",
    "Intruders",
    "MeasureInfo",
    "Measurement",
    "Null",
    "budget_cost",
    "card_table",
    "caveats_on",
    "changed_weights",
    "channel_table",
    "channels",
    "checkpoint_table",
    "cut_table",
    "difference",
    "difference_table",
    "direction_table",
    "direction_weights",
    "effective_rank",
    "frontier_table",
    "intruder_dimensions",
    "isotropic_null",
    "layer_table",
    "matched_weights",
    "measure",
    "measure_layers",
    "octave_table",
    "pair_table",
    "progress_table",
    "skill_table",
    "stable_rank",
    "summary_table",
    "sweep_table",
    "tightness",
    "update_of",
]
