"""Adapters side by side: what they scored, how far apart they are and where, and one of them through its training."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hiplora.figures.layer import PANELS, SIDES, direction_axis, octave_means, principal_bands
from hiplora.figures.style import (
    BASE,
    METHOD_SYMBOLS,
    MIXED,
    NULL,
    PRINCIPAL,
    RESIDUAL,
    adapter_colors,
    adapter_symbols,
    finish,
    log_axis,
    log_ticks,
    null_traces,
    percent,
    percent_format,
    two_digits,
)

_MOST_BARS = 12
_LONGEST_MODULE = 44


def skill_scores(table: pd.DataFrame) -> go.Figure:
    """Draw one mark per adapter and skill, what each was trained on above the base's skills, and where the base stood.

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
        places = [
            rows.index("its task" if role == "task" else skill) for role, skill in zip(part["role"], part["skill"])
        ]
        # Marks of one skill stand above each other, so that equal scores do not hide one another.
        shift = 0.5 * ((number + 0.5) / len(adapters) - 0.5)
        figure.add_scatter(
            x=part["score"].to_numpy(np.float32),
            y=np.array(places, dtype=np.float32) + np.float32(shift),
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
        "Scores after training on each adapter's own task and on the skills of the base; means in the title, of the "
        "score over that of the base.",
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
    return f"Of the base's skills they keep: {words}."


def frontier(table: pd.DataFrame, chosen: Sequence[str] = ()) -> go.Figure:
    """Draw task score against retention, one mark per adapter by method, and join those that no other beats.

    Args:
        table: from `frontier_table`, of one task, with at least one row.
        chosen: adapters to be named, in the order chosen, which their colours go by.
    """
    colors = adapter_colors(pd.Series(list(chosen), dtype=object))
    methods = list(dict.fromkeys(table["method"]))
    best = table[table["on_frontier"]].sort_values(["task_score", "retention"], ascending=[True, False])
    figure = go.Figure()
    figure.add_scatter(
        x=best["task_score"].to_numpy(np.float32),
        y=best["retention"].to_numpy(np.float32),
        mode="lines",
        name="not beaten in both",
        line={"color": NULL, "width": 2, "dash": "dot"},
        hoverinfo="skip",
    )
    for method in methods:
        part = table[table["method"] == method]
        named = part["adapter"].isin(list(chosen))
        figure.add_scatter(
            x=part["task_score"].to_numpy(np.float32),
            y=part["retention"].to_numpy(np.float32),
            mode="markers",
            name=method,
            showlegend=False,
            cliponaxis=False,
            marker={
                "symbol": METHOD_SYMBOLS.get(method, "x"),
                "color": [colors.get(name, BASE) for name in part["adapter"]],
                "size": [15 if bold else 9 for bold in named],
                "opacity": [1.0 if bold else 0.75 for bold in named],
            },
            customdata=np.column_stack(
                [
                    part["adapter"],
                    part["task"],
                    part["steps"].map(_whole),
                    part["seed"].map(_whole),
                    part["budget"].where(part["budget"] != "", "no budget"),
                    part["relative_norm"].map(two_digits),
                ]
            ),
            hovertemplate="<b>%{customdata[0]}</b>, "
            + method
            + "<br>task %{customdata[1]} %{x:.2%}, kept %{y:.2%}<br>%{customdata[2]} steps, "
            "seed %{customdata[3]}, %{customdata[4]}<br>relative norm %{customdata[5]}<extra></extra>",
        )
        # The legend tells methods, which have marks and no colours.
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            name=method,
            marker={"symbol": METHOD_SYMBOLS.get(method, "x"), "color": BASE, "size": 9},
        )
    beaten = table.loc[~table["on_frontier"] & table["adapter"].isin(list(chosen)), "adapter"].tolist()
    middle = (table["task_score"].min() + table["task_score"].max()) / 2
    for _, row in table[table["adapter"].isin(list(chosen))].iterrows():
        right = row["task_score"] > middle
        figure.add_annotation(
            x=row["task_score"],
            y=row["retention"],
            text=row["adapter"],
            showarrow=False,
            xanchor="right" if right else "left",
            xshift=-12 if right else 12,
            font={"color": colors[row["adapter"]]},
        )
    figure.update_xaxes(title="Task score", **_score_axis(table["task_score"]))
    figure.update_yaxes(title="Base skills kept", **_score_axis(table["retention"]))
    return finish(
        figure,
        f"On {table['task'].iloc[0]}, nothing at hand beats {_listed(best['adapter'].tolist())}"
        + (f"; beaten: {_listed(beaten)}." if beaten else "."),
        "Up and to the right is better; marks by method, chosen adapters in colour. Joined: what no other beats in "
        "both the task and what is kept of the base." + _unequal(table["steps"].dropna()),
        420,
    )


