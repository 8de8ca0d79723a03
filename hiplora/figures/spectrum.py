"""The singular values of the weight."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from hiplora.figures.axes import direction_axis
from hiplora.figures.panels import principal_bands
from hiplora.figures.style import BASE, LABEL_WIDTH, finish, of_any_geometry, percent


@of_any_geometry
def singular_values(table: pd.DataFrame, k: int) -> go.Figure:
    """Draw the singular values of the weight, with the principal ones marked.

    Args:
        table: direction table(s) of one layer.
        k: principal rank.
    """
    one = table.drop_duplicates("direction")
    line = {
        "type": "scatter",
        "x": one["direction"].to_numpy(np.float32),
        "y": one["sigma"].to_numpy(np.float32),
        "mode": "lines",
        "line": {"color": BASE, "width": 2},
        "name": "σ",
        "hovertemplate": "direction %{x}<br>σ = %{y:.4g}<extra></extra>",
        "showlegend": False,
    }
    layout = {
        "xaxis": {"title": "Singular direction of the weight, leading first", **direction_axis(len(one))},
        "yaxis": {"title": "Singular value σ of the weight", "rangemode": "tozero"},
        "shapes": principal_bands(k),
    }
    share = float(one.loc[one["direction"] <= k, "sigma_share"].sum())
    return finish(
        go.Figure([line], layout),
        f"The top {k} directions hold {percent(share)} of the weight's energy.",
        "Leading singular values of the frozen weight; the share is of its whole energy.",
        340,
        left=LABEL_WIDTH,
    )
