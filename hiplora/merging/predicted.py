"""What the geometry of merges says beforehand, beside what they keep."""

from typing import Final

import pandas as pd

from hiplora.effects import indicator_table
from hiplora.merging.outcomes import ALL, BASE, MERGE

PREDICTORS: Final = ("relative_norm", "pp", "enrichment", "max_tightness")
"""Columns of the geometry of a merge that may say how much of the base it loses."""


def prediction_table(geometry: pd.DataFrame, outcomes: pd.DataFrame) -> pd.DataFrame:
    """Return how well the geometry of merges predicts what they lose of the base.

    One row per indicator (`relative_norm`, `pp`, `enrichment`, `max_tightness`) and merge that was scored. Columns:

    - `indicator`, `outcome` (key of the way), `value` of the indicator;
    - `task_kept` (the mean over the tasks), `retention`, and `lost`: how much less of the base is kept than of the base
      itself;
    - of the indicator: `rank_correlation` (Spearman's) of value and loss, `low, high` (95 %, from 1000 resamplings of
      the ways), and `ways`, their number.

    Args:
        geometry: from `Study.merge_geometry`.
        outcomes: from `Study.merge_outcomes`, of the same adapters and weights.
    """
    together = outcomes[outcomes["adapter"] == ALL].set_index(["kind", "outcome"])
    whole = float(together.xs(BASE)["retention"].iloc[0])
    measured = together.loc[[MERGE], ["task_kept", "retention"]]
    wide = geometry.join(measured.assign(lost=whole - measured["retention"]), on=["kind", "outcome"], how="inner")
    ranks = indicator_table(wide, PREDICTORS, "lost").rename(columns={"parts": "ways"})
    kept = ["outcome", "task_kept", "retention", "lost"]
    return wide.melt(kept, list(PREDICTORS), "indicator")[["indicator", "value", *kept]].merge(ranks, on="indicator")
