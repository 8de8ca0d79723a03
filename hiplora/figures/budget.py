"""The stability budget: how much of it each layer spends, and what it would have cut."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from hiplora.figures.style import (
    BUDGET,
    adapter_colors,
    adapter_symbols,
    finish,
    layer_axis,
    log_axis,
    percent,
    percent_format,
    two_digits,
)


def tightness_by_layer(table: pd.DataFrame) -> go.Figure:
    """Draw the tightness of every module against its layer, with the budget as a line at 1.

    Args:
        table: the layer table.
    """
    adapters = list(dict.fromkeys(table["adapter"]))
    kinds = list(dict.fromkeys(table["kind"]))
    colors, symbols = adapter_colors(table["adapter"]), adapter_symbols(table["adapter"])
    numbered = table[table["layer"].notna() & (table["tightness"] > 0)]
    figure = go.Figure()
    for adapter in adapters:
        part = numbered[numbered["adapter"] == adapter]
        # Kinds stand side by side within a layer; the adapters' marks of one module stand above each other.
        place = (np.array([kinds.index(name) for name in part["kind"]], dtype=np.float64) + 0.5) / len(kinds) - 0.5
        figure.add_scatter(
            x=part["layer"].to_numpy(np.float32) + np.float32(0.8) * place,
            y=part["tightness"].to_numpy(np.float32),
            mode="markers",
            name=adapter,
            marker={"color": colors[adapter], "symbol": symbols[adapter], "size": 8},
            customdata=np.column_stack([part["module"], part["epsilon"], part["relative_norm"].map(two_digits)]),
            hovertemplate="<b>%{customdata[0]}</b><br>tightness %{y:.3g}<br>ε = %{customdata[1]}<br>relative norm "
            "%{customdata[2]}<extra>" + adapter + "</extra>",
        )
    figure.add_hline(y=1, line={"color": BUDGET, "width": 2}, name="budget spent", showlegend=True)
    values = numbered["tightness"]
    spans = len(values) > 0 and values.max() / values.min() > 30
    figure.update_xaxes(**layer_axis(numbered["layer"].astype(int).tolist()))
    if spans:
        figure.update_yaxes(**log_axis(values))
    else:
        figure.update_yaxes(range=[0, 1.1 * max(float(values.max()) if len(values) else 0.0, 1.0)])
    figure.update_yaxes(title="Tightness √cost / ε (1 = budget spent)")
    over = table[table["tightness"] > 1].groupby("adapter", sort=False).size()
    count = table.groupby("adapter", sort=False).size()
    words = ", ".join(f"{name} {over.get(name, 0)} of {count[name]}" for name in adapters)
    return finish(
        figure,
        f"Modules over the budget: {words}.",
        f"One mark per module; within a layer the kinds stand in the order {', '.join(kinds)}.",
        440,
    )


def cut_by_layer(table: pd.DataFrame) -> go.Figure:
    """Draw what a hard budget would take from each adapter, layer by layer, as a share of the update's energy.

    Args:
        table: from `cut_table`.
    """
    adapters = list(dict.fromkeys(table["adapter"]))
    colors = adapter_colors(table["adapter"])
    numbered = table[table["layer"].notna()]
    by_layer = numbered.groupby(["adapter", "layer"], sort=False)[["removed", "energy"]].sum().reset_index()
    by_layer["share"] = by_layer["removed"] / by_layer["energy"].where(by_layer["energy"] > 0)
    figure = go.Figure()
    for adapter in adapters:
        part = by_layer[by_layer["adapter"] == adapter].sort_values("layer")
        figure.add_bar(
            x=part["layer"].to_numpy(np.float32),
            name=adapter,
            marker_color=colors[adapter],
            y=part["share"].to_numpy(np.float32),
            hovertemplate="layer %{x}<br>%{y:.3%} of the update's energy<extra>" + adapter + "</extra>",
        )
    figure.update_xaxes(**layer_axis(numbered["layer"].astype(int).tolist()))
    figure.update_yaxes(
        title="Energy the budget would remove", tickformat=percent_format(by_layer["share"].max()), rangemode="tozero"
    )
    totals = table.groupby("adapter", sort=False)[["removed", "energy"]].sum()
    words = ", ".join(
        f"{percent(row['removed'] / row['energy'])} of {name}" if row["energy"] else f"nothing of {name}"
        for name, row in totals.iterrows()
    )
    return finish(
        figure,
        f"A hard budget would have cut {words}.",
        "Counterfactual: the principal block scaled back to "
        "tightness 1 where it is above; share of each layer's energy.",
        360,
    )
