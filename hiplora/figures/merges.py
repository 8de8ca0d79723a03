"""Merges: how two adapters meet before, and what each way to merge keeps after, measured."""

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from hiplora.figures.axes import layer_axis
from hiplora.figures.modules import places
from hiplora.figures.panels import across, panel_row
from hiplora.figures.style import (
    BASE,
    MIXED,
    NULL,
    PRINCIPAL,
    RESIDUAL,
    adapter_colors,
    adapter_symbols,
    finish,
    of_any_geometry,
    percent,
    way_looks,
)

_WHOLE = "#8F6BB1"
_PARTS = (
    ("all", "whole", _WHOLE, "diamond"),
    ("pp", "PP", PRINCIPAL, "circle"),
    ("pr", "PR, RP", MIXED[0], "x"),
    ("rp", "PR, RP", MIXED[1], "cross"),
    ("rr", "RR", RESIDUAL, "square"),
)
_ALL = "all"


@of_any_geometry
def merge_conflicts(table: pd.DataFrame, first: str, second: str) -> go.Figure:
    """Draw the cosine of two updates for every module, in a panel for each block, against independent updates.

    Args:
        table: from `conflict_table`.
        first: name of an update.
        second: name of another.
    """
    pair = table[table["first"].isin([first, second]) & table["second"].isin([first, second])]
    numbered = pair[pair["layer"].notna()]
    kinds = list(dict.fromkeys(pair["kind"]))
    panels = list(dict.fromkeys(panel for _, panel, *_ in _PARTS))
    figure = panel_row(panels, 0.03)
    numbers = {panel: place for place, panel in enumerate(panels, start=1)}
    for block, panel, color, symbol in _PARTS:
        rows = numbered[numbered["block"] == block]
        x, sd = places(rows, kinds), 1.96 * rows["null_sd"].to_numpy(np.float32)
        column, gap = numbers[panel], np.full(len(rows), np.nan, np.float32)
        figure.add_scatter(
            x=np.column_stack([x, x, gap]).ravel(),
            y=np.column_stack([-sd, sd, gap]).ravel(),
            mode="lines",
            name="independent updates, 95 %",
            legendgroup="null",
            showlegend=block == "all",
            line={"color": NULL, "width": 2},
            opacity=0.6,
            hoverinfo="skip",
            row=1,
            col=column,
        )
        figure.add_scatter(
            x=x,
            y=rows["cosine"].to_numpy(np.float32),
            mode="markers",
            name=block.upper() if block != "all" else "whole",
            showlegend=False,
            marker={"color": color, "symbol": symbol, "size": 8},
            customdata=np.column_stack([rows["module"], rows["null_sd"], rows["sign"].fillna("–")]),
            hovertemplate="<b>%{customdata[0]}</b><br>cosine %{y:.3f}, by chance 0 ± %{customdata[1]:.3f}: "
            f"%{{customdata[2]}}<extra>{panel if block == 'all' else block.upper()}</extra>",
            row=1,
            col=column,
        )
    for column in numbers.values():
        axes = ("x", "y") if column == 1 else (f"x{column}", f"y{column}")
        figure.add_shape(across(0, axes, line={"color": NULL, "width": 1, "dash": "dash"}))
    figure.update_xaxes(**layer_axis(numbered["layer"].astype(int).tolist()))
    figure.update_yaxes(zeroline=False)
    figure.update_yaxes(title="Cosine of the two updates", row=1, col=1)
    return finish(
        figure,
        _meeting(pair, first, second),
        f"One mark per module; within a layer: {', '.join(kinds)}. Above 0 they reinforce each other, below they "
        "cancel; clear is beyond three standard deviations of two independent updates.",
        420,
        panels=True,
    )


