"""Measures of METHOD.md section 4: deltas x spectra -> tidy pandas tables."""

from hiplora.budget import budget_cost, direction_weights, tightness
from hiplora.catalog import MEASURES, MeasureInfo
from hiplora.measures.channels import Channels, channels
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
)
from hiplora.measures.notes import notes_on
from hiplora.measures.null import Null, isotropic_null
from hiplora.measures.pairs import pair_table
from hiplora.measures.ranks import effective_rank, stable_rank
from hiplora.measures.summary import channel_table, cut_table, summary_table

__all__ = [
    "DEFAULT_EPSILON",
    "MEASURES",
    "Channels",
    "Intruders",
    "MeasureInfo",
    "Measurement",
    "Null",
    "budget_cost",
    "changed_weights",
    "channel_table",
    "channels",
    "cut_table",
    "direction_table",
    "direction_weights",
    "effective_rank",
    "intruder_dimensions",
    "isotropic_null",
    "layer_table",
    "matched_weights",
    "measure",
    "measure_layers",
    "notes_on",
    "pair_table",
    "stable_rank",
    "summary_table",
    "sweep_table",
    "tightness",
]
