"""Heat maps: a measure over layers x kinds of module, which can be clicked, and tightness over modules x steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hiplora.figures.axes import log_ticks
from hiplora.figures.panels import panel_row
from hiplora.figures.style import (
    DIVERGING,
    SEQUENTIAL,
    adapter_colors,
    by_adapter,
    finish,
    of_any_geometry,
    percent,
    percent_format,
    row_of_max,
    two_digits,
)
from hiplora.measure_info import MeasureInfo, Scale
from hiplora.printable import apart

_OUTSIDE = "other"
# Cells of which none is an outlier.
_FEW = 20
# Visible on dark and on light cells.
_FRAME = (("#000000", 3), ("#FFFFFF", 1))


@of_any_geometry
def layer_map(table: pd.DataFrame, info: MeasureInfo, selected: str | None = None) -> go.Figure:
    """Draw a measure for every module: layers left to right, kinds top to bottom in the order data meets them.

    Clicking a heat map selects nothing in Streamlit, so an invisible square lies over each cell: its `customdata` is
    the module's name. All maps share one color scale.

    Args:
        table: the layer table.
        info: which measure.
        selected: module to mark with a frame.
    """
    return module_map(
        table,
        info.column,
        info.scale,
        info.title,
        title=_finding(table, info),
        subtitle=info.meaning,
        selected=selected,
    )


def module_map(
    table: pd.DataFrame,
    column: str,
    scale: Scale,
    label: str,
    *,
    title: str,
    subtitle: str,
    selected: str | None = None,
) -> go.Figure:
    """Draw a column of a table for every module: layers left to right, kinds top to bottom, a map for each adapter.

    Args:
        table: `adapter, module, layer, kind` and the column.
        column: to be drawn.
        scale: of its values.
        label: of a value, for the hover.
        title: the finding.
        subtitle: the measure.
        selected: module to mark with a frame.
    """
    adapters = list(dict.fromkeys(table["adapter"]))
    kinds = list(dict.fromkeys(table["kind"]))
    layers = sorted(table["layer"].dropna().unique().tolist())
    columns = [str(layer) for layer in layers] + ([_OUTSIDE] if table["layer"].isna().any() else [])
    table = table.assign(
        column=[_OUTSIDE if pd.isna(layer) else str(layer) for layer in table["layer"]],
        shown=_encoded(table[column], scale),
    )
    panels = make_subplots(
        rows=len(adapters), cols=1, shared_xaxes=True, subplot_titles=adapters, vertical_spacing=0.16 / len(adapters)
    ).to_dict()["layout"]
    traces: list[dict[str, Any]] = []
    frames = []
    for row, (adapter, part) in enumerate(by_adapter(table), start=1):
        grid = part.pivot_table(index="kind", columns="column", values="shown", observed=False)
        grid = grid.reindex(index=kinds, columns=columns)
        axes = {"xaxis": f"x{row if row > 1 else ''}", "yaxis": f"y{row if row > 1 else ''}"}
        values, bands = _beside_chance(part, column)
        invisible = {"color": "rgba(0,0,0,0)"}
        traces += [
            axes
            | {
                "type": "heatmap",
                "z": grid.to_numpy(np.float32),
                "x": columns,
                "y": kinds,
                "coloraxis": "coloraxis",
                "xgap": 1,
                "ygap": 1,
                "hoverinfo": "skip",
            },
            axes
            | {
                "type": "scatter",
                "x": part["column"],
                "y": part["kind"],
                "mode": "markers",
                "marker": {"symbol": "square", "size": 16, **invisible},
                "selected": {"marker": invisible},
                "unselected": {"marker": invisible},
                "customdata": np.column_stack(
                    [
                        part["module"],
                        values,
                        bands,
                        part["relative_norm"].map(two_digits) if "relative_norm" in part else [""] * len(part),
                    ]
                ),
                "hovertemplate": f"<b>%{{customdata[0]}}</b><br>{label}: %{{customdata[1]}}"
                + ("<br>95 % of random updates: %{customdata[2]}" if any(bands) else "")
                + ("<br>relative norm: %{customdata[3]}" if "relative_norm" in part else "")
                + f"<extra>{adapter}</extra>",
                "showlegend": False,
            },
        ]
        marked = part[part["module"] == selected]
        if len(marked):
            x, y = columns.index(marked["column"].iloc[0]), kinds.index(marked["kind"].iloc[0])
            frame: dict[str, Any] = {"type": "rect", "xref": axes["xaxis"], "yref": axes["yaxis"]}
            frame |= {"x0": x - 0.5, "x1": x + 0.5, "y0": y - 0.5, "y1": y + 0.5}
            frames += [frame | {"line": {"color": color, "width": width}} for color, width in _FRAME]
    for name in [name for name in panels if "axis" in name]:
        count = len(kinds if name.startswith("y") else columns)
        ends = [count - 0.5, -0.5] if name.startswith("y") else [-0.5, count - 0.5]
        panels[name] |= {"range": ends, "type": "category", "showgrid": False}
    panels[f"xaxis{len(adapters) if len(adapters) > 1 else ''}"] |= {"title": "Layer"}
    panels["annotations"] = [note | {"x": 0, "xanchor": "left", "font": {"size": 13}} for note in panels["annotations"]]
    panels |= {
        "shapes": frames,
        "coloraxis": _color_axis(table["shown"], scale),
        "hoverdistance": -1,
        "dragmode": False,
    }
    height = 130 + len(adapters) * (44 + 26 * len(kinds))
    left = 14 + 7 * max(map(len, kinds), default=0)
    return finish(go.Figure(traces, panels), title, subtitle, height, left=left)


def tightness_history(table: pd.DataFrame, steps: int) -> go.Figure:
    """Draw the tightness of every module (rows, data order) at every measured step, one panel per run.

    All panels share one color scale, whose middle is the budget.

    Args:
        table: from `layer_history`, with at least one row.
        steps: the last step of the runs; the part to come is left empty.
    """
    runs = list(adapter_colors(table["run"]))
    places = table.drop_duplicates("module")[["module", "layer", "kind"]].reset_index(drop=True)
    table = table.assign(shown=_encoded(table["tightness"], "budget"))
    figure = panel_row(runs, 0.1 / len(runs))
    for col, run in enumerate(runs, start=1):
        part = table[table["run"] == run]
        if part.empty:
            continue
        grids = {
            name: part.pivot_table(index="module", columns="step", values=name, dropna=False).reindex(places["module"])
            for name in ("shown", "tightness")
        }
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
            hovertemplate="<b>%{customdata[0]}</b><br>step %{x}<br>tightness %{customdata[1]}"
            f"<extra>{run}</extra>",
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
    axis = _color_axis(table["shown"], "budget")
    axis["colorbar"] |= {"title": {"text": "Tightness (1× = budget spent)", "side": "right"}}
    figure.update_layout(coloraxis=axis)
    kinds = ", ".join(dict.fromkeys(places["kind"]))
    return finish(
        figure,
        _spent(table, runs),
        f"Tightness of each module over the steps; white: the budget is spent. Within a layer: {kinds}.",
        140 + int(np.clip(12 * len(places), 240, 560)),
        panels=True,
    )


def _beside_chance(part: pd.DataFrame, column: str) -> tuple[list[str], list[str]]:
    """Return each value of a column in words, and the band of random updates with digits enough to tell them apart.

    Args:
        part: rows of the layer table, or of that of a difference.
        column: only the principal share and its enrichment have a band in the layer table.
    """
    values = part[column].astype("float64")
    if column not in ("pp", "enrichment") or "pp_null" not in part:
        return values.map(two_digits).tolist(), [""] * len(part)
    unit = part["pp_null"] if column == "enrichment" else 0.01
    ends = (part["pp_null_low"] / unit, part["pp_null_high"] / unit)
    rows = [apart(*row) for row in zip(values / (1 if column == "enrichment" else unit), *ends, strict=True)]
    sign = "" if column == "enrichment" else "\N{NO-BREAK SPACE}%"
    return [f"{value}{sign}" for value, _, _ in rows], [f"{low} to {high}{sign}" for _, low, high in rows]


def _encoded(values: pd.Series, scale: Scale) -> pd.Series:
    """Return the values encoded as color: the logarithm where the scale is a ratio, the value otherwise."""
    values = values.astype("float64")
    if scale in ("chance", "budget"):
        return values.where(values > 0).map(np.log2)
    return values.where(values > 0).map(np.log10) if scale == "log" else values


def _color_axis(shown: pd.Series, scale: Scale) -> dict[str, Any]:
    """Return the color axis of values from `_encoded`, its bar labeled with the measure's own numbers."""
    bar: dict[str, Any] = {"thickness": 12, "outlinewidth": 0, "title": {"text": "", "side": "right"}}
    low, high = _reach(shown)
    if scale in ("chance", "budget", "signed"):
        # At least from half to twice, or 0.1 of a cosine: what varies less is not to look like more.
        reach = max(abs(low), abs(high), 0.1 if scale == "signed" else 1.0)
        # The middle keeps its meaning. A side without values is left out, and so is one hardly off chance.
        least = reach / 8 if scale == "chance" else 0.0
        ends = (-reach if low < -least else 0.0, reach if high > least or low >= -least else 0.0)
        colors = {"colorscale": _part_of(DIVERGING, *ends), "cmin": ends[0], "cmax": ends[1]}
        if scale == "signed":
            return colors | {"colorbar": bar | {"nticks": 5}}
        step = 0.5 if reach <= 1 else 1 if reach < 4 else 2
        ticks = step * np.arange(np.ceil(ends[0] / step), np.floor(ends[1] / step) + 1)
        return colors | {"colorbar": bar | {"tickvals": ticks, "ticktext": [f"{two_digits(2.0**t)}×" for t in ticks]}}
    if scale == "log":
        ticks = np.log10(log_ticks(10**low, 10**high))
        bar |= {"tickvals": ticks, "ticktext": [two_digits(10.0**tick) for tick in ticks]}
        return {"colorscale": SEQUENTIAL, "cmin": low, "cmax": high, "colorbar": bar}
    if scale == "share":
        bar |= {"tickformat": percent_format(high)}
    if scale == "count":
        bar |= {"dtick": max(1, round(high / 5))}
    return {"colorscale": SEQUENTIAL, "cmin": 0, "cmax": high or 1, "colorbar": bar}