def merge_outcomes(table: pd.DataFrame) -> go.Figure:
    """Draw what each way keeps of the tasks against what it keeps of the base, each beside its control.

    Args:
        table: from `outcome_table`.
    """
    together = table[table["adapter"] == _ALL]
    merges = together[together["kind"] == "merge"]
    colors, symbols = adapter_colors(table["adapter"]), adapter_symbols(table["adapter"])
    looks = way_looks(merges["outcome"])
    figure = go.Figure()
    for row in together[together["kind"] != "merge"].to_dict("records"):
        base = row["kind"] == "base"
        name = "the base" if base else f"{row['outcome']} alone"
        shade = BASE if base else colors.get(str(row["outcome"]), BASE)
        symbol = "asterisk-open" if base else f"{symbols.get(str(row['outcome']), 'circle')}-open"
        _mark(figure, row, name, {"color": shade, "symbol": symbol, "size": 11, "line": {"width": 2, "color": shade}})
    gap = np.full(len(merges), np.nan, np.float32)
    controls = merges[["control_retention", "control_task_kept"]].to_numpy(np.float32)
    own = merges[["retention", "task_kept"]].to_numpy(np.float32)
    figure.add_scatter(
        x=np.column_stack([controls[:, 0], own[:, 0], gap]).ravel(),
        y=np.column_stack([controls[:, 1], own[:, 1], gap]).ravel(),
        mode="lines",
        line={"color": NULL, "width": 1},
        hoverinfo="skip",
        showlegend=False,
    )
    figure.add_scatter(
        x=controls[:, 0],
        y=controls[:, 1],
        mode="markers",
        name="controls",
        showlegend=False,
        marker={"color": NULL, "symbol": "circle-open", "size": 7},
        customdata=np.column_stack([merges["outcome"], merges["norm"]]),
        hovertemplate="the sum x %{customdata[1]:.2f}, control of %{customdata[0]}<br>base kept %{x:.1%}, tasks kept "
        "%{y:.1%}<extra></extra>",
    )
    for row in merges.to_dict("records"):
        color, symbol = looks[row["outcome"]]
        _mark(figure, row, row["outcome"], {"color": color, "symbol": symbol, "size": 12})
    words = _words(table)
    worst = float(together["kept_worst_single"].iloc[0])
    figure.add_vline(
        worst, line={"color": NULL, "dash": "dot"}, annotation_text="worst adapter alone", annotation_position="top"
    )
    figure.update_xaxes(title=words.kept, tickformat=".0%")
    figure.update_yaxes(title=f"{words.task} (mean)", tickformat=".0%")
    figure = finish(
        figure,
        _best(merges),
        "Up and to the right is better. A whisker goes down to the task that is kept least. A line leads to each way "
        f"from its control: the sum, scaled to the same norm. {words.source}",
        540,
    )
    return figure.update_layout(legend={"entrywidth": 112})


def merge_balance(table: pd.DataFrame, marked: int | None = None) -> go.Figure:
    """Draw what a merge of two adapters keeps of both tasks and of the base as their weights move.

    Args:
        table: from `balance_table`.
        marked: which of the weights to mark, from 0.
    """
    steps = list(dict.fromkeys(zip(table["first_weight"], table["second_weight"], strict=True)))
    names = [str(name) for name in dict.fromkeys(table["adapter"]) if name != _ALL]
    colors, symbols, words = adapter_colors(table["adapter"]), adapter_symbols(table["adapter"]), _words(table)
    x = np.arange(len(steps), dtype=np.float32)
    figure = go.Figure()
    shown = [(name, f"task of {name}", "task_kept", colors[name], symbols[name], "solid") for name in names]
    for adapter, label, column, color, symbol, dash in [
        *shown,
        (_ALL, words.base, "retention", BASE, "asterisk-open", "dash"),
    ]:
        rows = table[table["adapter"] == adapter]
        value = rows[column]
        figure.add_scatter(
            x=x,
            y=value.to_numpy(np.float32),
            mode="lines+markers",
            name=label,
            line={"color": color, "dash": dash, "width": 2},
            marker={"symbol": symbol, "size": 9},
            error_y={
                "type": "data",
                "array": (rows[f"{column}_high"] - value).to_numpy(np.float32),
                "arrayminus": (value - rows[f"{column}_low"]).to_numpy(np.float32),
                "thickness": 1,
                "width": 4,
            },
            hovertemplate=f"{label} kept: %{{y:.1%}}<extra></extra>",
        )
    if marked is not None:
        figure.add_vline(marked, line={"color": NULL, "dash": "dot"})
    figure.update_xaxes(
        title="Weights of the two adapters", tickvals=x, ticktext=[f"{first:g} : {second:g}" for first, second in steps]
    )
    figure.update_yaxes(title="Kept", tickformat=".0%", rangemode="tozero")
    return finish(
        figure,
        _balanced(table, steps, names),
        f"{words.task}, and {words.kept[0].lower()}{words.kept[1:]}; 95 % intervals over {words.examples}. Merged by "
        f"{table['outcome'].iloc[0]}. {words.source}",
        400,
    )


