"""The principal share of each run's update over the steps of its training, against chance, in each geometry."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hiplora.figures.panels import null_traces
from hiplora.figures.style import adapter_colors, adapter_dashes, adapter_symbols, finish, percent_format, two_digits
from hiplora.measure_info import MeasureInfo

_PANELS = {"weights": "blocks of the weights", "inputs": "blocks of the inputs"}
_MARK = 5
_MANY = 40


def principal_drift(table: pd.DataFrame, steps: int, measure: MeasureInfo) -> go.Figure:
    """Draw the principal share of each run, or its enrichment, over the steps: one panel for each geometry.

    Args:
        table: from `drift_history`, with at least one row.
        steps: the last step of the runs.
        measure: the principal share (`pp`) or the `enrichment`.
    """
    shown = [geometry for geometry in _PANELS if (table["geometry"] == geometry).any()]
    figure = make_subplots(
        rows=1, cols=len(shown), subplot_titles=[_PANELS[geometry] for geometry in shown], horizontal_spacing=0.08
    )
    colors, symbols = adapter_colors(table["run"]), adapter_symbols(table["run"])
    dashes = adapter_dashes(table["run"])
    relative = measure.column == "enrichment"
    named: set[str] = set()
    for column, geometry in enumerate(shown, start=1):
        axes = ("x", "y") if column == 1 else (f"x{column}", f"y{column}")
        of_geometry = table[table["geometry"] == geometry]
        parts = [(run, of_geometry[of_geometry["run"] == run]) for run in colors]
        for place, (run, part) in enumerate([(run, part) for run, part in parts if len(part)]):
            chance = _null(run, part, relative, axes)
            chance[1]["showlegend"] = column == 1 and place == 0
            line = _line(run, part, measure, {"color": colors[run], "symbol": symbols[run]}, axes)
            line["line"] |= {"dash": dashes[run]}
            line["showlegend"] = run not in named
            named.add(run)
            figure.add_traces([*chance, line])
        unit = of_geometry["pp_null"] if relative else 1.0
        top = float(np.maximum(of_geometry[measure.column], of_geometry["pp_null_high"] / unit).max())
        ticks = {} if relative else {"tickformat": percent_format(top)}
        figure.update_yaxes(range=[0, 1.08 * top], **ticks, row=1, col=column)
    figure.update_xaxes(title="Step", range=[0, steps])
    label = "Enrichment (1 = chance)" if relative else "Share in the principal block"
    figure.update_yaxes(title=label, row=1, col=1)
    texts = [text for text in dict.fromkeys(table["text"]) if text]
    ranks = ", ".join(str(rank) for rank in dict.fromkeys(table["principal_rank"]))
    step = _last_in_common(table)
    return finish(
        figure,
        _finding(table, step),
        f"Energy of the update in the leading {ranks} directions on both sides, all modules together. Each run has its "
        "own null: a random update with the same singular values in each module."
        + (f" {_sizes(table, step)}" if step is not None else "")
        + (f" Inputs: {'; '.join(texts)}." if texts else ""),
        420,
        panels=True,
    )


def _line(
    run: str, part: pd.DataFrame, measure: MeasureInfo, marker: dict[str, Any], axes: tuple[str, str]
) -> dict[str, Any]:
    """Return the trace of a run in a panel, with share, null and size in its hover."""
    return {
        "type": "scatter",
        "x": part["step"].to_numpy(np.float32),
        "y": part[measure.column].to_numpy(np.float32),
        "xaxis": axes[0],
        "yaxis": axes[1],
        "mode": "lines+markers" if len(part) <= _MANY else "lines",
        "name": run,
        "legendgroup": run,
        "line": {"color": marker["color"], "width": 2},
        "marker": {**marker, "size": _MARK},
        "cliponaxis": False,
        "customdata": part[["pp", "pp_null", "pp_null_low", "pp_null_high", "enrichment", "relative_norm"]].to_numpy(
            np.float64, na_value=np.nan
        ),
        "hovertemplate": (
            "step %{x}<br>principal share %{customdata[0]:.3%}<br>"
            "by chance %{customdata[1]:.3%} (95 %: %{customdata[2]:.3%} to %{customdata[3]:.3%})<br>"
            "enrichment %{customdata[4]:.3g}<br>relative size %{customdata[5]:.3g}"
            f"<extra>{run}</extra>"
        ),
    }


def _null(run: str, part: pd.DataFrame, relative: bool, axes: tuple[str, str]) -> list[dict[str, Any]]:
    """Return the null of a run in a panel: its band and its mean."""
    unit = part["pp_null"] if relative else 1.0
    low, mean, high = ((part[name] / unit).to_numpy() for name in ("pp_null_low", "pp_null", "pp_null_high"))
    hover = f"step %{{x}}<br>by chance %{{y:.3{'g' if relative else '%'}}}<extra>{run}</extra>"
    return null_traces(part["step"].to_numpy(np.float32), (low, high), mean, axes, hover=hover)


def _last_in_common(table: pd.DataFrame) -> int | None:
    """Return the last step that all runs have in all their geometries; None where there is none."""
    steps = [set(part["step"]) for _, part in table.groupby(["run", "geometry"], observed=True)]
    common = set.intersection(*steps)
    return max(common) if common else None


def _at(table: pd.DataFrame, step: int, column: str) -> dict[str, dict[str, str]]:
    """Return `{run: {geometry: number in words}}` of a column at a step, both in their order."""
    found = table[table["step"] == step].set_index(["run", "geometry"])[column]
    return {
        run: {geometry: two_digits(float(found[run, geometry])) for geometry in _PANELS if (run, geometry) in found}
        for run in adapter_colors(table["run"])
        if (table["run"] == run).any()
    }


def _finding(table: pd.DataFrame, step: int | None) -> str:
    """Return a sentence on the enrichment of each run at a step."""
    if step is None:
        return "The runs have no step in common yet."
    words: list[str] = []
    told: list[str] = []
    for run, times in _at(table, step, "enrichment").items():
        if list(times) == told:
            words.append(f"{run} {' and '.join(times.values())} times")
            continue
        where = [f"{value} times in that of the {geometry}" for geometry, value in times.items()]
        (first, value), *_ = times.items()
        where[0] = f"{value} times chance in the principal block of the {first}"
        words.append(f"{run} has {' and '.join(where)}")
        told = told or list(times)
    return f"At step {step} {'; '.join(words)}."


def _sizes(table: pd.DataFrame, step: int) -> str:
    """Return a sentence on the size of each update at a step."""
    names = {"weights": "{}", "inputs": "{} on inputs"}
    words = [
        f"{run} {', '.join(names[geometry].format(size) for geometry, size in sizes.items())}"
        for run, sizes in _at(table, step, "relative_norm").items()
    ]
    return f"Relative norm then: {'; '.join(words)}."
