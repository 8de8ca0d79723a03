"""What each block of an update causes, beside its control."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hiplora.figures.scales import Scale, scale_of
from hiplora.figures.style import NULL, adapter_colors, blocks_of, finish, two_digits

_CONTROL = "its control: the whole update, scaled to the same norm"


def block_effects(table: pd.DataFrame) -> go.Figure:
    """Draw what is kept of the base and of the task after each edit, each beside its norm-matched control.

    Args:
        table: of one update, from `hiplora.effects.ablation`.
    """
    adapter, scale = table["adapter"].iloc[0], scale_of(table)
    color = adapter_colors(table["adapter"])[adapter]
    panels = [panel for panel in scale.panels if table[panel[0]].notna().any()]
    figure = make_subplots(1, len(panels), shared_yaxes=True, horizontal_spacing=0.05)
    rows = np.arange(len(table), dtype=np.float32)
    for column, (own, title) in enumerate(panels, start=1):
        control = f"control_{own}"
        pairs = table[[own, control]].to_numpy(np.float32)
        # A line from each control to its edit, broken between the rows.
        gaps = np.full(len(table), np.nan, np.float32)
        figure.add_scatter(
            x=np.column_stack([pairs[:, 0], pairs[:, 1], gaps]).ravel(),
            y=np.column_stack([rows, rows, gaps]).ravel(),
            mode="lines",
            line={"color": NULL, "width": 2},
            hoverinfo="skip",
            showlegend=False,
            row=1,
            col=column,
        )
        marks = (
            (control, _CONTROL, NULL, "circle-open"),
            (own, "the edit", color, "circle"),
        )
        for name, legend, shade, symbol in marks:
            figure.add_scatter(
                x=table[name].to_numpy(np.float32),
                y=rows,
                mode="markers",
                name=legend,
                legendgroup=legend,
                showlegend=column == 1,
                marker={"color": shade, "symbol": symbol, "size": 12, "line": {"width": 2, "color": shade}},
                customdata=np.column_stack([table["edit"], table["norm"].map(lambda norm: f"{norm:.2f}")]),
                hovertemplate=f"<b>%{{customdata[0]}}</b>, norm x %{{customdata[1]}}: %{{x:{scale.hover}}}"
                f"<extra>{legend}</extra>",
                row=1,
                col=column,
            )
        if f"base_{own}" in table:
            note = {"annotation_text": "the base", "annotation_position": "bottom right"}
            figure.add_vline(
                table[f"base_{own}"].iloc[0], line={"color": NULL, "dash": "dot"}, **note, row=1, col=column
            )
        figure.update_xaxes(title=title, tickformat=scale.tick, row=1, col=column)
    figure.update_yaxes(range=[len(table) - 0.5, -0.5], zeroline=False)
    figure.update_yaxes(tickvals=rows, ticktext=table["edit"].tolist(), row=1, col=1)
    return finish(
        figure,
        _finding(table, adapter, scale),
        f"{scale.source} An edit says something only where it differs from its control: less of almost anything helps "
        f"an update that has learned more than it needs.{blocks_of(table)}",
        150 + 34 * len(table),
    )


def energy_damage(table: pd.DataFrame) -> go.Figure:
    """Draw what each edit costs of the base per unit of its energy, with its interval, beside its control.

    Args:
        table: of one update, from `hiplora.effects.ablation`.
    """
    adapter, scale = table["adapter"].iloc[0], scale_of(table)
    color = adapter_colors(table["adapter"])[adapter]
    table = table[table["damage_per_energy"].notna()]
    figure = go.Figure()
    rows = np.arange(len(table), dtype=np.float32)
    value = table["damage_per_energy"]
    whiskers = {
        "type": "data",
        "array": (table["damage_per_energy_high"] - value).to_numpy(np.float32),
        "arrayminus": (value - table["damage_per_energy_low"]).to_numpy(np.float32),
    }
    for column, legend, shade, symbol, bars in (
        ("control_damage_per_energy", _CONTROL, NULL, "circle-open", None),
        ("damage_per_energy", "the edit, with its 95 % interval", color, "circle", whiskers),
    ):
        figure.add_scatter(
            x=table[column].to_numpy(np.float32),
            y=rows,
            mode="markers",
            name=legend,
            error_x=bars,
            marker={"color": shade, "symbol": symbol, "size": 12, "line": {"width": 2, "color": shade}},
            customdata=np.column_stack([table["edit"], table["norm"].map(lambda norm: f"{norm**2:.1%}")]),
            hovertemplate=f"<b>%{{customdata[0]}}</b>, %{{customdata[1]}} of the energy: %{{x:{scale.hover}}}"
            f"<extra>{legend}</extra>",
        )
    figure.update_xaxes(title=scale.damage_title, tickformat=scale.tick)
    figure.update_yaxes(range=[len(table) - 0.5, -0.5], zeroline=False, tickvals=rows, ticktext=table["edit"].tolist())
    return finish(
        figure,
        _costliest(table, adapter, scale),
        f"{scale.source} What is lost of the base, over the edit's share of the update's energy; the interval "
        f"resamples what was scored.{blocks_of(table)}",
        150 + 34 * len(table),
    )


def _finding(table: pd.DataFrame, adapter: str, scale: Scale) -> str:
    trained = table.iloc[0]
    fine = table[table["keeps_task"] & (table["gain_low"] > 0)]
    if fine.empty:
        return f"No part of {adapter} can go for the base's sake without losing more than its size accounts for."
    best = fine.to_dict("records")[int((scale.better * fine[scale.kept]).to_numpy().argmax())]
    edit = str(best["edit"])
    kept, before, control = (scale.words(row) for row in (best[scale.kept], trained[scale.kept], best[scale.control]))
    if scale.better < 0:
        return (
            f"{edit[0].upper()}{edit[1:]}, {adapter} reads the kept text at {kept} a token instead of {before}, and "
            f"keeps its task; scaled to the same norm at {control}."
        )
    return (
        f"{edit[0].upper()}{edit[1:]}, {adapter} keeps {kept} of the base instead of {before}, and its task; scaled to "
        f"the same norm it keeps {control}."
    )


def _costliest(table: pd.DataFrame, adapter: str, scale: Scale) -> str:
    alone = table[table["edit"].str.endswith("alone")]
    if alone.empty:
        return f"What {adapter} costs of the base per unit of energy."
    top = max(alone.to_dict("records"), key=lambda row: row["damage_per_energy"])
    if top["damage_per_energy_low"] <= 0:
        return f"No block of {adapter} alone costs the base more than these examples can tell from nothing."
    times = top["damage_per_energy"] / table["damage_per_energy"].iloc[0]
    beside = f", {two_digits(times)} times that of the whole update" if times > 0 else ""
    return (
        f"Alone, {str(top['edit']).removesuffix(' alone')} costs the base the most per unit of energy: "
        f"{scale.words(top['damage_per_energy'])}{beside}."
    )
