"""What each block of an update causes: the update without it, with it alone, and each beside its control.

The control of an edit is the whole update scaled to the edit's norm: taking almost anything away helps an adapter that
has learned more than it needs, so an edit says something only beside it.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

from hiplora.adapters import Gains, Placement
from hiplora.demo.scored import Parts, Scorer, interval, retention
from hiplora.spectrum import BaseSpectra

BLOCKS: Final = ("PP", "PR", "RP", "RR")
AS_TRAINED: Final = "as trained"


def edits() -> dict[str, Gains]:
    """Return the edits of an ablation by name: as trained, each block removed, each block alone."""
    none = dict.fromkeys(map(str.lower, BLOCKS), 0.0)
    removed = {f"without {block}": Gains(**{block.lower(): 0.0}) for block in BLOCKS}
    alone = {f"{block} alone": Gains(**(none | {block.lower(): 1.0})) for block in BLOCKS}
    return {AS_TRAINED: Gains()} | removed | alone


def ablation(
    spectra: BaseSpectra,
    placement: Placement,
    k: int,
    size: int = 200,
    seed: int = 0,
    chosen: Mapping[str, Gains | Mapping[str, Gains]] | None = None,
) -> Iterator[pd.DataFrame]:
    """Score the edits of an update of the demo's base one after the other, and yield the table as it grows.

    One row per edit. Columns: `adapter, edit, norm` (relative to the update as trained), `task_score, retention` (mean
    over the base's skills of the score over the base's own), `control_task_score, control_retention` (the update scaled
    to the same norm), `gain, gain_low, gain_high`: the edit's retention less its control's, with its 95 % interval over
    examples (paired bootstrap). Without a known task its scores are NaN.

    Args:
        spectra: of the demo's base.
        placement: the update on it.
        k: principal rank.
        size: examples per skill, at most.
        seed: chooses the examples.
        chosen: edits by name, of all modules or of some; those of `edits` by default.

    Raises:
        HiploraError: the base is not the demo's, or the update cannot be read.
    """
    scorer = Scorer(placement, size, seed)
    parts = Parts(spectra, placement, k)
    base = scorer.right((module, np.zeros(placement.places[module].shape)) for module in parts.modules)
    whole = parts.norm(Gains())
    rows: list[dict[str, Any]] = []
    for name, gains in (edits() if chosen is None else chosen).items():
        share = parts.norm(gains) / whole if whole else 0.0
        own = scorer.right(parts.changes(gains))
        control = own if name == AS_TRAINED else scorer.right(parts.changes(Gains(share, share, share, share)))
        low, high = interval(base, own, control)
        kept, control_kept = retention(base, own), retention(base, control)
        rows.append(
            {
                "adapter": placement.update.name,
                "edit": name,
                "norm": share,
                "task_score": scorer.task_score(own),
                "retention": kept,
                "control_task_score": scorer.task_score(control),
                "control_retention": control_kept,
                "gain": kept - control_kept,
                "gain_low": low,
                "gain_high": high,
            }
        )
        yield pd.DataFrame(rows)


def removals(layers: pd.DataFrame, by: str) -> dict[str, dict[str, Gains]]:
    """Return the edits that remove one part of an update at a time, and `AS_TRAINED` first.

    Args:
        layers: rows of one update in the layer table.
        by: column that names the parts: `layer`, `kind` or `module`.
    """
    found: dict[str, dict[str, Gains]] = {AS_TRAINED: {}}
    for part, rows in layers.groupby(by, sort=False, dropna=False):
        name = f"layer {part}" if by == "layer" else str(part)
        found[f"without {name}"] = dict.fromkeys(rows["module"].astype(str), Gains(0, 0, 0, 0))
    return found


def with_indicators(table: pd.DataFrame, layers: pd.DataFrame, by: str) -> pd.DataFrame:
    """Add to the ablation of `removals` what the indicators say of each part.

    Columns added: `recovered` (retention gained by removing the part), and of the removed part `energy_share`,
    `principal_share` (of the energy of all principal blocks), `relative_norm`, `enrichment`, `tightness` (the highest).
    All are missing for the update as trained.

    Args:
        table: the ablation, or its first rows.
        layers: as for `removals`.
        by: as for `removals`.
    """
    energy = layers["norm"] ** 2
    sums = pd.DataFrame(
        {
            "part": layers[by],
            "energy": energy,
            "pp": energy * layers["pp"].fillna(0),
            "pp_null": energy * layers["pp_null"],
            "base": layers["base_norm"] ** 2,
            "tightness": layers["tightness"],
        }
    )
    parts = sums.groupby("part", sort=False, dropna=False).agg(
        {"energy": "sum", "pp": "sum", "pp_null": "sum", "base": "sum", "tightness": "max"}
    )
    told = pd.DataFrame(
        {
            "energy_share": parts["energy"] / (energy.sum() or np.nan),
            "principal_share": parts["pp"] / (sums["pp"].sum() or np.nan),
            "relative_norm": np.sqrt(parts["energy"] / parts["base"]),
            "enrichment": parts["pp"] / parts["pp_null"].where(parts["pp_null"] > 0),
            "tightness": parts["tightness"],
        }
    ).reset_index(drop=True)
    told.index = told.index + 1
    found = table.join(told)
    return found.assign(recovered=(table["retention"] - table["retention"].iloc[0]).where(table.index > 0))


INDICATORS: Final = ("energy_share", "principal_share", "relative_norm", "enrichment", "tightness")


def indicator_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return how well each indicator ranks the parts by what their removal gives back of the base.

    Columns: `indicator, rank_correlation` (Spearman's), `low, high` (95 %, from 1000 resamplings of the parts) and
    `parts`. With few parts the interval is wide: that is all that few parts can say.

    Args:
        table: from `with_indicators`.
    """
    from scipy.stats import spearmanr

    parts, rng = table.dropna(subset=["recovered"]), np.random.default_rng(0)
    rows = []
    for indicator in INDICATORS:
        pair = parts[[indicator, "recovered"]].dropna().to_numpy(np.float64)

        def correlation(chosen: np.ndarray) -> float:
            constant = len(chosen) < 3 or np.ptp(chosen[:, 0]) == 0 or np.ptp(chosen[:, 1]) == 0
            return np.nan if constant else float(spearmanr(chosen[:, 0], chosen[:, 1]).statistic)

        draws = (
            [correlation(pair[rng.integers(len(pair), size=len(pair))]) for _ in range(1000)] if len(pair) else [np.nan]
        )
        low, high = np.nanquantile(draws, [0.025, 0.975]) if not np.isnan(draws).all() else (np.nan, np.nan)
        rows.append(
            {
                "indicator": indicator,
                "rank_correlation": correlation(pair),
                "low": low,
                "high": high,
                "parts": len(pair),
            }
        )
    return pd.DataFrame(rows)
