"""Ways to mend an update: what each setting keeps of the task and of the base."""

import pandas as pd
import plotly.graph_objects as go

from hiplora.figures.scales import Scale, scale_of
from hiplora.figures.style import NULL, adapter_colors, blocks_of, finish

_SYMBOLS = {
    "as trained": "star",
    "blocks": "circle",
    "scaled": "diamond",
    "rank cut": "square",
    "hard threshold": "hourglass",
    "within budget": "triangle-up",
    "intruders mitigated": "cross",
}


def repair_outcomes(table: pd.DataFrame) -> go.Figure:
    """Draw task score against what is kept of the base for every setting, the best of each way filled.

    Args:
        table: of one update, from `hiplora.effects.repair`.
    """
    adapter, scale = table["adapter"].iloc[0], scale_of(table)
    color = adapter_colors(table["adapter"])[adapter]
    figure = go.Figure()
    for way, rows in table.groupby("way", sort=False):
        shade = color if way in ("blocks", "as trained") else NULL
        symbol = _SYMBOLS.get(str(way), "x")
        figure.add_scatter(
            x=rows[scale.kept],
            y=rows[scale.task],
            mode="markers",
            name=str(way),
            marker={
                "symbol": [symbol if best else f"{symbol}-open" for best in rows["chosen"]],
                "size": [15 if best else 9 for best in rows["chosen"]],
                "color": shade,
                "line": {"width": 1.5, "color": shade},
            },
            customdata=rows[
                ["edit", "norm", "healed", "damaged", f"validation_{scale.kept}", f"validation_{scale.task}"]
            ],
            hovertemplate=(
                f"<b>%{{customdata[0]}}</b>, norm x %{{customdata[1]:.2f}}<br>kept %{{x:{scale.hover}}}, task "
                f"%{{y:{scale.hover}}}<br>healed %{{customdata[2]:.0%}}, damaged %{{customdata[3]:{scale.hover}}}<br>"
                f"on the half that chose: kept %{{customdata[4]:{scale.hover}}}, task %{{customdata[5]:{scale.hover}}}"
                f"<extra>{way}</extra>"
            ),
        )
    figure.update_xaxes(title=scale.kept_title, tickformat=scale.tick)
    figure.update_yaxes(title=scale.task_title, tickformat=scale.tick)
    what, may = (
        ("windows of the texts", "lose 5 % of what was learned") if scale.better < 0 else ("examples", "lose one point")
    )
    return finish(
        figure,
        _finding(table, adapter, scale),
        f"Scores on the half of the {what} that chose nothing. Filled: the best setting of each way, chosen on the "
        f"other half, where the task may {may}.{blocks_of(table)}",
        420,
        left=72,
    )


def _finding(table: pd.DataFrame, adapter: str, scale: Scale) -> str:
    trained = table.iloc[0]
    chosen = {row["way"]: row for row in table[table["chosen"]].to_dict("records")}
    if "blocks" not in chosen:
        return f"No edit by block keeps the task of {adapter}."
    best = chosen["blocks"]
    loss, known = scale.better < 0, not pd.isna(best[scale.task])
    kept, before = scale.words(best[scale.kept]), scale.words(trained[scale.kept])
    beside = ""
    if "scaled" in chosen:
        scaled, unsure = chosen["scaled"], best["gain_low"] <= 0 <= best["gain_high"]
        beside = f"; scaled ({scaled['edit']}) it keeps {scale.words(scaled[scale.kept])}"
        beside = beside.replace("it keeps", "at") if loss else beside
        beside += f", which these {'windows' if loss else 'examples'} cannot tell apart" if unsure else ""
    if loss:
        return (
            f"With {best['edit']}, {adapter} reads the kept text at {kept} a token instead of {before}, and its task's "
            f"at {scale.words(best[scale.task])}{beside}."
        )
    task = f", and scores {scale.words(best[scale.task])} on its task" if known else ""
    return f"With {best['edit']}, {adapter} keeps {kept} of the base instead of {before}{task}{beside}."
