"""One module through its training: the energy of its update by direction at each checkpoint."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from hiplora.figures.axes import direction_axis, log_ticks
from hiplora.figures.panels import PANELS, SIDES, octave_means, principal_bands, side_panels
from hiplora.figures.style import NULL, adapter_colors, finish, of_any_geometry, percent, two_digits


@of_any_geometry
def training_spectrum(table: pd.DataFrame, k: int) -> go.Figure:
    """Draw the energy of an update by direction at each checkpoint, with a slider and a button to play them.

    The frames are part of the figure: it plays in a saved HTML page too. The axes stay the same over all steps.

    Args:
        table: from `checkpoint_table`; a categorical `run` gives the run its place among the adapters, and color.
        k: principal rank.
    """
    run = str(table["run"].iloc[0])
    color = adapter_colors(table["run"])[run]
    by_step = {step: table[table["step"] == step] for step in sorted(table["step"].unique())}
    steps = list(by_step)
    energies = pd.concat([table["left"], table["right"]])
    top = float(energies.max()) if (energies > 0).any() else 1.0
    # Seven decades: anything below is rounding of the update, or the empty part of a split one.
    low = max(float(energies[energies > 0].min()) if (energies > 0).any() else 1e-7, top * 1e-7)
    figure = side_panels()
    frames = {str(step): _traces_at(part, run, color, low) for step, part in by_step.items()}
    figure.add_traces(frames[str(steps[-1])], rows=[1] * 6, cols=[1, 1, 1, 2, 2, 2])
    figure.frames = [
        go.Frame(name=name, data=traces, traces=list(range(len(traces)))) for name, traces in frames.items()
    ]
    figure.update_layout(shapes=principal_bands(k, PANELS))
    ticks = log_ticks(low / 2, top * 2)
    figure.update_yaxes(
        type="log",
        range=[np.log10(low / 2), np.log10(top * 2)],
        tickvals=ticks,
        ticktext=[f"{tick:g}" for tick in ticks],
    )
    figure.update_yaxes(title="Energy on the direction / ‖W₀‖²", row=1, col=1)
    figure.update_xaxes(title="Singular direction", **direction_axis(int(table["direction"].max())))
    shares = [
        part.loc[part["direction"] <= k, [f"{side}_share" for side in SIDES]].sum().mean() for part in by_step.values()
    ]
    moved = [float(part["relative_norm"].iloc[0]) for part in by_step.values()]
    finish(
        figure,
        f"{run} goes from {percent(shares[0])} to {percent(shares[-1])} of its energy on the top {k} directions.",
        f"Energy on each direction, from step {steps[0]} to {steps[-1]} (title: mean of both sides); relative norm "
        f"{two_digits(moved[0])} to {two_digits(moved[-1])}. Bold: octave means; dashed: one direction by chance.",
        570,
        panels=True,
    )
    return _with_player(figure, list(frames))


def _traces_at(part: pd.DataFrame, run: str, color: str, low: float) -> list[dict[str, Any]]:
    """Return the lines of one step: each direction, octave means and chance, on the left and on the right side."""
    traces = []
    directions = part["direction"].to_numpy(np.float32)
    for side in SIDES:
        values = part[side].to_numpy(np.float64)
        chance = part[f"{side}_null"].to_numpy(np.float64)[[0, 0]]
        each = {"name": run, "line": {"color": color, "width": 1}, "opacity": 0.45, "showlegend": False}
        means = {"name": f"{run}, octave means", "line": {"color": color, "width": 3, "shape": "hv"}}
        null = {"name": "by chance", "line": {"color": NULL, "width": 2, "dash": "dash"}}
        traces += [
            {"type": "scatter", "mode": "lines", "showlegend": side == "left"}
            # A logarithm needs a positive value; one below the axis is not visible.
            | {"x": x, "y": np.maximum(y, low * 1e-3).astype(np.float32)}
            | {**look, "hovertemplate": f"{hover}<extra></extra>"}
            for look, (x, y), hover in (
                (each, (directions, values), "direction %{x}<br>%{y:.3g} of the weight's energy"),
                (means, octave_means(directions, values), "from direction %{x}<br>%{y:.3g} on average"),
                (null, (directions[[0, -1]], chance), "%{y:.3g} by chance"),
            )
        ]
    return traces


def _with_player(figure: go.Figure, names: Sequence[str]) -> go.Figure:
    """Add a slider over the frames, which stands at the last one, and buttons to play and to pause."""

    def go_to(name: str | None, duration: int) -> list[object]:
        how = {"mode": "immediate", "frame": {"duration": duration, "redraw": False}, "transition": {"duration": 0}}
        return [[name] if name else None, how | {"fromcurrent": True}]

    pause = [[None], {"mode": "immediate", "frame": {"duration": 0, "redraw": False}, "transition": {"duration": 0}}]
    return figure.update_layout(
        sliders=[
            {
                "active": len(names) - 1,
                "steps": [{"label": name, "method": "animate", "args": go_to(name, 0)} for name in names],
                "currentvalue": {"prefix": "step ", "xanchor": "right"},
                "x": 0,
                "len": 1,
                "y": 0,
                "yanchor": "top",
                "pad": {"t": 46, "b": 4},
            }
        ],
        updatemenus=[
            {
                "type": "buttons",
                "direction": "left",
                "showactive": False,
                "x": 0,
                "xanchor": "left",
                "y": 0,
                "yanchor": "top",
                "pad": {"t": 128, "b": 4},
                "buttons": [
                    {"label": "▶", "method": "animate", "args": go_to(None, 400)},
                    {"label": "❚❚", "method": "animate", "args": pause},
                ],
            }
        ],
    )
