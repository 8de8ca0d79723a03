"""Tidy table -> plotly Figure. No torch, no Streamlit, no math beyond the needs of a scale."""

from hiplora.figures.ablation import block_effects, energy_damage
from hiplora.figures.angles import merge_error, merge_typical, rotation_effect, rotation_energy
from hiplora.figures.blocks import channel_blocks
from hiplora.figures.channels import channel_norms, norm_history, probe_effects
from hiplora.figures.core_gains import gains
from hiplora.figures.cores import core_budget
from hiplora.figures.cuts import cut_by_layer
from hiplora.figures.differences import difference_shares
from hiplora.figures.directions import cumulative_energy, direction_energy
from hiplora.figures.drift import principal_drift
from hiplora.figures.heatmap import layer_map, tightness_history
from hiplora.figures.inputs import input_damage, two_views
from hiplora.figures.merges import merge_balance, merge_conflicts, merge_fail, merge_outcomes
from hiplora.figures.modules import ledger, prices_by_module, reallocated_budgets, tightness_by_layer
from hiplora.figures.octaves import octave_energy
from hiplora.figures.playback import training_spectrum
from hiplora.figures.predictions import merge_predictions
from hiplora.figures.principal_block import principal_share
from hiplora.figures.rank_sweep import sweep
from hiplora.figures.repairs import repair_outcomes
from hiplora.figures.score_frontier import frontier
from hiplora.figures.skills import skill_scores
from hiplora.figures.spectrum import singular_values
from hiplora.figures.style import adapter_colors
from hiplora.figures.tokens import next_tokens

__all__ = [
    "adapter_colors",
    "block_effects",
    "channel_blocks",
    "channel_norms",
    "core_budget",
    "cumulative_energy",
    "cut_by_layer",
    "difference_shares",
    "direction_energy",
    "energy_damage",
    "frontier",
    "gains",
    "input_damage",
    "layer_map",
    "ledger",
    "merge_balance",
    "merge_conflicts",
    "merge_error",
    "merge_fail",
    "merge_outcomes",
    "merge_predictions",
    "merge_typical",
    "next_tokens",
    "norm_history",
    "octave_energy",
    "prices_by_module",
    "principal_drift",
    "principal_share",
    "probe_effects",
    "reallocated_budgets",
    "repair_outcomes",
    "rotation_effect",
    "rotation_energy",
    "singular_values",
    "skill_scores",
    "sweep",
    "tightness_by_layer",
    "tightness_history",
    "training_spectrum",
    "two_views",
]
