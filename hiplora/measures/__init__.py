"""Measures of METHOD.md section 4: deltas x spectra -> tidy pandas tables."""

from hiplora.measures.budget import budget_cost, direction_weights, tightness
from hiplora.measures.channels import Channels, channels
from hiplora.measures.directions import direction_table, sweep_table
from hiplora.measures.intruders import Intruders, intruder_dimensions
from hiplora.measures.layers import (
    DEFAULT_EPSILON,
    Measurement,
    layer_table,
    matched_weights,
    measure,
    measure_layers,
    notes_on,
)
from hiplora.measures.null import Null, isotropic_null
from hiplora.measures.pairs import pair_table
from hiplora.measures.ranks import effective_rank, stable_rank
from hiplora.measures.summary import summary_table

__all__ = [
    "DEFAULT_EPSILON",
    "Channels",
    "Intruders",
    "Measurement",
    "Null",
    "budget_cost",
    "channels",
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
