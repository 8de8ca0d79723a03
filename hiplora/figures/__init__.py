"""Tidy table -> plotly Figure. No torch, no Streamlit, no maths beyond what a scale needs."""

from hiplora.figures.budget import cut_by_layer, prices_by_module, reallocated_budgets, tightness_by_layer
from hiplora.figures.channels import channel_blocks, channel_norms
from hiplora.figures.compare import difference_shares, frontier, octave_energy, skill_scores, training_spectrum
from hiplora.figures.heatmap import layer_map
from hiplora.figures.layer import cumulative_energy, direction_energy, gains, singular_values, sweep
from hiplora.figures.learn import (
    core_budget,
    merge_error,
    merge_typical,
    next_tokens,
    probe_effects,
    rotation_effect,
    rotation_energy,
)
from hiplora.figures.overview import principal_share
from hiplora.figures.style import adapter_colors
from hiplora.figures.training import norm_history, tightness_history

__all__ = [
    "adapter_colors",
    "channel_blocks",
    "channel_norms",
    "core_budget",
    "cumulative_energy",
    "cut_by_layer",
    "difference_shares",
    "direction_energy",
    "frontier",
    "gains",
    "layer_map",
    "merge_error",
    "merge_typical",
    "next_tokens",
    "norm_history",
    "octave_energy",
    "prices_by_module",
    "principal_share",
    "probe_effects",
    "reallocated_budgets",
    "rotation_effect",
    "rotation_energy",
    "singular_values",
    "skill_scores",
    "sweep",
    "tightness_by_layer",
    "tightness_history",
    "training_spectrum",
]
