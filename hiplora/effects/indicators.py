"""How well a number of the geometry ranks what was measured."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd

OF_PARTS: Final = ("energy_share", "principal_share", "relative_norm", "enrichment", "tightness")
"""Indicators of the parts of an update, as `hiplora.effects.ablation.with_indicators` adds them."""


def indicator_table(
    table: pd.DataFrame, indicators: Sequence[str] = OF_PARTS, measured: str = "recovered"
) -> pd.DataFrame:
    """Return how well each indicator ranks the rows of a table by what was measured of them.

    Columns: `indicator, rank_correlation` (Spearman's), `low, high` (95 %, from 1000 resamplings of the rows) and
    `parts`, the number of rows. With few rows the interval is wide: that is all that few can say.

    Args:
        table: such as from `hiplora.effects.ablation.with_indicators`, where `recovered` is what removing a part gives
            back of the base.
        indicators: columns of the table.
        measured: the column that they should rank; rows without a value are left out.
    """
    rows, rng = table.dropna(subset=[measured]), np.random.default_rng(0)
    found = []
    for indicator in indicators:
        pair = rows[[indicator, measured]].dropna().to_numpy(np.float64)
        drawn = pair[rng.integers(len(pair), size=(1000, len(pair)))] if len(pair) else pair[None]
        draws = _rank_correlation(drawn)
        low, high = np.nanquantile(draws, [0.025, 0.975]) if not np.isnan(draws).all() else (np.nan, np.nan)
        found.append(
            {
                "indicator": indicator,
                "rank_correlation": float(_rank_correlation(pair[None])[0]),
                "low": low,
                "high": high,
                "parts": len(pair),
            }
        )
    return pd.DataFrame(found)


def _rank_correlation(pairs: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation of each of several samples of pairs, (samples, pairs, 2).

    NaN where a sample has fewer than three pairs, or one side is constant.
    """
    from scipy.stats import rankdata

    samples, count, _ = pairs.shape
    if count < 3:
        return np.full(samples, np.nan)
    ranks = rankdata(pairs, axis=1) - (count + 1) / 2
    spread = np.sqrt((ranks**2).sum(axis=1).prod(axis=1))
    return np.divide(
        (ranks[..., 0] * ranks[..., 1]).sum(axis=1), spread, out=np.full(samples, np.nan), where=spread > 0
    )