def _unequal(steps: pd.Series) -> str:
    """Return the warning that some trained longer than others, where they did."""
    if steps.nunique() < 2:
        return ""
    return f" Not all trained equally long: {steps.min():.0f} to {steps.max():.0f} steps."


def _whole(number: float) -> str:
    return f"{number:.0f}" if np.isfinite(number) else "–"


def _score_axis(scores: pd.Series) -> dict[str, object]:
    """Return an axis around scores, never so close that their rounding looks like a difference."""
    low, high = float(scores.min()), float(scores.max())
    pad = max(0.12 * (high - low), 0.01)
    # Nothing scores much above 1, so there is no room to give there.
    top = max(min(high + pad, 1 + pad / 4), high)
    return {"range": [low - pad, top], "tickformat": percent_format(top - low + pad)}


def _listed(names: Sequence[str]) -> str:
    """Return names as a sentence has them; the rest counted where they are many."""
    shown = list(names[:3]) + ([f"{len(names) - 3} more"] if len(names) > 3 else [])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def octave_energy(table: pd.DataFrame) -> go.Figure:
    """Draw the energy of all modules together, octave by octave of their directions, as a multiple of chance.

    Args:
        table: from `octave_table`.
    """
    figure = make_subplots(
        rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=list(SIDES.values())
    )
    colors, symbols = adapter_colors(table["adapter"]), adapter_symbols(table["adapter"])
    adapters = list(dict.fromkeys(table["adapter"]))
    labels = {
        start: "beyond" if start == 0 else f"{start}" if start == end else f"{start}–{end}"
        for start, end in zip(table["start"], table["end"], strict=True)
    }
    seen = []
    for col, side in enumerate(SIDES, start=1):
        widest = table.groupby("adapter", sort=False, observed=True)[f"{side}_null_high"].sum().idxmax()
        null = table[(table["adapter"] == widest) & (table[f"{side}_null"] > 0)]
        names = [labels[start] for start in null["start"]]
        low, high = ((null[f"{side}_null_{edge}"] / null[f"{side}_null"]).to_list() for edge in ("low", "high"))
        figure.add_traces(null_traces(names, (low, high), [1.0] * len(names), PANELS[col - 1]))
        for adapter in adapters:
            part = table[(table["adapter"] == adapter) & (table[f"{side}_null"] > 0)]
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
                "<br>%{y:.3g}× chance<extra>" + adapter + "</extra>",
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
    values = pd.concat([*seen, pd.Series([1.0])])
    figure.update_yaxes(**log_axis(values))
    figure.update_yaxes(title="Energy, multiple of chance", row=1, col=1)
    return finish(
        figure,
        _octave_finding(table, adapters),
        "Energy of all modules together by the place of the direction in its own weight, over an isotropic update's. "
        "Beyond: dimensions outside the directions known.",
        420,
        panels=True,
    )


