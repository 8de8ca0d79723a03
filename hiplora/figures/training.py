"""What a run does to its layers while it trains: tightness filling up, and the channels growing."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hiplora.figures.heatmap import color_axis, shown_values
from hiplora.figures.style import (
    MIXED,
    PRINCIPAL,
    RESIDUAL,
    adapter_colors,
    finish,
    log_axis,
    percent,
    row_of_max,
    two_digits,
)
from hiplora.measure_info import MeasureInfo

_TIGHTNESS = MeasureInfo("tightness", "Tightness", "", "", "", "budget", "")

_CHANNELS = (
    ("principal_norm", "principal ‖PP‖", PRINCIPAL, "solid"),
    ("mixed_norm", "mixed ‖PR + RP‖", MIXED[0], "dot"),
    ("residual_norm", "residual ‖RR‖", RESIDUAL, "solid"),
)


def tightness_history(table: pd.DataFrame, steps: int) -> go.Figure:
    """Draw the tightness of every module (rows, data order) at every measured step, one panel per run.

    All panels share one colour scale, whose middle is the budget.

    Args:
        table: from `layer_history`, with at least one row.
        steps: that the runs are to take; the part to come is left empty.
    """
    runs, info = list(adapter_colors(table["run"])), _TIGHTNESS
    places = table.drop_duplicates("module")[["module", "layer", "kind"]].reset_index(drop=True)
    table = table.assign(shown=shown_values(table, info))
    figure = make_subplots(
        rows=1, cols=len(runs), shared_yaxes=True, subplot_titles=runs, horizontal_spacing=0.1 / len(runs)
    )
    for col, run in enumerate(runs, start=1):
        part = table[table["run"] == run]
        grids = {
            name: part.pivot_table(index="module", columns="step", values=name, dropna=False).reindex(places["module"])
            for name in ("shown", "tightness")
        }
        if part.empty:
            continue
        figure.add_heatmap(
            z=grids["shown"].to_numpy(np.float32),
            x=grids["shown"].columns.to_numpy(),
            y=np.arange(len(places)),
            customdata=np.dstack(
                [
                    np.broadcast_to(places["module"].to_numpy()[:, None], grids["tightness"].shape),
                    grids["tightness"].map(two_digits).to_numpy(),
                ]
            ),
            coloraxis="coloraxis",
            hoverongaps=False,
            hovertemplate="<b>%{customdata[0]}</b><br>step %{x}<br>tightness %{customdata[1]}<extra>"
            + run
            + "</extra>",
            row=1,
            col=col,
        )
    # One label per layer: names of modules would take more room than what they name.
    starts = places.drop_duplicates("layer")
    figure.update_yaxes(
        range=[len(places) - 0.5, -0.5],
        tickvals=starts.index,
        ticktext=[str(layer) for layer in starts["layer"]],
        showgrid=False,
        zeroline=False,
    )
    figure.update_yaxes(title="Layer", row=1, col=1)
    figure.update_xaxes(title="Step", range=[0, steps], showgrid=False, zeroline=False)
    axis = color_axis(table["shown"], info)
    axis["colorbar"] |= {"title": {"text": "Tightness (1× = budget spent)", "side": "right"}}  # type: ignore[operator]
    figure.update_layout(coloraxis=axis)
    kinds = ", ".join(dict.fromkeys(places["kind"]))
    return finish(
        figure,
        _spent(table, runs),
        f"Tightness of each module over the steps; white: the budget is spent. Within a layer: {kinds}.",
        140 + int(np.clip(12 * len(places), 240, 560)),
        panels=True,
    )


def _spent(table: pd.DataFrame, runs: list[str]) -> str:
    """Say how much of its budget each run spends at most, as of its last measurement."""
    words = []
    for run in runs:
        part = table[table["run"] == run]
        top = row_of_max(part[part["step"] == part["step"].max()], "tightness")
        if top is None or not top["tightness"] > 0:
            words.append(f"{run} spends none of its budget yet")
            continue
        # What has no budget is measured against one all the same.
        spends = "spends {} of its budget" if np.isfinite(top["shadow_price"]) else "would spend {} of a budget"
        words.append(
            f"{run} {spends.format(percent(top['tightness']))} at most, in {top['module'].removeprefix('model.')}"
        )
    return "; ".join(words) + "."


def norm_history(table: pd.DataFrame, steps: int) -> go.Figure:
    """Draw principal, mixed and residual norm of all modules together over the steps, one panel per run.

    Args:
        table: from `layer_history`, with at least one row.
        steps: that the runs are to take.
    """
    runs = list(adapter_colors(table["run"]))
    columns = [column for column, *_ in _CHANNELS]
    norms = (table[columns] ** 2).groupby([table["run"], table["step"]], observed=True, sort=False).sum() ** 0.5
    norms = norms.reset_index()
    # Mixed blocks below a ten-thousandth of the update are rounding: they would only stretch a logarithmic axis.
    whole = (norms[columns] ** 2).sum(axis=1) ** 0.5
    norms["mixed_norm"] = norms["mixed_norm"].where(norms["mixed_norm"] > 1e-4 * whole)
    figure = make_subplots(
        rows=1, cols=len(runs), shared_yaxes=True, subplot_titles=runs, horizontal_spacing=0.1 / len(runs)
    )
    for col, run in enumerate(runs, start=1):
        part = norms[norms["run"] == run]
        for column, name, color, dash in _CHANNELS:
            figure.add_scatter(
                x=part["step"].to_numpy(np.float32),
                y=part[column].where(part[column] > 0).to_numpy(np.float32),
                mode="lines",
                name=name,
                line={"color": color, "width": 2, "dash": dash},
                legendgroup=column,
                showlegend=col == 1,
                row=1,
                col=col,
                hovertemplate="step %{x}<br>norm %{y:.4g}<extra>" + name + "</extra>",
            )
    figure.update_xaxes(title="Step", range=[0, steps])
    values = pd.concat([norms[column] for column in columns])
    values = values[values > 0]
    spans = len(values) > 0 and values.max() / values.min() > 100
    figure.update_yaxes(**(log_axis(values) if spans else {"rangemode": "tozero"}))
    figure.update_yaxes(title="Frobenius norm", row=1, col=1)
    last = norms.groupby("run", observed=True, sort=False).tail(1).set_index("run")
    ratio = last["principal_norm"] / last["residual_norm"].where(last["residual_norm"] > 0)
    words = ", ".join(f"{run} {percent(ratio.get(run, float('nan')))}" for run in runs)
    return finish(
        figure,
        f"The principal channel is now this part of the residual one: {words}.",
        "Norms of the blocks of the update: root of the sum of squares over all modules.",
        400,
        panels=True,
    )
