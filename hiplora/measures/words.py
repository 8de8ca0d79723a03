"""Summaries and modules as tables of words, for people to read: a terminal, a report."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from hiplora.measures.summary import beside_band
from hiplora.printable import NONE


def summary_words(summary: pd.DataFrame, geometry: str = "weights") -> pd.DataFrame:
    """Return the summary as a table of words, one row per adapter.

    Args:
        summary: from `Study.summary`; columns that are empty for all adapters are left out.
        geometry: of the summary: in that of the `inputs`, size is the effect on them.
    """
    return _words(
        {
            "Adapter": row["adapter"],
            "Method": row["method"],
            **_place(row, geometry),
            "Highest tightness": _number(row["max_tightness"]),
            "Over budget": f"{row['over_budget']} of {row['modules']}",
            "Intruders": _count(row["intruders"]),
            "Task score": _percent(row.get("task_score")),
            "Base skills kept": _percent(row.get("retention")),
        }
        for row in summary.to_dict("records")
    )


def worst_words(layers: pd.DataFrame, count: int, geometry: str = "weights") -> pd.DataFrame:
    """Return the modules of each adapter with the highest tightness as a table of words.

    Args:
        layers: from `layer_table`; modules without an update or without a tightness are left out.
        count: how many of each adapter, at most.
        geometry: of the table.
    """
    known = layers[(layers["norm"] > 0) & layers["tightness"].notna()]
    ranked = known.sort_values("tightness", ascending=False, kind="stable")
    of_each = [ranked[ranked["adapter"] == name].head(count) for name in dict.fromkeys(layers["adapter"])]
    return _words(
        {
            "Adapter": row["adapter"],
            "Module": row["module"],
            **_place(row, geometry),
            "Tightness": _number(row["tightness"]),
            "Intruders": _count(row["intruders"]),
        }
        for part in of_each
        for row in part.to_dict("records")
    )


def _place(row: Any, geometry: str) -> dict[str, str]:
    """Return the place of an update beside chance, and its size."""
    value, low, high = beside_band(row)
    return {
        "Times chance": value,
        "95 % of random": f"{low} to {high}",
        "Principal share": _percent(row["pp"]),
        "Norm" if geometry == "weights" else "Effect on inputs": _number(row["relative_norm"]),
    }


def _words(rows: Iterable[dict[str, str]]) -> pd.DataFrame:
    """Return rows of words as a table without the columns that say nothing."""
    table = pd.DataFrame(list(rows))
    optional: Sequence[str] = ("Intruders", "Task score", "Base skills kept")
    return table.drop(columns=[name for name in optional if name in table and (table[name] == NONE).all()])


def _number(value: Any) -> str:
    return NONE if pd.isna(value) else f"{value:.3g}"


def _percent(value: Any) -> str:
    return NONE if pd.isna(value) else f"{100 * value:.3g} %"


def _count(value: Any) -> str:
    return NONE if pd.isna(value) else f"{value:.0f}"
