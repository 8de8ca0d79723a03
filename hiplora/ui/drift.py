"""The drift of runs on a page: its card, and a sentence on what is not recorded."""

from collections.abc import Callable, Mapping
from functools import partial

import pandas as pd
import streamlit as st

from hiplora import figures
from hiplora.measures import MEASURES
from hiplora.training import Run
from hiplora.ui import cards, runs
from hiplora.ui.text import plain

_MEASURES = ("enrichment", "pp")


def show(
    table: "partial[pd.DataFrame]",
    shown: Mapping[str, Run],
    compute: "Callable[[partial[pd.DataFrame]], pd.DataFrame]" = lambda call: call(),
) -> None:
    """Draw the principal share of runs over their steps, and say of which it was not recorded.

    Args:
        table: a call that makes a table like `hiplora.training.drift_history`.
        shown: the runs, by their names in the table.
        compute: makes the table from its call, such as through a cache.
    """
    rows = compute(table)
    if len(rows):
        names = [MEASURES[column].name for column in _MEASURES]
        chosen = st.segmented_control("Drift shown as", names, default=names[0], key="drift-measure", required=True)
        measure = MEASURES[_MEASURES[names.index(chosen or names[0])]]
        steps = max(run.config.steps for run in shown.values())
        cards.figure_card(
            figures.principal_drift, table, steps, measure, name="drift", measures=(measure,), compute=compute
        )
    for sentence in missing(rows, shown):
        st.caption(plain(sentence))


def missing(rows: pd.DataFrame, shown: Mapping[str, Run]) -> list[str]:
    """Return a sentence on the runs whose drift was not recorded, and one on those where it was not on inputs.

    Args:
        rows: of the runs.
        shown: the runs, by their names in the table.
    """
    names = [name for name, run in shown.items() if runs.measured_after_start(run)]
    without = [name for name in names if not (rows["run"] == name).any()]
    on_inputs = set(rows.loc[rows["geometry"] == "inputs", "run"])
    left = [name for name in names if name not in without and name not in on_inputs]
    weights_only = [name for name in left if not shown[name].watched]
    watched = [name for name in left if shown[name].watched]
    found = []
    if without:
        found.append(
            f"The drift of {', '.join(without)} was not recorded: an earlier version trained it, or its update is "
            "large and not of low rank. Its last checkpoint can be compared all the same."
        )
    if weights_only:
        found.append(
            f"The drift of {', '.join(weights_only)} on inputs was not recorded: `hiplora calibrate` the base before "
            "the next run."
        )
    if watched:
        found.append(
            f"The drift of {', '.join(watched)} on inputs was not recorded: the callback records it with "
            "geometry='inputs'."
        )
    return found
