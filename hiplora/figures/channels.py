"""The norms of both channels and of the mixed blocks: layer by layer, over the steps of a run, for one sentence."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from hiplora.figures.axes import layer_axis, norm_axis
from hiplora.figures.panels import panel_row
from hiplora.figures.style import CHANNELS, adapter_colors, finish, of_any_geometry, percent

# Anything smaller than this, relative to the whole update, is rounding of single precision.
_ROUNDING = 1e-4
_NORM = "_norm"


@of_any_geometry
def channel_norms(table: pd.DataFrame, kind: str | None = None) -> go.Figure:
    """Draw principal, mixed and residual norm per layer, one panel per adapter on shared axes.

    Args:
        table: from `channel_table`, with at least one row.
        kind: the kind of module in it, for the subtitle; None for all.
    """
    adapters = list(dict.fromkeys(table["adapter"]))
    figure = panel_row(adapters, 0.05 / len(adapters))
    shown = _without_rounding(table, _NORM)
    hover = "layer %{x}<br>norm %{y:.4g}"
    _draw_channels(figure, shown, adapters, "layer", _NORM, name="{name} {noun} {norm}", hover=hover, size=7)
    figure.update_xaxes(**layer_axis(table["layer"].astype(int).tolist()))
    figure.update_yaxes(title="Frobenius norm of the channel", row=1, col=1)
    sums = (table[["principal_norm", "residual_norm"]] ** 2).groupby(table["adapter"], sort=False).sum() ** 0.5
    words = ", ".join(f"{name} {percent(value)}" for name, value in _ratio(sums).items())
    return finish(
        figure,
        f"Size of the principal channel relative to the residual one: {words}.",
        f"Frobenius norms of the blocks of the update, {kind or 'all kinds of module in a layer together'}.",
        420,
        panels=True,
    )


def norm_history(table: pd.DataFrame, steps: int) -> go.Figure:
    """Draw principal, mixed and residual norm of all modules together over the steps, one panel per run.

    Args:
        table: from `layer_history`, with at least one row.
        steps: the last step of the runs.
    """
    runs = list(adapter_colors(table["run"]))
    columns = [channel.name + _NORM for channel in CHANNELS]
    by_step = [table["run"].rename("adapter"), table["step"]]
    norms = ((table[columns] ** 2).groupby(by_step, observed=True, sort=False).sum() ** 0.5).reset_index()
    figure = panel_row(runs, 0.1 / len(runs))
    shown = _without_rounding(norms, _NORM)
    _draw_channels(figure, shown, runs, "step", _NORM, name="{name} {norm}", hover="step %{x}<br>norm %{y:.4g}")
    figure.update_xaxes(title="Step", range=[0, steps])
    figure.update_yaxes(title="Frobenius norm", row=1, col=1)
    ratio = _ratio(norms.groupby("adapter", observed=True, sort=False).tail(1).set_index("adapter"))
    words = ", ".join(f"{run} {percent(ratio.get(run, float('nan')))}" for run in runs)
    return finish(
        figure,
        f"Size of the principal channel relative to the residual one, now: {words}.",
        "Norms of the blocks of the update: root of the sum of squares over all modules.",
        400,
        panels=True,
    )


def probe_effects(effects: pd.DataFrame) -> go.Figure:
    """Draw how much each channel of each adapter changes the layers' outputs for one sentence.

    Args:
        effects: from `hiplora.demo.sentence.layer_effects`.
    """
    adapters = list(dict.fromkeys(effects["adapter"]))
    table = _without_rounding(effects)
    figure = panel_row(adapters, 0.05)
    hover = "layer %{x}<br>%{y:.3%} of the output"
    _draw_channels(figure, table, adapters, "layer", name="{name} {noun}", hover=hover, size=8, shares=True)
    figure.update_xaxes(**layer_axis(table["layer"].astype(int).tolist()))
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


def _draw_channels(
    figure: go.Figure,
    table: pd.DataFrame,
    panels: Sequence[str],
    over: str,
    suffix: str = "",
    *,
    name: str,
    hover: str,
    size: int = 0,
    shares: bool = False,
) -> None:
    """Draw the three channels as lines in the panel of each adapter, and set the axis of norms that panels share.

    Args:
        figure: a row of panels.
        table: one row per adapter and position, one column per channel.
        panels: adapters, in the order of their panels.
        over: column of the positions.
        suffix: of the columns, after the name of the channel.
        name: template for a channel in the legend, by its fields.
        hover: template.
        size: of the marks; 0 for none.
        shares: whether the norms are relative ones.
    """
    for col, panel in enumerate(panels, start=1):
        part = table[table["adapter"] == panel]
        for channel in CHANNELS:
            values, label = part[channel.name + suffix], name.format(**channel._asdict())
            figure.add_scatter(
                x=part[over].to_numpy(np.float32),
                y=values.where(values > 0).to_numpy(np.float32),
                mode="lines+markers" if size else "lines",
                name=label,
                line={"color": channel.color, "width": 2, "dash": channel.dash},
                marker={"symbol": channel.symbol, "size": size} if size else None,
                legendgroup=channel.name + suffix,
                showlegend=col == 1,
                row=1,
                col=col,
                hovertemplate=f"{hover}<extra>{label}</extra>",
            )
    figure.update_yaxes(**norm_axis(pd.concat([table[channel.name + suffix] for channel in CHANNELS]), shares=shares))


def _without_rounding(table: pd.DataFrame, suffix: str = "") -> pd.DataFrame:
    """Return a table of channels without mixed blocks of rounding size, which would only stretch a logarithmic axis."""
    whole = (table[[channel.name + suffix for channel in CHANNELS]] ** 2).sum(axis=1) ** 0.5
    mixed = table[f"mixed{suffix}"]
    return table.assign(**{f"mixed{suffix}": mixed.where(mixed > _ROUNDING * whole)})


def _ratio(norms: pd.DataFrame) -> pd.Series:
    """Return the principal norm over the residual one, NaN where the residual one is at rounding level."""
    principal, residual = norms["principal_norm"], norms["residual_norm"]
    return principal / residual.where(residual > _ROUNDING * principal)
