"""Small updates turned by an angle: where their energy goes, what they change, and how two of them merge."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from hiplora.figures.style import NULL, OVERALL, PRINCIPAL, RESIDUAL, adapter_colors, finish, percent

_PAIR = ("first", "second")
_SECOND = "Second adapter (0°: same directions, 90°: own)"
_CHANGE = "Change of the output ‖ΔW x‖ / ‖W₀ x‖"


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
    """Draw how much the rotated update changes outputs, over the angle: thick for all inputs, thin for either kind.

    Args:
        effects: from `hiplora.learn.rotation_effects`; one of its rows is at `angle`.
        angle: the present position, degrees.
    """
    curves = [
        ("typical", "typical inputs", PRINCIPAL, "dot"),
        ("rare", "rare inputs (tail)", RESIDUAL, "dash"),
        ("all", "all inputs", OVERALL, "solid"),
    ]
    figure = _over_angle(effects, angle, curves, "Angle (0°: principal, 90°: residual)", _CHANGE)
    figure.update_traces(line_width=2, selector={"mode": "lines"})
    figure.update_traces(line_width=7, line_simplify=False, selector={"mode": "lines", "name": "all inputs"})
    here, start, end = _row_at(effects, angle), effects.iloc[0], effects.iloc[-1]
    return finish(
        figure,
        f"At {angle:g}° outputs change by {_share(here['all'])} over all inputs: typical ones by "
        f"{_share(here['typical'])}, rare ones by {_share(here['rare'])}.",
        f"From principal to residual: over all inputs {_share(start['all'])} → {_share(end['all'])}, of which "
        f"{_share(here['rare_share'])} are rare. The update's size is the same throughout; root mean squares.",
        380,
    )


def merge_error(effects: pd.DataFrame, angle: float) -> go.Figure:
    """Draw how much each of two merged updates disturbs the other's task, over the angle between them.

    Args:
        effects: from `hiplora.learn.merge_effects`; one of its rows is at `angle`.
        angle: the present position, degrees.
    """
    colors = adapter_colors(pd.Series(_PAIR))
    curves = [
        (f"{name}_error", f"task of the {name}", colors[name], dash)
        for name, dash in zip(_PAIR, ("solid", "dot"), strict=True)
    ]
    figure = _over_angle(effects, angle, curves, _SECOND, "‖ΔW<sub>other</sub> x‖ / ‖ΔW<sub>own</sub> x‖")
    share = _share(_row_at(effects, angle)["first_error"])
    return finish(
        figure,
        f"At {angle:g}° the other adapter disturbs a task by {share} of the task's own effect.",
        "On the inputs that the task's own adapter reacts to; 100 %: as large a change as that adapter's own. Here "
        "both tasks suffer equally.",
        380,
    )


def merge_typical(effects: pd.DataFrame, angle: float) -> go.Figure:
    """Draw how much the sum of two updates changes the outputs of typical inputs, over the angle between them.

    Args:
        effects: from `hiplora.learn.merge_effects`; one of its rows is at `angle`.
        angle: the present position, degrees.
    """
    figure = _over_angle(effects, angle, [("typical_merged", "both merged", PRINCIPAL, "solid")], _SECOND, _CHANGE)
    figure.add_scatter(
        x=effects["angle"],
        y=effects["typical_first"],
        mode="lines",
        name="the first alone",
        line={"color": adapter_colors(pd.Series(_PAIR))[_PAIR[0]], "width": 2, "dash": "dash"},
        hovertemplate="%{y:.2%}<extra>the first alone</extra>",
    )
    here = _row_at(effects, angle)
    return finish(
        figure,
        f"At {angle:g}° the merge changes typical outputs by {_share(here['typical_merged'])}, the first adapter alone "
        f"by {_share(here['typical_first'])}.",
        "Inputs as strong in each direction as the weight is; root mean squares over all of them.",
        380,
    )


def _over_angle(
    effects: pd.DataFrame, angle: float, curves: Sequence[tuple[str, str, str, str]], x: str, y: str
) -> go.Figure:
    """Return curves over the angle, with the present position marked on each.

    Args:
        effects: one row per angle.
        angle: the present position, degrees.
        curves: column, name, color and dash of each.
        x: title of the axis of angles.
        y: title of the axis of shares.
    """
    figure, here = go.Figure(), _row_at(effects, angle)
    for column, name, color, dash in curves:
        figure.add_scatter(
            x=effects["angle"],
            y=effects[column],
            mode="lines",
            name=name,
            legendgroup=column,
            line={"color": color, "width": 3, "dash": dash},
            hovertemplate=f"%{{x}}°: %{{y:.2%}}<extra>{name}</extra>",
        )
        figure.add_scatter(
            x=[angle],
            y=[here[column]],
            mode="markers",
            name=f"{name}, now",
            legendgroup=column,
            showlegend=False,
            marker={"color": color, "size": 13, "line": {"color": "#FFFFFF", "width": 2}},
            hovertemplate=f"now, %{{x}}°: %{{y:.2%}}<extra>{name}</extra>",
        )
    figure.add_vline(x=angle, line={"color": NULL, "width": 1.5, "dash": "dot"})
    figure.update_xaxes(title=x, dtick=15, range=[-3, 93], ticksuffix="°")
    return figure.update_yaxes(title=y, tickformat=".0%", rangemode="tozero")


def _row_at(effects: pd.DataFrame, angle: float) -> pd.Series:
    return effects.loc[effects["angle"] == angle].iloc[0]


def _share(value: float) -> str:
    """Return a percentage, 0 below single precision, in which the singular vectors are kept."""
    return percent(value if value > 1e-6 else 0.0)
