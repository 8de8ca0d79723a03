"""What the geometry of merges said beforehand, against what they keep."""

import math
from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from hiplora.figures.panels import panel_row
from hiplora.figures.style import finish, of_any_geometry, way_looks

_PREDICTORS = {
    "relative_norm": ("Relative norm", ".0%"),
    "pp": ("Principal share", ".1%"),
    "enrichment": ("Enrichment", ".3~g"),
    "max_tightness": ("Highest tightness", ".3~g"),
}


@of_any_geometry
def merge_predictions(table: pd.DataFrame) -> go.Figure:
    """Draw what each way keeps of the base against what its geometry said beforehand, in a panel for each number.

    Args:
        table: from `hiplora.merging.prediction_table`.
    """
    looks = way_looks(table["outcome"])
    parts = [(indicator, rows) for indicator, rows in table.groupby("indicator", sort=False)]
    figure = panel_row([_ranked(rows.iloc[0]) for _, rows in parts], 0.03)
    for column, (indicator, rows) in enumerate(parts, start=1):
        title, shape = _PREDICTORS[str(indicator)]
        for row in rows.to_dict("records"):
            color, symbol = looks[row["outcome"]]
            figure.add_scatter(
                x=[row["value"]],
                y=[row["retention"]],
                mode="markers",
                name=row["outcome"],
                legendgroup=row["outcome"],
                showlegend=column == 1,
                marker={"color": color, "symbol": symbol, "size": 11},
                hovertemplate=f"<b>{row['outcome']}</b><br>{title.lower()} %{{x:{shape}}}<br>base kept %{{y:.1%}}"
                "<extra></extra>",
                row=1,
                col=column,
            )
        figure.update_xaxes(title=title, tickformat=shape, nticks=4, row=1, col=column)
    figure.update_yaxes(tickformat=".0%")
    figure.update_yaxes(title="Kept of the base", row=1, col=1)
    figure = finish(
        figure,
        _predicted(table),
        "One mark per way to merge: its geometry, known before anything is scored, against what is measured. Above: "
        "rank correlation (Spearman's) with what is lost, 1 where the number puts the ways in the right order and 0 "
        "where it says nothing, with its 95 % interval over the ways.",
        460,
        panels=True,
    )
    # The titles of the panels have two lines.
    return figure.update_layout(
        legend={"entrywidth": 112, "y": -0.25, "yanchor": "top"}, margin={"t": figure.layout.margin.t + 14, "b": 110}
    ).update_annotations(font_size=13)


def _ranked(row: pd.Series) -> str:
    if math.isnan(row["rank_correlation"]):
        return "–"
    return f"{row['rank_correlation']:.2f}<br>({row['low']:.2f} to {row['high']:.2f})"


def _predicted(table: pd.DataFrame) -> str:
    ranks = table.drop_duplicates("indicator").dropna(subset=["rank_correlation", "low"])
    if ranks.empty:
        return "Too few ways are scored, or all lose the same: whether the geometry predicts it cannot be said."
    best = ranks.sort_values("rank_correlation", ascending=False, kind="stable")
    right, wrong = (
        [_PREDICTORS[name][0].lower() for name in best.loc[clear, "indicator"]]
        for clear in (best["low"] > 0, best["low"] <= 0)
    )
    if not right:
        return "No number of the geometry clearly ranks the ways by what they lose of the base."
    beside = f"; {_listed(wrong)} {'does' if len(wrong) == 1 else 'do'} not clearly" if wrong else ""
    ranking = f"{_listed(right).capitalize()} rank{'s' * (len(right) == 1)}"
    return f"{ranking} the ways by what they lose of the base{beside}."


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