def _reach(shown: pd.Series) -> tuple[float, float]:
    """Return where the colors begin and end: all of a few values, all but the outermost 2 % on either side of many."""
    finite = shown[np.isfinite(shown)]
    if finite.empty:
        return 0.0, 1.0
    low, high = finite.quantile([0.02, 0.98]) if len(finite) > _FEW else (finite.min(), finite.max())
    return float(low), float(high)


def _part_of(scale: Sequence[tuple[float, str]], low: float, high: float) -> list[tuple[float, str]]:
    """Return a diverging scale, or the half of it that values between two ends need, one of them 0."""
    if low < 0 < high:
        return list(scale)
    return [(2 * (at - 0.5 * (high > 0)), color) for at, color in scale if (at >= 0.5 if high > 0 else at <= 0.5)]


def _finding(table: pd.DataFrame, info: MeasureInfo) -> str:
    top = row_of_max(table, info.column)
    if top is None:
        return f"{info.title}: not known here."
    if info.scale == "count":
        sums = table.groupby("adapter", sort=False)[info.column].sum()
        return f"{info.name} in all modules: {', '.join(f'{name} {count}' for name, count in sums.items())}."
    if info.scale == "chance" and "pp_null_high" in table and not (table["pp"] > table["pp_null_high"]).any():
        return (
            f"{info.name} is nowhere above the band of random updates: {two_digits(float(top[info.column]))}× at most."
        )
    value = two_digits(float(top[info.column])) + ("× chance" if info.scale == "chance" else "")
    return f"{info.name} is highest in {top['module']} of {top['adapter']}: {value}."


def _spent(table: pd.DataFrame, runs: list[str]) -> str:
    """Return a sentence on the highest budget use of each run at its last measurement."""
    words = []
    for run in runs:
        part = table[table["run"] == run]
        top = row_of_max(part[part["step"] == part["step"].max()], "tightness")
        if top is None or not top["tightness"] > 0:
            words.append(f"{run} has not spent any of its budget yet")
            continue
        # A run without a budget is measured against one too.
        spends = (
            "spends up to {} of its budget" if np.isfinite(top["shadow_price"]) else "would spend up to {} of a budget"
        )
        words.append(f"{run} {spends.format(percent(top['tightness']))}, in {top['module'].removeprefix('model.')}")
    return "; ".join(words) + "."
