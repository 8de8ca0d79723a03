"""The energy that a hard budget would cut from each adapter, layer by layer."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from hiplora.figures.axes import layer_axis
from hiplora.figures.style import adapter_colors, finish, of_any_geometry, percent, percent_format


@of_any_geometry
def cut_by_layer(table: pd.DataFrame) -> go.Figure:
    """Draw the share of each adapter's energy cut by a hard budget, layer by layer; nothing where nothing is cut.

    Args:
        table: from `cut_table`.
    """
    colors = adapter_colors(table["adapter"])
    by_layer = table.groupby(["adapter", "layer"], observed=True)[["removed", "energy"]].sum().reset_index()
    by_layer["share"] = by_layer["removed"] / by_layer["energy"].where(by_layer["energy"] > 0)
    figure = go.Figure()
    for adapter in dict.fromkeys(table["adapter"]) if table["removed"].any() else ():
        part = by_layer[by_layer["adapter"] == adapter]
        figure.add_bar(
            x=part["layer"].to_numpy(np.float32),
            name=adapter,
            marker_color=colors[adapter],
            y=part["share"].to_numpy(np.float32),
            hovertemplate=f"layer %{{x}}<br>%{{y:.3%}} of the update's energy<extra>{adapter}</extra>",
        )
    figure.update_xaxes(**layer_axis(by_layer["layer"].astype(int).tolist()))
    figure.update_yaxes(
        title="Energy the budget would remove", tickformat=percent_format(by_layer["share"].max()), rangemode="tozero"
    )
    totals = table.groupby("adapter", sort=False)[["removed", "energy"]].sum()
    words = ", ".join(
        f"{percent(row['removed'] / row['energy'])} of {name}" if row["removed"] else f"nothing of {name}"
        for name, row in totals.iterrows()
    )
    title = f"With a hard budget, {words} would be removed."
    if not figure.data:
        title = "A hard budget would remove nothing: every module is within it."
    return finish(
        figure,
        title,
        "Counterfactual: the principal block scaled back to tightness 1 where it is above; share of each layer's "
        "energy.",
        360,
    )