def _octave_finding(table: pd.DataFrame, adapters: Sequence[str]) -> str:
    sides = pd.DataFrame({side: table[side] / table[f"{side}_null"].where(table[f"{side}_null"] > 0) for side in SIDES})
    means = table.assign(ratio=sides.mean(axis=1))[table["start"] > 0]
    words = []
    for adapter in adapters:
        part = means[means["adapter"] == adapter]
        if part["ratio"].notna().any():
            top = part.iloc[int(np.nanargmax(part["ratio"].to_numpy()))]
            alone = top["start"] == top["end"]
            place = f"direction {top['start']}" if alone else f"directions {top['start']} to {top['end']}"
            words.append(f"{adapter} at {place} ({two_digits(top['ratio'])}×)")
    return f"Furthest above chance: {', '.join(words)}." if words else "No adapter changes anything."


def difference_shares(table: pd.DataFrame) -> go.Figure:
    """Draw the modules that hold most of the squared difference, split by channel, and the cumulative curve beside.

    Args:
        table: from `difference_table`.
    """
    ranked = table.sort_values("share", ascending=False, kind="stable").reset_index(drop=True)
    ranked["cumulative"] = ranked["share"].cumsum()
    shown = ranked.head(_MOST_BARS)
    places = list(range(len(shown)))
    figure = make_subplots(
        rows=1,
        cols=2,
        shared_yaxes=True,
        column_widths=[0.66, 0.34],
        horizontal_spacing=0.08,
        subplot_titles=["each module", "together so far"],
    )
    for column, name, color in (
        ("pp", "principal", PRINCIPAL),
        ("mixed", "mixed", MIXED[0]),
        ("rr", "residual", RESIDUAL),
    ):
        figure.add_bar(
            y=places,
            x=(shown["share"] * shown[column]).to_numpy(np.float32),
            orientation="h",
            name=name,
            marker_color=color,
            customdata=np.column_stack(
                [shown["module"], shown["share"].map(percent), shown["relative_norm"].map(two_digits)]
            ),
            hovertemplate="<b>%{customdata[0]}</b><br>%{x:.2%} of the whole difference, " + name + "<br>"
            "%{customdata[1]} in all channels<br>relative difference %{customdata[2]}<extra></extra>",
            row=1,
            col=1,
        )
    figure.add_scatter(
        x=shown["cumulative"].to_numpy(np.float32),
        y=places,
        mode="lines+markers",
        name="together so far",
        line={"color": BASE, "width": 2},
        customdata=shown["module"],
        hovertemplate="down to %{customdata}<br>%{x:.1%} of the difference<extra></extra>",
        showlegend=False,
        row=1,
        col=2,
    )
    figure.add_vline(x=0.5, line={"color": NULL, "width": 1, "dash": "dot"}, row=1, col=2)
    figure.update_layout(barmode="stack")
    figure.update_yaxes(
        tickvals=places, ticktext=[_short(name) for name in shown["module"]], range=[len(shown) - 0.5, -0.5], title=None
    )
    figure.update_xaxes(
        title="Share of the difference", tickformat=percent_format(shown["share"].max()), rangemode="tozero", col=1
    )
    figure.update_xaxes(title="Cumulative", tickformat=".0%", range=[0, 1], tickvals=[0, 0.5, 1], col=2)
    finish(
        figure,
        _difference_finding(ranked),
        f"Squared difference of {' and '.join(_pair(table))}, module by module, split by channel"
        + (f"; the {len(shown)} largest of {len(ranked)}." if len(shown) < len(ranked) else "."),
        170 + 26 * len(shown),
        panels=True,
    )
    # Room for the last label, and the channels in the order in which they are stacked.
    return figure.update_layout(legend={"traceorder": "normal"}, margin_r=24)


def _difference_finding(ranked: pd.DataFrame) -> str:
    first, second = _pair(ranked)
    if not ranked["share"].notna().any():
        return f"{first} and {second} do the same to every module."
    # The fewest that hold half: rounding must not ask for one more.
    count = int((ranked["cumulative"] < 0.5 - 1e-9).sum()) + 1
    holds = "holds" if count == 1 else "hold"
    return (
        f"{count} of {len(ranked)} modules {holds} {percent(ranked['cumulative'].iloc[count - 1])} of the difference; "
        f"spread evenly it would be {percent(count / len(ranked))}."
    )


