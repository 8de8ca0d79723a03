"""A small core in the plane of two of its entries, with the budget around it."""

import pandas as pd
import plotly.graph_objects as go

from hiplora.figures.style import BUDGET, PRINCIPAL, finish, percent, two_digits


def core_budget(cores: pd.DataFrame, sections: pd.DataFrame, reach: float = 0.17) -> go.Figure:
    """Draw the budget in the plane of `C11` and `C22`, with the raw core and the core under the hard limit.

    Args:
        cores: from `hiplora.learn.budget_cores`.
        sections: from `hiplora.learn.budget_sections`, one block of rows per `C12`.
        reach: largest entry that the axes show.
    """
    figure = go.Figure()
    raw, effective = (cores[cores["core"] == name].iloc[0] for name in ("raw", "effective"))
    for c12 in dict.fromkeys(sections["c12"]):
        part = sections[sections["c12"] == c12]
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
    at_raw = sections[sections["c12"] == raw["c12"]]
    if len(at_raw):
        widest = at_raw[["c11", "c22"]].max()
        words = (
            f"At this C₁₂, C₁₁ alone can grow to {two_digits(widest['c11'])}, C₂₂ to {two_digits(widest['c22'])}: "
            "the leading direction costs more."
            if widest["c11"] < 0.999 * widest["c22"]
            else f"At this C₁₂, either of C₁₁ and C₂₂ alone can grow to {two_digits(widest['c11'])}."
        )
    else:
        words = "This C₁₂ alone exceeds the budget, whatever C₁₁ and C₂₂ are."
    return finish(figure, title, f"Gray: cost(C) = ε². {words}", 480)
