"""The scores of adapters on their own task and on each skill of the base."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from hiplora.figures.style import BASE, NULL, adapter_colors, adapter_symbols, finish, percent


def skill_scores(table: pd.DataFrame) -> go.Figure:
    """Draw one mark per adapter and skill, the tasks above the base's skills, and the scores of the base.

    Args:
        table: from `skill_table`, with at least one row.
    """
    adapters = [name for name in adapter_colors(table["adapter"]) if (table["adapter"] == name).any()]
    colors, symbols = adapter_colors(table["adapter"]), adapter_symbols(table["adapter"])
    skills = list(dict.fromkeys(table.loc[table["role"] == "skill", "skill"]))
    tasks = table[table["role"] == "task"]
    rows = (["its task"] if len(tasks) else []) + skills
    figure = go.Figure()
    known = table[(table["role"] == "skill") & table["base"].notna()].drop_duplicates("skill")
    if len(known):
        figure.add_scatter(
            x=known["base"].to_numpy(np.float32),
            y=[rows.index(skill) for skill in known["skill"]],
            mode="markers",
            name="the base, before training",
            marker={"symbol": "line-ns", "size": 20, "line": {"color": BASE, "width": 3}},
            hovertemplate="%{x:.1%}<extra>the base</extra>",
        )
    for number, adapter in enumerate(adapters):
        part = table[table["adapter"] == adapter]
        places = part["skill"].where(part["role"] == "skill", "its task").map(rows.index)
        # Marks of one skill stand above each other, so that equal scores do not hide one another.
        shift = 0.5 * ((number + 0.5) / len(adapters) - 0.5)
        figure.add_scatter(
            x=part["score"].to_numpy(np.float32),
            y=places.to_numpy(np.float32) + np.float32(shift),
            mode="markers",
            name=adapter,
            marker={"color": colors[adapter], "symbol": symbols[adapter], "size": 11},
            customdata=part["skill"],
            hovertemplate="<b>%{customdata}</b> %{x:.1%}<extra>" + adapter + "</extra>",
        )
    lowest = float(np.nanmin(table[["score", "base"]].to_numpy(np.float64)))
    figure.update_xaxes(
        title="Score (share of exact answers)", tickformat=".0%", range=[max(lowest - 0.06, -0.02), 1.02]
    )
    figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=rows, range=[len(rows) - 0.5, -0.5], zeroline=False, title=None
    )
    if len(tasks):
        figure.add_hline(y=0.5, line={"color": NULL, "width": 1})
    return finish(
        figure,
        _kept(table, adapters),
        "Scores after training: on each adapter's own task and on the base's skills. In the title: mean over the "
        "skills of the score relative to the base's.",
        150 + 34 * len(rows),
    )


def _kept(table: pd.DataFrame, adapters: Sequence[str]) -> str:
    skills = table[table["role"] == "skill"]
    if skills.empty:
        scores = table.set_index("adapter")["score"]
        return "Own task learned: " + ", ".join(f"{name} {percent(scores[name])}" for name in adapters) + "."
    before = skills["base"].where(skills["base"] > 0)
    # A skill that the base never had cannot be lost.
    kept = (skills["score"] / before).where(before.notna(), 1.0) if before.notna().any() else skills["score"]
    means = kept.groupby(skills["adapter"], observed=True).mean()
    words = ", ".join(f"{name} {percent(value)}" for name, value in means.items())
    return f"Base skills kept: {words}."
