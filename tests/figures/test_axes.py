"""Axes: round numbers, and logarithms where values span two decades."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from hiplora import figures
from hiplora.figures import axes

from .conftest import two_runs
from .test_channels import PROBED


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.08, 0.19, [0.08, 0.1, 0.12, 0.15]),
        (0.5, 20, [0.5, 1, 2, 5, 10, 20]),
        (1e-3, 1e3, [1e-3, 1e-2, 0.1, 1, 10, 100, 1000]),
    ],
)
def test_logarithmic_axes_are_labelled_with_round_numbers(low: float, high: float, ticks: list[float]) -> None:
    assert axes.log_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("values", "kind"),
    [([0.02, 2.0], None), ([0.02, 2.1], "log"), ([0.0, 2.0], None), ([np.nan, 1.0], None), ([], None)],
)
def test_norms_have_a_logarithmic_axis_where_they_span_two_decades(values: list[float], kind: str | None) -> None:
    axis = axes.norm_axis(pd.Series(values, dtype=float))
    assert axis.get("type") == kind
    assert axis.get("rangemode") == (None if kind else "tozero")


def test_relative_norms_are_labelled_as_percentages() -> None:
    assert axes.norm_axis(pd.Series([0.001, 0.5]), shares=True)["ticktext"] == ["0.1 %", "1 %", "10 %", "100 %"]
    assert axes.norm_axis(pd.Series([0.1, 0.5]), shares=True)["tickformat"] == ".0~%"


def norms(span: float) -> pd.DataFrame:
    return pd.DataFrame({"adapter": "a", "layer": [0, 1], "principal_norm": [1.0, 1.0], "mixed_norm": [1.0, 1.0],
                         "residual_norm": [span, span], "norm": span})  # fmt: skip


def tightness(span: float) -> pd.DataFrame:
    return pd.DataFrame({"adapter": "a", "module": ["m.0.up", "m.1.up"], "layer": [0, 1], "kind": "up", "epsilon": 0.1,
                         "relative_norm": 0.1, "tightness": [0.1, 0.1 * span]})  # fmt: skip


@pytest.mark.parametrize(
    "draw",
    [
        lambda span: figures.channel_norms(norms(span)),
        lambda span: figures.norm_history(
            two_runs().assign(principal_norm=1.0, mixed_norm=1.0, residual_norm=span), 16
        ),
        lambda span: figures.probe_effects(PROBED.assign(principal=0.001, mixed=0.001, residual=0.001 * span)),
        lambda span: figures.tightness_by_layer(tightness(span)),
    ],
    ids=["channel_norms", "norm_history", "probe_effects", "tightness_by_layer"],
)
def test_figures_of_norms_agree_on_where_logarithms_begin(draw: Callable[[float], go.Figure]) -> None:
    for span, kind in ((99.0, None), (101.0, "log")):
        assert {axis.type for axis in draw(span).select_yaxes()} == {kind}


def test_logarithmic_axis_of_values_close_together_has_more_than_one_label() -> None:
    ticks = axes.log_axis(pd.Series([0.96, 1.0, 1.05]))["tickvals"]
    assert sum(0.96 <= tick <= 1.05 for tick in ticks) >= 3
