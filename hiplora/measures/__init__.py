"""Measures of METHOD.md section 4: deltas x spectra -> tidy pandas tables."""

from hiplora.budget import DEFAULT_EPSILON, budget_cost, direction_weights, tightness
from hiplora.measure_info import MeasureInfo
from hiplora.measures.caveats import caveats_on
from hiplora.measures.channels import Channels, channels
from hiplora.measures.difference_info import DIFFERENCES
from hiplora.measures.differences import difference, difference_table
from hiplora.measures.directions import direction_table, sweep_table
from hiplora.measures.experts import expert_table, split_expert, with_expert_sums
from hiplora.measures.glossary import glossary, meaning_of, words_in
from hiplora.measures.inspection import Inspection, inspect, inspecting, module_table, tensor_table
from hiplora.measures.intruder_scale import intruder_scale, intruder_threshold
from hiplora.measures.intruders import Intruders, intruder_dimensions
from hiplora.measures.judgements import Judgement, judgement
from hiplora.measures.layers import changed_weights, layer_table, measure_layers
from hiplora.measures.ledger import ledger_summary, ledger_table
from hiplora.measures.limits import Limit, read_limit
from hiplora.measures.measure import Measure
from hiplora.measures.measurement import Measurement, measure
from hiplora.measures.null import Null, null_of
from hiplora.measures.octaves import octave_table
from hiplora.measures.pairs import pair_table
from hiplora.measures.playback import checkpoint_table
from hiplora.measures.progress import progress_table
from hiplora.measures.ranks import effective_rank, stable_rank
from hiplora.measures.registry import MEASURES
from hiplora.measures.scores import card_table, frontier_table, skill_table
from hiplora.measures.summary import beside_band, channel_table, cut_table, finding, summary_table
from hiplora.measures.words import summary_words, worst_words

__all__ = [
    "DEFAULT_EPSILON",
    "DIFFERENCES",
    "MEASURES",
    "Channels",
    "Inspection",
    "Intruders",
    "Judgement",
    "Limit",
    "Measure",
    "MeasureInfo",
    "Measurement",
    "Null",
    "beside_band",
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
    "expert_table",
    "finding",
    "frontier_table",
    "glossary",
    "inspect",
    "inspecting",
    "intruder_dimensions",
    "intruder_scale",
    "intruder_threshold",
    "judgement",
    "layer_table",
    "ledger_summary",
    "ledger_table",
    "meaning_of",
    "measure",
    "measure_layers",
    "module_table",
    "null_of",
    "octave_table",
    "pair_table",
    "progress_table",
    "read_limit",
    "skill_table",
    "split_expert",
    "stable_rank",
    "summary_table",
    "summary_words",
    "sweep_table",
    "tensor_table",
    "tightness",
    "with_expert_sums",
    "words_in",
    "worst_words",
]