def merge_fail(table: pd.DataFrame) -> go.Figure:
    """Draw the share of merges that fail, by way, over the thresholds of the tasks and over those of the base.

    Args:
        table: from `fail_table`.
    """
    looks = way_looks(table["outcome"])
    task, base = (table[table["varied"] == varied] for varied in ("task", "base"))
    allowance, threshold = float(task["allowance"].iloc[0]), float(base["threshold"].iloc[0])
    figure = panel_row(
        ["over the tasks", "over the base"],
        0.05,
    )
    for column, (rows, over) in enumerate(((task, "threshold"), (base, "allowance")), start=1):
        for key, (color, symbol) in looks.items():
            part = rows[rows["outcome"] == key]
            figure.add_scatter(
                x=part[over].to_numpy(np.float32),
                y=part["merge_fail"].to_numpy(np.float32),
                mode="lines+markers",
                name=key,
                legendgroup=key,
                showlegend=column == 1,
                line={"color": color, "width": 2, "shape": "hv"},
                marker={"symbol": symbol, "size": 7, "maxdisplayed": 6},
                customdata=part[["fails", "merges"]].to_numpy(np.float64),
                hovertemplate=f"{key}: %{{customdata[0]:.0f}} of %{{customdata[1]:.0f}} fail at %{{x:.0%}}"
                "<extra></extra>",
                row=1,
                col=column,
            )
    figure.update_xaxes(title="Must be kept", tickformat=".0%", row=1, col=1)
    figure.update_xaxes(title="May be lost", tickformat=".0%", row=1, col=2)
    figure.update_yaxes(range=[-0.04, 1.04], tickformat=".0%")
    figure.update_yaxes(title="Merges that fail", row=1, col=1)
    merges = int(table["merges"].iloc[0])
    count = f"{merges} merge{'s' * (merges > 1)}, all pairs and triples"
    few = " That is few: a single merge moves a line far." if merges < 20 else ""
    return finish(
        figure,
        _failing(table, threshold, allowance),
        f"MergeFail (our definition) of each way over {count}.{few} Left: the share of its own score that each task "
        f"must keep, while the base may lose {100 * allowance:.0f} points more than with the worst adapter alone. "
        f"Right: what it may lose, while tasks must keep {percent(threshold)}.",
        440,
        panels=True,
    )


class _Words(NamedTuple):
    """What the scores of merges are called: exact ones of the demo world, or losses on texts."""

    kept: str
    task: str
    base: str
    examples: str
    source: str


def _words(table: pd.DataFrame) -> _Words:
    if "kept_text" not in table:
        return _Words(
            "Base skills kept",
            "Task score over the adapter's own",
            "base skills",
            "examples",
            "Exact scores on held-out examples.",
        )
    about = table.iloc[0]
    return _Words(
        "Base kept: its perplexity over the merge's",
        "Learned of the task, over the adapter's own",
        "base",
        "windows of the texts",
        f"By the loss of the next token. Of a task ({about['task_texts']}) the adapter learned its loss below the "
        f"base's. What is kept ({about['kept_text']}) is by the base's perplexity there, "
        f"{math.exp(about['base_kept_loss']):.3g}.",
    )


