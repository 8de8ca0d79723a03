"""Tidy table -> plotly Figure. No torch, no Streamlit, no maths beyond what a scale needs."""

from hiplora.figures.budget import cut_by_layer, tightness_by_layer
from hiplora.figures.channels import channel_blocks, channel_norms
from hiplora.figures.heatmap import layer_map
from hiplora.figures.layer import cumulative_energy, direction_energy, gains, singular_values, sweep
from hiplora.figures.overview import principal_share
from hiplora.figures.style import adapter_colors

__all__ = [
    "adapter_colors",
    "channel_blocks",
    "channel_norms",
    "cumulative_energy",
    "cut_by_layer",
    "direction_energy",
    "gains",
    "layer_map",
    "principal_share",
    "singular_values",
    "sweep",
    "tightness_by_layer",
]
