"""The stability budget: how much of it each layer spends, and what it would have cut."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from hiplora.figures.style import (
    BUDGET,
    NULL,
    PRINCIPAL,
    adapter_colors,
    adapter_symbols,
    finish,
    layer_axis,
    log_axis,
    percent,
    percent_format,
    row_of_max,
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
        figure.add_scatter(
            x=_places(part, kinds),
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


def prices_by_module(table: pd.DataFrame) -> go.Figure:
    """Draw the shadow price of every module against its layer, with a line at 0.

    Args:
        table: `adapter, module, layer, kind, tightness, epsilon, shadow_price`, with at least one row.
    """
    adapters, kinds = list(dict.fromkeys(table["adapter"])), list(dict.fromkeys(table["kind"]))
    colors, symbols = adapter_colors(table["adapter"]), adapter_symbols(table["adapter"])
    figure = go.Figure()
    figure.add_hline(y=0, line={"color": NULL, "width": 1})
    words = []
    for adapter in adapters:
        part = table[table["adapter"] == adapter]
        numbered = part[part["layer"].notna()]
        figure.add_scatter(
            x=_places(numbered, kinds),
            y=numbered["shadow_price"].to_numpy(np.float32),
            mode="markers",
            name=adapter,
            showlegend=True,
            marker={"color": colors[adapter], "symbol": symbols[adapter], "size": 8},
            customdata=np.column_stack([numbered["module"], numbered["tightness"].map(two_digits)]),
            hovertemplate="<b>%{customdata[0]}</b><br>shadow price %{y:.3g}<br>tightness %{customdata[1]}<extra>"
            + adapter
            + "</extra>",
        )
        top = row_of_max(part, "shadow_price")
        if top is None or not top["shadow_price"] > 0:
            words.append(f"No module of {adapter} would gain from more budget.")
        else:
            words.append(f"{adapter} would gain most from more budget in {top['module'].removeprefix('model.')}.")
    figure.update_xaxes(**layer_axis(table["layer"].dropna().astype(int).tolist()))
    figure.update_yaxes(title="Shadow price (task loss per unit of cost)", zeroline=False)
    return finish(
        figure,
        " ".join(words),
        "How fast the task loss falls when a module may spend more, as last measured in training; one mark per module, "
        f"within a layer in the order {', '.join(kinds)}.",
        400,
    )


def reallocated_budgets(table: pd.DataFrame) -> go.Figure:
    """Draw the budget of every module before and after it was moved, joined by a line.

    Args:
        table: `module, layer, kind, epsilon, new_epsilon`, with at least one row.
    """
    kinds = list(dict.fromkeys(table["kind"]))
    numbered = table[table["layer"].notna()]
    x = _places(numbered, kinds)
    old, new = (numbered[column].to_numpy(np.float32) for column in ("epsilon", "new_epsilon"))
    gap = np.full(len(x), np.nan, np.float32)
    figure = go.Figure()
    figure.add_scatter(
        x=np.column_stack([x, x, gap]).ravel(),
        y=np.column_stack([old, new, gap]).ravel(),
        mode="lines",
        line={"color": NULL, "width": 1},
        hoverinfo="skip",
        showlegend=False,
    )
    for y, name, marker in (
        (old, "ε it had", {"color": NULL, "symbol": "line-ew", "size": 9, "line": {"width": 2, "color": NULL}}),
        (new, "ε of the next run", {"color": PRINCIPAL, "symbol": "circle", "size": 7}),
    ):
        figure.add_scatter(
            x=x,
            y=y,
            mode="markers",
            name=name,
            marker=marker,
            customdata=numbered["module"].to_numpy()[:, None],
            hovertemplate="<b>%{customdata[0]}</b><br>%{y:.4g}<extra>" + name + "</extra>",
        )
    figure.update_xaxes(**layer_axis(numbered["layer"].astype(int).tolist()))
    figure.update_yaxes(title="Budget ε", rangemode="tozero")
    share = table["new_epsilon"] / table["epsilon"]
    most, least = table.iloc[int(share.argmax())], table.iloc[int(share.argmin())]
    moves = ", ".join(
        f"{row['module'].removeprefix('model.')} {two_digits(row['epsilon'])} → {two_digits(row['new_epsilon'])}"
        for row in (most, least)
    )
    total = float((table["epsilon"] ** 2).sum())
    return finish(
        figure,
        f"More budget for {int((share > 1).sum())} of {len(table)} modules, under the same total: {moves}.",
        f"ε per module, old and new; Σ ε² stays {two_digits(total)}. Within a layer: {', '.join(kinds)}.",
        360,
    )


def _places(table: pd.DataFrame, kinds: list[str]) -> np.ndarray:
    """Return where modules stand on an axis of layers: kinds side by side, one module always at the same place."""
    place = (np.array([kinds.index(name) for name in table["kind"]], dtype=np.float64) + 0.5) / len(kinds) - 0.5
    return table["layer"].to_numpy(np.float32) + np.float32(0.8) * place


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
