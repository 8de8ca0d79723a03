"""The energy of all modules together, octave by octave of their singular directions."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from hiplora.figures.axes import log_axis
from hiplora.figures.panels import PANELS, SIDES, null_traces, side_panels
from hiplora.figures.style import (
    adapter_colors,
    adapter_symbols,
    by_adapter,
    finish,
    of_any_geometry,
    row_of_max,
    two_digits,
)


@of_any_geometry
def octave_energy(table: pd.DataFrame) -> go.Figure:
    """Draw the energy of all modules together, octave by octave of their directions, as a multiple of chance.

    Args:
        table: from `octave_table`.
    """
    figure = side_panels()
    colors, symbols = adapter_colors(table["adapter"]), adapter_symbols(table["adapter"])
    labels = {
        start: "beyond" if start == 0 else f"{start}" if start == end else f"{start}–{end}"
        for start, end in zip(table["start"], table["end"], strict=True)
    }
    seen = []
    for col, side in enumerate(SIDES, start=1):
        known = table[table[f"{side}_null"] > 0]
        if known.empty:
            continue
        widest = known.groupby("adapter", sort=False, observed=True)[f"{side}_null_high"].sum().idxmax()
        null = known[known["adapter"] == widest]
        names = [labels[start] for start in null["start"]]
        low, high = ((null[f"{side}_null_{edge}"] / null[f"{side}_null"]).to_list() for edge in ("low", "high"))
        figure.add_traces(null_traces(names, (low, high), [1.0] * len(names), PANELS[col - 1]))
        for adapter, part in by_adapter(known):
            ratio = part[side] / part[f"{side}_null"]
            seen.append(ratio)
            figure.add_scatter(
                x=[labels[start] for start in part["start"]],
                y=ratio.where(ratio > 0).to_numpy(np.float32),
                mode="lines+markers",
                name=adapter,
                legendgroup=adapter,
                showlegend=col == 1,
                line={"color": colors[adapter], "width": 2},
                marker={"symbol": symbols[adapter], "size": 8},
                customdata=part[[side, f"{side}_null"]].to_numpy(np.float32),
                hovertemplate="directions %{x}<br>%{customdata[0]:.2%} of the energy, %{customdata[1]:.2%} by chance"
                f"<br>%{{y:.3g}}× chance<extra>{adapter}</extra>",
                row=1,
                col=col,
            )
    figure.update_xaxes(
        title="Octave of directions",
        type="category",
        categoryorder="array",
        categoryarray=[labels[start] for start in sorted(labels, key=lambda start: start or np.inf)],
        tickangle=-45,
    )
    figure.update_yaxes(**log_axis(pd.concat([*seen, pd.Series([1.0])])))
    figure.update_yaxes(title="Energy, multiple of chance", row=1, col=1)
    return finish(
        figure,
        _finding(table),
        "Energy of all modules together, by rank of the direction within its own weight, relative to a random update. "
        "Beyond: dimensions outside the known directions.",
        420,
        panels=True,
    )


def _finding(table: pd.DataFrame) -> str:
    sides = pd.DataFrame({side: table[side] / table[f"{side}_null"].where(table[f"{side}_null"] > 0) for side in SIDES})
    outside = [(table[side] > table[f"{side}_null_high"]) & (table[f"{side}_null"] > 0) for side in SIDES]
    means = table.assign(ratio=sides.mean(axis=1), above=outside[0] | outside[1])[table["start"] > 0]
    words, inside = [], []
    for adapter, part in by_adapter(means):
        top = row_of_max(part[part["above"]], "ratio") if part["above"].any() else None
        if top is not None:
            alone = top["start"] == top["end"]
            place = f"direction {top['start']}" if alone else f"directions {top['start']} to {top['end']}"
            words.append(f"{adapter} at {place} ({two_digits(top['ratio'])}×)")
        elif part["ratio"].notna().any():
            inside.append(adapter)
    sentences = [f"Furthest above chance: {', '.join(words)}."] if words else []
    sentences += [f"Nowhere above the band of random updates: {', '.join(inside)}."] if inside else []
    return " ".join(sentences) or "The updates are all zero."
