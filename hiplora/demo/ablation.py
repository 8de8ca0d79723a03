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
    chosen: Mapping[str, Gains] | None = None,
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
        chosen: edits by name; those of `edits` by default.

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
