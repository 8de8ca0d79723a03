"""One mark per module, its layer on the x axis, or a cell of a map: tightness, shadow price, budgets moved."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from hiplora.figures.axes import layer_axis, log_axis, spans_two_decades
from hiplora.figures.heatmap import module_map
from hiplora.figures.style import (
    BUDGET,
    NULL,
    PRINCIPAL,
    adapter_colors,
    adapter_symbols,
    finish,
    of_any_geometry,
    row_of_max,
    two_digits,
)

_MOST_LAYERS = 8
"""More are a map: their marks would be a cloud."""
_WHITE = "How much of the budget each module spends, √cost / ε; white: the budget is spent."


@of_any_geometry
def tightness_by_layer(table: pd.DataFrame) -> go.Figure:
    """Draw the tightness of every module against its layer, with the budget as a line at 1.

    Many layers become a map of layers x modules, white where the budget is spent.

    Args:
        table: the layer table.
    """
    over = (table["tightness"] > 1).groupby(table["adapter"], sort=False, observed=True).agg(["sum", "size"])
    words = ", ".join(f"{name} {row['sum']} of {row['size']}" for name, row in over.iterrows())
    title = f"Modules over the budget: {words}."
    if table["layer"].nunique() > _MOST_LAYERS:
        return module_map(table, "tightness", "budget", "tightness", title=title, subtitle=_WHITE)
    kinds = list(dict.fromkeys(table["kind"]))
    numbered = table[table["layer"].notna() & (table["tightness"] > 0)]
    figure = go.Figure()
    for adapter, marker in _adapter_markers(table).items():
        part = numbered[numbered["adapter"] == adapter]
        _draw_marks(
            figure, part, kinds, "tightness", adapter, marker,
            "tightness %{y:.3g}<br>ε = %{customdata[1]}<br>relative norm %{customdata[2]}",
            [part["epsilon"], part["relative_norm"].map(two_digits)],
        )  # fmt: skip
    figure.add_hline(y=1, line={"color": BUDGET, "width": 2}, name="budget spent", showlegend=True)
    values = numbered["tightness"]
    figure.update_xaxes(**layer_axis(numbered["layer"].astype(int).tolist()))
    linear = {"range": [0, 1.1 * max([1.0, *values])]}
    figure.update_yaxes(
        title="Tightness √cost / ε (1 = budget spent)", **(log_axis(values) if spans_two_decades(values) else linear)
    )
    return finish(
        figure,
        title,
        f"One mark per module; within a layer: {', '.join(kinds)}.",
        440,
    )


@of_any_geometry
def ledger(table: pd.DataFrame) -> go.Figure:
    """Draw what updates spend of a shared budget, one on top of another, with the budget as a line at 1.

    Args:
        table: from `hiplora.measures.ledger_table`, with at least one row.
    """
    last = table[table["position"] == table["position"].max()]
    fullest, over = row_of_max(last, "together"), int((last["together"] > 1).sum())
    title = f"Together they overspend a shared budget in {over} of {len(last)} modules"
    if not over and fullest is not None:
        title = (
            f"Together they stay within a shared budget; least is left in {fullest['module'].removeprefix('model.')}"
        )
        title += f", {fullest['left']:.0%}"
    if table["layer"].nunique() > _MOST_LAYERS:
        all_of_them = last.assign(adapter="all together")
        return module_map(all_of_them, "together", "budget", "spent together", title=f"{title}.", subtitle=_WHITE)
    kinds = list(dict.fromkeys(table["kind"]))
    numbered = table[table["layer"].notna()]
    figure = go.Figure()
    for adapter, marker in _adapter_markers(table).items():
        part = numbered[numbered["adapter"] == adapter]
        name = f"{'on top: ' if len(part) and part['position'].iloc[0] > 1 else ''}{adapter}"
        _draw_marks(
            figure, part, kinds, "together", name, marker,
            "together %{y:.3g}<br>if independent %{customdata[2]}<br>this one alone %{customdata[1]}"
            "<br>left for any next one %{customdata[3]}",
            [part[column].map(two_digits) for column in ("tightness", "independent", "left")],
        )  # fmt: skip
    bar = {"color": NULL, "symbol": "line-ew", "size": 9, "line": {"width": 2, "color": NULL}}
    chance = last[last["layer"].notna()]
    _draw_marks(figure, chance, kinds, "independent", "all, if independent", bar, "if independent %{y:.3g}")
    figure.add_hline(y=1, line={"color": BUDGET, "width": 2}, name="budget spent", showlegend=True)
    values = numbered["together"]
    figure.update_xaxes(**layer_axis(numbered["layer"].astype(int).tolist()))
    figure.update_yaxes(
        title="Spent together, √cost / ε (1 = budget spent)", range=[0, 1.1 * max([1.0, *values.dropna()])]
    )
    return finish(
        figure,
        f"{title}.",
        "The tightness of the sum of each adapter and all before it, in the order of the sidebar. What is left, any "
        f"next adapter may spend, whatever its direction. Within a layer: {', '.join(kinds)}.",
        440,
    )


def prices_by_module(table: pd.DataFrame) -> go.Figure:
    """Draw the shadow price of every module against its layer, with a line at 0.

    Args:
        table: `adapter, module, layer, kind, tightness, epsilon, shadow_price`, with at least one row.
    """
    kinds = list(dict.fromkeys(table["kind"]))
    figure = go.Figure()
    figure.add_hline(y=0, line={"color": NULL, "width": 1})
    words = []
    for adapter, marker in _adapter_markers(table).items():
        part = table[table["adapter"] == adapter]
        numbered = part[part["layer"].notna()]
        _draw_marks(
            figure, numbered, kinds, "shadow_price", adapter, marker,
            "shadow price %{y:.3g}<br>tightness %{customdata[1]}", [numbered["tightness"].map(two_digits)],
            showlegend=True,
        )  # fmt: skip
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
        "How fast the task loss falls when a module may spend more, as last measured in training. One mark per module; "
        f"within a layer: {', '.join(kinds)}.",
        400,
    )


def reallocated_budgets(table: pd.DataFrame) -> go.Figure:
    """Draw the budget of every module before and after reallocation, joined by a line.

    Args:
        table: `module, layer, kind, epsilon, new_epsilon`, with at least one row.
    """
    kinds = list(dict.fromkeys(table["kind"]))
    numbered = table[table["layer"].notna()]
    # Lines between old and new, with a gap after each.
    x, gap = places(numbered, kinds), np.full(len(numbered), np.nan, np.float32)
    old, new = (numbered[column].to_numpy(np.float32) for column in ("epsilon", "new_epsilon"))
    figure = go.Figure()
    figure.add_scatter(
        x=np.column_stack([x, x, gap]).ravel(),
        y=np.column_stack([old, new, gap]).ravel(),
        mode="lines",
        line={"color": NULL, "width": 1},
        hoverinfo="skip",
        showlegend=False,
    )
    bar = {"color": NULL, "symbol": "line-ew", "size": 9, "line": {"width": 2, "color": NULL}}
    dot = {"color": PRINCIPAL, "symbol": "circle", "size": 7}
    for column, name, marker in (("epsilon", "ε so far", bar), ("new_epsilon", "ε of the next run", dot)):
        _draw_marks(figure, numbered, kinds, column, name, marker, "%{y:.4g}")
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


def _adapter_markers(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the look of the marks of each adapter in the table."""
    colors, symbols = adapter_colors(table["adapter"]), adapter_symbols(table["adapter"])
    return {
        name: {"color": colors[name], "symbol": symbols[name], "size": 8} for name in dict.fromkeys(table["adapter"])
    }


def _draw_marks(
    figure: go.Figure,
    table: pd.DataFrame,
    kinds: list[str],
    column: str,
    name: str,
    marker: dict[str, Any],
    hover: str,
    details: Sequence[pd.Series] = (),
    **trace: Any,
) -> None:
    """Draw a column of modules with a layer as marks; `details` fill `%{customdata[1]}` and on in the hover."""
    figure.add_scatter(
        x=places(table, kinds),
        y=table[column].to_numpy(np.float32),
        mode="markers",
        name=name,
        marker=marker,
        customdata=np.column_stack([table["module"], *details]),
        hovertemplate=f"<b>%{{customdata[0]}}</b><br>{hover}<extra>{name}</extra>",
        **trace,
    )


def places(table: pd.DataFrame, kinds: list[str]) -> np.ndarray:
    """Return where modules stand on an axis of layers: kinds side by side, one module always at the same place."""
    place = (np.array([kinds.index(name) for name in table["kind"]], dtype=np.float64) + 0.5) / len(kinds) - 0.5
    return table["layer"].to_numpy(np.float32) + np.float32(0.8) * place