def _mark(figure: go.Figure, row: dict[Any, Any], name: str, marker: dict[str, Any]) -> None:
    figure.add_scatter(
        x=[row["retention"]],
        y=[row["task_kept"]],
        mode="markers",
        name=name,
        marker=marker,
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [0],
            "arrayminus": [row["task_kept"] - row["least_task_kept"] if row["kind"] == "merge" else 0],
            "thickness": 1,
            "width": 0,
        },
        hovertemplate=(
            f"<b>{name}</b>, norm x {row['norm']:.2f} of the sum's<br>tasks kept {row['task_kept']:.1%} (95 %: "
            f"{row['task_kept_low']:.1%} to {row['task_kept_high']:.1%}), least {row['least_task_kept']:.1%}<br>base "
            f"kept {row['retention']:.1%} ({row['retention_low']:.1%} to {row['retention_high']:.1%})<extra></extra>"
        ),
    )


def _meeting(pair: pd.DataFrame, first: str, second: str) -> str:
    counts = []
    for block in ("all", "pp", "rr"):
        signs = pair.loc[pair["block"] == block, "sign"]
        counts.append(((signs == "reinforce").sum(), (signs == "cancel").sum(), len(signs)))
    (up, down, modules), *others = counts
    principal, residual = (f"{more} and {less}" for more, less, _ in others)
    return (
        f"{first} and {second} clearly reinforce each other in {up} of {modules} modules and cancel in {down}; in "
        f"principal blocks {principal}, in residual ones {residual}."
    )


def _best(merges: pd.DataFrame) -> str:
    if merges.empty:
        return "No way is scored yet."
    best = merges.sort_values(["task_kept", "retention"], ascending=False).iloc[0]
    beside = ""
    if best["outcome"] != "sum":
        unsure = best["task_gain_low"] <= 0 <= best["task_gain_high"] and best["gain_low"] <= 0 <= best["gain_high"]
        beside = f"; the sum scaled to its norm {percent(best['control_task_kept'])} and " + percent(
            best["control_retention"]
        )
        beside += ", which these examples cannot tell apart" if unsure else ""
    name, equals = best["outcome"], int((merges["task_kept"] >= best["task_kept"] - 1e-9).sum())
    which = f"{name} keeps the most of the tasks"
    if equals > 1:
        which = f"{equals} ways keep the most of the tasks, {name} of them the most of the base"
    return (
        f"{which}: {percent(best['task_kept'])} on average, at least {percent(best['least_task_kept'])}, and "
        f"{percent(best['retention'])} of the base{beside}."
    )


def _balanced(table: pd.DataFrame, steps: list[tuple[float, float]], names: list[str]) -> str:
    together = table[table["adapter"] == _ALL]
    if not names:
        return f"The base keeps {percent(together['retention'].max())} at best."
    best = together.iloc[int(together["least_task_kept"].to_numpy().argmax())]
    return (
        f"At weights {best['first_weight']:g} : {best['second_weight']:g} both tasks keep the most, at least "
        f"{percent(best['least_task_kept'])}, with {percent(best['retention'])} of the base."
    )


def _failing(table: pd.DataFrame, threshold: float, allowance: float) -> str:
    at = (table["varied"] == "base") & np.isclose(table["allowance"], allowance)
    rows = table[at].sort_values("fails", kind="stable")
    merges = int(rows["merges"].iloc[0])
    fewest = int(rows["fails"].iloc[0])
    least = rows.loc[rows["fails"] == fewest, "outcome"].tolist()
    where = f"Where each task must keep {percent(threshold)} and the base may lose {100 * allowance:.0f} points more"
    if len(least) == len(rows):
        return f"{where}, every way fails in {fewest} of {merges} merges."
    plain = rows[rows["outcome"] == "sum"]
    beside = f"; the plain sum in {int(plain['fails'].iloc[0])}" if len(plain) and "sum" not in least else ""
    names = ", ".join(least[:3]) + (f" and {len(least) - 3} more" if len(least) > 3 else "")
    return f"{where}, {names} fail{'s' * (len(least) == 1)} least, in {fewest} of {merges} merges{beside}."
