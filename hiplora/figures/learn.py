"""The page Learn: one small weight to turn and merge updates on, and one sentence through the demo's adapters."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hiplora.figures.style import (
    BASE,
    BUDGET,
    MIXED,
    NULL,
    PRINCIPAL,
    RESIDUAL,
    adapter_colors,
    finish,
    layer_axis,
    log_axis,
    percent,
    percent_format,
    two_digits,
)

_CHANNELS = (
    ("principal", "principal channel", PRINCIPAL, "circle", "solid"),
    ("mixed", "mixed blocks", MIXED[0], "x", "dot"),
    ("residual", "residual channel", RESIDUAL, "square", "solid"),
)

_PAIR = ("first", "second")
_SECOND = "Second adapter (0°: same directions, 90°: own)"


def rotation_energy(directions: pd.DataFrame, k: int) -> go.Figure:
    """Draw the share of a rotated update's energy on each right singular direction, with its mean by chance.

    Args:
        directions: from `hiplora.learn.rotation_directions`.
        k: principal rank.
    """
    principal = directions["direction"] <= k
    figure = go.Figure()
    for chosen, name, color in ((principal, "principal", PRINCIPAL), (~principal, "residual", RESIDUAL)):
        part = directions[chosen]
        figure.add_bar(
            x=part["direction"],
            y=part["right"],
            name=f"{name} directions",
            marker_color=color,
            customdata=part["sigma"],
            hovertemplate="direction %{x}, σ = %{customdata:.3g}<br>%{y:.2%} of the update's energy<extra></extra>",
        )
    chance = float(directions["right_null"].iloc[0])
    figure.add_hline(y=chance, line={"color": NULL, "dash": "dash", "width": 2}, name="by chance", showlegend=True)
    figure.update_xaxes(title="Singular direction of the weight, leading first", dtick=1)
    figure.update_yaxes(title="Share of the update's energy", tickformat=".0%", range=[0, 1.02])
    share = float(directions.loc[principal, "right"].sum())
    return finish(
        figure,
        f"{_share(share)} of the update's energy lies on principal directions, {_share(1 - share)} on residual ones.",
        f"Principal: the leading {k} directions. Energy on each right singular direction; the left ones are alike. "
        f"By chance a direction has {percent(chance)}.",
        340,
    )


def rotation_effect(effects: pd.DataFrame, angle: float) -> go.Figure:
    """Draw how much the rotated update changes the outputs of typical and of rare inputs, over the angle.

    Args:
        effects: from `hiplora.learn.rotation_effects`; one of its rows is at `angle`.
        angle: the present position, degrees.
    """
    figure = go.Figure()
    lines = (("typical", "typical inputs", PRINCIPAL, "solid"), ("rare", "rare inputs (tail)", RESIDUAL, "dash"))
    here = _row_at(effects, angle)
    for column, name, color, dash in lines:
        _curve_with_mark(figure, effects, column, here, name, color, dash)
    _angle_axis(figure, angle, "Angle (0°: principal, 90°: residual)")
    figure.update_yaxes(title="Change of the output ‖ΔW x‖ / ‖W₀ x‖", tickformat=".0%", rangemode="tozero")
    start, end = effects.iloc[0], effects.iloc[-1]
    return finish(
        figure,
        f"At {angle:g}° typical outputs change by {_share(here['typical'])}, rare ones by {_share(here['rare'])}.",
        f"From principal to residual: typical {_share(start['typical'])} → {_share(end['typical'])}, "
        f"rare {_share(start['rare'])} → {_share(end['rare'])}. The update's size is the same throughout; root mean "
        "squares over all such inputs.",
        380,
    )


def core_budget(cores: pd.DataFrame, section: pd.DataFrame, reach: float = 0.17) -> go.Figure:
    """Draw the budget in the plane of `C11` and `C22`, with the raw core and what the hard limit makes of it.

    Args:
        cores: from `hiplora.learn.budget_cores`.
        section: from `hiplora.learn.budget_sections`, one block of rows per `C12`.
        reach: how far the axes go.
    """
    figure = go.Figure()
    raw, effective = (cores[cores["core"] == name].iloc[0] for name in ("raw", "effective"))
    blocks = [section[section["c12"] == c12] for c12 in dict.fromkeys(section["c12"])]
    for part in blocks:
        c12 = float(part["c12"].iloc[0])
        here = c12 == raw["c12"]
        figure.add_scatter(
            x=part["c11"],
            y=part["c22"],
            mode="lines",
            line={"color": BUDGET, "width": 2, "dash": "solid" if here else "dot"},
            fill="toself" if here else None,
            fillcolor="rgba(138,138,138,0.15)",
            name=f"budget spent, at C₁₂ = {two_digits(c12)}",
            hovertemplate="C₁₁ = %{x:.3f}<br>C₂₂ = %{y:.3f}<extra>tightness 1</extra>",
        )
    limited = raw["tightness"] > 1
    if limited:
        figure.add_scatter(
            x=[raw["c11"], effective["c11"]],
            y=[raw["c22"], effective["c22"]],
            mode="lines",
            line={"color": PRINCIPAL, "width": 2, "dash": "dot"},
            hoverinfo="skip",
            showlegend=False,
        )
    for core, symbol in ((raw, "circle-open"), (effective, "circle")):
        figure.add_scatter(
            x=[core["c11"]],
            y=[core["c22"]],
            mode="markers",
            name=f"{core['core']} core",
            marker={"color": PRINCIPAL, "symbol": symbol, "size": 13, "line": {"color": PRINCIPAL, "width": 2.5}},
            customdata=[[core["tightness"], core["cost"], core["c12"]]],
            hovertemplate="C₁₁ = %{x:.3f}, C₂₂ = %{y:.3f}, C₁₂ = %{customdata[2]:.3f}<br>tightness "
            "%{customdata[0]:.3g}<br>cost %{customdata[1]:.3g}<extra>" + core["core"] + " core</extra>",
        )
    figure.update_xaxes(title="C₁₁, where σ₁ = 1", range=[-reach, reach], constrain="domain")
    figure.update_yaxes(title="C₂₂, where σ₂ = ½", range=[-reach, reach], scaleanchor="x", scaleratio=1)
    tight = two_digits(raw["tightness"])
    if limited:
        title = f"Tightness {tight}: the hard limit scales the core to {percent(1 / raw['tightness'])} of itself."
    else:
        title = f"Tightness {tight}: the core is within the budget and passes unchanged."
    at_raw = section[section["c12"] == raw["c12"]]
    if len(at_raw):
        widest = at_raw[["c11", "c22"]].max()
        words = (
            f"Alone at this C₁₂, C₁₁ may reach {two_digits(widest['c11'])} and C₂₂ {two_digits(widest['c22'])}: "
            "the leading direction is the dearer one."
            if widest["c11"] < 0.999 * widest["c22"]
            else f"Alone at this C₁₂, C₁₁ and C₂₂ may both reach {two_digits(widest['c11'])}."
        )
    else:
        words = "This C₁₂ alone spends more than the budget: no C₁₁ and C₂₂ are within it."
    return finish(figure, title, f"Grey: cost(C) = ε². {words}", 480)


def merge_error(effects: pd.DataFrame, angle: float) -> go.Figure:
    """Draw how much each of two merged updates disturbs the other's task, over the angle between them.

    Args:
        effects: from `hiplora.learn.merge_effects`; one of its rows is at `angle`.
        angle: the present position, degrees.
    """
    figure = go.Figure()
    here, colors = _row_at(effects, angle), adapter_colors(pd.Series(_PAIR))
    for name, dash in zip(_PAIR, ("solid", "dot"), strict=True):
        _curve_with_mark(figure, effects, f"{name}_error", here, f"task of the {name}", colors[name], dash)
    _angle_axis(figure, angle, _SECOND)
    figure.update_yaxes(title="‖ΔW<sub>other</sub> x‖ / ‖ΔW<sub>own</sub> x‖", tickformat=".0%", rangemode="tozero")
    return finish(
        figure,
        f"At {angle:g}° the other adapter disturbs a task by {_share(here['first_error'])} of the task's own effect.",
        "On the inputs that the task's own adapter reacts to; 100 %: as large a change as the own one makes. Here "
        "both tasks suffer alike.",
        380,
    )


def merge_typical(effects: pd.DataFrame, angle: float) -> go.Figure:
    """Draw how much the sum of two updates changes the outputs of typical inputs, over the angle between them.

    Args:
        effects: from `hiplora.learn.merge_effects`; one of its rows is at `angle`.
        angle: the present position, degrees.
    """
    figure = go.Figure()
    here, first = _row_at(effects, angle), adapter_colors(pd.Series(_PAIR))[_PAIR[0]]
    _curve_with_mark(figure, effects, "typical_merged", here, "both merged", PRINCIPAL, "solid")
    figure.add_scatter(
        x=effects["angle"],
        y=effects["typical_first"],
        mode="lines",
        name="the first alone",
        line={"color": first, "width": 2, "dash": "dash"},
        hovertemplate="%{y:.2%}<extra>the first alone</extra>",
    )
    _angle_axis(figure, angle, _SECOND)
    figure.update_yaxes(title="Change of the output ‖ΔW x‖ / ‖W₀ x‖", tickformat=".0%", rangemode="tozero")
    return finish(
        figure,
        f"At {angle:g}° the merge changes typical outputs by {_share(here['typical_merged'])}, the first adapter alone "
        f"by {_share(here['typical_first'])}.",
        "Inputs as strong in each direction as the weight is; root mean squares over all of them.",
        380,
    )


def probe_effects(effects: pd.DataFrame) -> go.Figure:
    """Draw how much each channel of each adapter changes the layers' outputs for one sentence.

    Args:
        effects: from `hiplora.demo.sentence.layer_effects`.
    """
    adapters = list(dict.fromkeys(effects["adapter"]))
    figure = make_subplots(
        rows=1, cols=len(adapters), shared_yaxes=True, subplot_titles=adapters, horizontal_spacing=0.05
    )
    # Mixed blocks below a ten-thousandth of the rest are rounding: they would only stretch a logarithmic axis.
    largest = effects[["principal", "residual"]].max(axis=1)
    table = effects.assign(mixed=effects["mixed"].where(effects["mixed"] > 1e-4 * largest))
    for col, adapter in enumerate(adapters, start=1):
        part = table[table["adapter"] == adapter]
        for column, name, color, symbol, dash in _CHANNELS:
            figure.add_scatter(
                x=part["layer"].astype(int),
                y=part[column].where(part[column] > 0),
                mode="lines+markers",
                name=name,
                line={"color": color, "width": 2, "dash": dash},
                marker={"symbol": symbol, "size": 8},
                legendgroup=column,
                showlegend=col == 1,
                row=1,
                col=col,
                hovertemplate="layer %{x}<br>%{y:.3%} of the output<extra>" + name + "</extra>",
            )
    shown = pd.concat([table[column][table[column] > 0] for column, *_ in _CHANNELS])
    spans = len(shown) > 0 and shown.max() / shown.min() > 30
    figure.update_xaxes(**layer_axis(table["layer"].astype(int).tolist()))
    if spans:
        axis = log_axis(shown)
        figure.update_yaxes(**axis | {"ticktext": [f"{100 * tick:g} %" for tick in axis["tickvals"]]})  # type: ignore[attr-defined]
    else:
        figure.update_yaxes(rangemode="tozero", tickformat=percent_format(float(shown.max()) if len(shown) else 0.0))
    figure.update_yaxes(title="‖ΔW x‖ / ‖W₀ x‖, by channel", row=1, col=1)
    means = table.groupby("adapter", sort=False)[["principal", "mixed", "residual"]].mean()
    words = "; ".join(
        f"{name} {percent(row['principal'])} principal, {percent(row['residual'])} residual"
        + (f", {percent(row['mixed'])} mixed" if row["mixed"] > 0 else "")
        for name, row in means.iterrows()
    )
    return finish(
        figure,
        f"Change of a layer's output, by channel: {words}.",
        "Mean over layers in the title. This sentence only: x are the inputs of each linear map while it passes "
        "through the adapted model, all its characters and all maps of a layer together.",
        400,
        panels=True,
    )


def next_tokens(tokens: pd.DataFrame) -> go.Figure:
    """Draw the probabilities of the most likely next characters, model by model.

    Args:
        tokens: from `hiplora.demo.sentence.Probe.next_tokens`; the base comes first.
    """
    models = list(dict.fromkeys(tokens["model"]))
    base, adapters = models[0], models[1:]
    colors = {base: BASE} | adapter_colors(pd.Series(adapters, dtype=object))
    figure = go.Figure()
    for model in models:
        part = tokens[tokens["model"] == model]
        figure.add_bar(
            x=part["token"],
            y=part["probability"],
            name=model,
            marker_color=colors[model],
            hovertemplate="“%{x}”: %{y:.2%}<extra>" + model + "</extra>",
        )
    text = tokens["text"].iloc[0]
    figure.update_xaxes(title=f"Next character after “{text}”", type="category")
    figure.update_yaxes(title="Probability", tickformat=".0%", range=[0, 1.02])
    columns = ("model", "token", "probability")
    best = tokens.loc[tokens.groupby("model", sort=False)["probability"].idxmax()]
    words = ", ".join(f"{model} “{token}” ({percent(p)})" for model, token, p in zip(*(best[c] for c in columns)))
    return finish(
        figure,
        f"After “{text}” the likeliest is: {words}.",
        "Probability of the next character where the answers part, or of the first one where they do not.",
        340,
    )


def _row_at(table: pd.DataFrame, angle: float) -> pd.Series:
    return table.loc[table["angle"] == angle].iloc[0]


def _curve_with_mark(
    figure: go.Figure,
    table: pd.DataFrame,
    column: str,
    here: pd.Series,
    name: str,
    color: str,
    dash: str,
) -> None:
    """Draw a column over the angle, and the present position on it."""
    figure.add_scatter(
        x=table["angle"],
        y=table[column],
        mode="lines",
        name=name,
        legendgroup=column,
        line={"color": color, "width": 3, "dash": dash},
        hovertemplate="%{x}°: %{y:.2%}<extra>" + name + "</extra>",
    )
    figure.add_scatter(
        x=[here["angle"]],
        y=[here[column]],
        mode="markers",
        name=f"{name}, now",
        legendgroup=column,
        showlegend=False,
        marker={"color": color, "size": 13, "line": {"color": "#FFFFFF", "width": 2}},
        hovertemplate="now, %{x}°: %{y:.2%}<extra>" + name + "</extra>",
    )


def _share(value: float) -> str:
    """Return a percentage; singular vectors are kept in single precision, and what is below that is nothing."""
    return percent(value if value > 1e-6 else 0.0)


def _angle_axis(figure: go.Figure, angle: float, title: str) -> None:
    figure.add_vline(x=angle, line={"color": NULL, "width": 1.5, "dash": "dot"})
    figure.update_xaxes(title=title, dtick=15, range=[-3, 93], ticksuffix="°")
