"""What all figures have in common: a finding, a measure, named axes."""

import json

import pandas as pd
import plotly.graph_objects as go

from hiplora import figures
from hiplora.catalog import MEASURES
from hiplora.measures import channel_table, cut_table, summary_table

from .conftest import K


def every_figure(layers: pd.DataFrame, directions: pd.DataFrame, sweeps: pd.DataFrame) -> dict[str, go.Figure]:
    summary = summary_table(layers)
    return {
        "principal_share": figures.principal_share(summary, K),
        "layer_map": figures.layer_map(layers, MEASURES["enrichment"]),
        "singular_values": figures.singular_values(directions, K),
        "direction_energy": figures.direction_energy(directions, K),
        "cumulative_energy": figures.cumulative_energy(directions, K),
        "gains": figures.gains(directions, K),
        "sweep": figures.sweep(sweeps, K),
        "channel_norms": figures.channel_norms(channel_table(layers)),
        "channel_blocks": figures.channel_blocks(summary),
        "tightness_by_layer": figures.tightness_by_layer(layers),
        "cut_by_layer": figures.cut_by_layer(cut_table(layers)),
    }


def test_every_public_figure_has_a_finding_a_measure_and_named_axes(
    layers: pd.DataFrame, directions: pd.DataFrame, sweeps: pd.DataFrame
) -> None:
    drawn = every_figure(layers, directions, sweeps)
    assert set(drawn) == set(figures.__all__) - {"adapter_colors"}
    for name, figure in drawn.items():
        assert len(figure.layout.title.text) > 20, name
        assert len(figure.layout.title.subtitle.text) > 20, name
        assert any(axis.title.text for axis in figure.select_xaxes()), name
        json.loads(figure.to_json())