def _pair(table: pd.DataFrame) -> tuple[str, str]:
    return str(table["first"].iloc[0]), str(table["second"].iloc[0])


def _short(module: str) -> str:
    """Return a module's name without the prefix that all share, so that a narrow screen has room for the bars."""
    name = module.removeprefix("model.").removeprefix("layers.")
    return name if len(name) <= _LONGEST_MODULE else "…" + name[1 - _LONGEST_MODULE :]


def training_spectrum(table: pd.DataFrame, k: int) -> go.Figure:
    """Draw where the energy of an update lies at each checkpoint, with a slider and a button that plays them.

    The frames are the figure's own: it plays in a saved HTML page too. The axes stay the same over all steps.

    Args:
        table: from `checkpoint_table`; a categorical `run` gives the run its place among the adapters, and colour.
        k: principal rank.
    """
    run = str(table["run"].iloc[0])
    color = adapter_colors(table["run"])[run]
    steps = sorted(table["step"].unique())
    by_step = {step: table[table["step"] == step] for step in steps}
    energies = pd.concat([table["left"], table["right"]])
    top = float(energies.max()) if (energies > 0).any() else 1.0
    # Seven decades: what lies below is rounding of the update, or the empty part of a split one.
    low = max(float(energies[energies > 0].min()) if (energies > 0).any() else 1e-7, top * 1e-7)
    figure = make_subplots(
        rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=list(SIDES.values())
    )
    for trace, col in _traces_at(by_step[steps[-1]], run, color, low):
        figure.add_trace(trace, row=1, col=col)
    figure.frames = [
        go.Frame(
            name=str(step),
            data=[trace for trace, _ in _traces_at(part, run, color, low)],
            traces=list(range(len(figure.data))),
        )
        for step, part in by_step.items()
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
    return _with_player(figure, [str(step) for step in steps])


def _traces_at(part: pd.DataFrame, run: str, color: str, low: float) -> list[tuple[go.Scatter, int]]:
    """Return the lines of one step with their panels: each direction, octave means, chance; both sides alike."""
    traces = []
    directions = part["direction"].to_numpy(np.float32)
    for col, side in enumerate(SIDES, start=1):
        values = part[side].to_numpy(np.float64)
        starts, means = octave_means(directions, values)
        chance = float(part[f"{side}_null"].iloc[0])
        traces += [
            (
                go.Scatter(
                    x=directions,
                    # A logarithm needs something to stand on; below the axis is out of sight.
                    y=np.maximum(values, low * 1e-3).astype(np.float32),
                    mode="lines",
                    name=run,
                    line={"color": color, "width": 1},
                    opacity=0.45,
                    showlegend=False,
                    hovertemplate="direction %{x}<br>%{y:.3g} of the weight's energy<extra></extra>",
                ),
                col,
            ),
            (
                go.Scatter(
                    x=starts,
                    y=np.maximum(means, low * 1e-3).astype(np.float32),
                    mode="lines",
                    name=f"{run}, octave means",
                    line={"color": color, "width": 3, "shape": "hv"},
                    showlegend=col == 1,
                    hovertemplate="from direction %{x}<br>%{y:.3g} on average<extra></extra>",
                ),
                col,
            ),
            (
                go.Scatter(
                    x=directions[[0, -1]],
                    y=np.full(2, max(chance, low * 1e-3), dtype=np.float32),
                    mode="lines",
                    name="by chance",
                    line={"color": NULL, "width": 2, "dash": "dash"},
                    showlegend=col == 1,
                    hovertemplate="%{y:.3g} by chance<extra></extra>",
                ),
                col,
            ),
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
