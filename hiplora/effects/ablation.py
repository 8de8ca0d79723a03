"""What each block of an update causes: the update without it, with it alone, and each beside its control.

The control of an edit is the whole update scaled to the edit's norm: taking almost anything away helps an adapter that
has learned more than it needs, so an edit says something only beside it.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

from hiplora.adapters import Gains
from hiplora.effects.bench import Bench, Chosen

BLOCKS: Final = ("PP", "PR", "RP", "RR")
AS_TRAINED: Final = "as trained"


def edits() -> dict[str, Gains]:
    """Return the edits of an ablation by name: as trained, each block removed, each block alone."""
    none = dict.fromkeys(map(str.lower, BLOCKS), 0.0)
    removed = {f"without {block}": Gains(**{block.lower(): 0.0}) for block in BLOCKS}
    alone = {f"{block} alone": Gains(**(none | {block.lower(): 1.0})) for block in BLOCKS}
    return {AS_TRAINED: Gains()} | removed | alone


def ablation(bench: Bench, chosen: Mapping[str, Chosen] | None = None) -> Iterator[pd.DataFrame]:
    """Score the edits of an update one after the other, and yield the table as it grows.

    One row per edit. Columns:

    - `adapter, edit, norm` (relative to the update as trained);
    - the score on the task and what is kept of the base: `task_score, retention` where scores are exact (retention is
      the mean over the base's skills of the score over the base's own), `task_loss, kept_loss` where they are losses,
      in nats per token; the same with `control_` before it, of the update scaled to the same norm;
    - `gain, gain_low, gain_high`: how much better the edit keeps the base than its control, with the 95 % interval over
      examples or windows of text (paired bootstrap);
    - `keeps_task`: see `Scores.allowance`;
    - `damage_per_energy, damage_per_energy_low, damage_per_energy_high, control_damage_per_energy`: what is lost of the
      base over the edit's share of the update's energy;
    - with losses also `base_task_loss, base_kept_loss, task_text, kept_text, caveat`.

    Without a known task its scores are NaN.

    Args:
        bench: the update, and the way to score.
        chosen: edits by name, of all modules or of some; those of `edits` by default.

    Raises:
        HiploraError: the base cannot be scored in this way, or the update cannot be read.
    """
    scores, base = bench.scores, bench.base
    rows: list[dict[str, Any]] = []
    trained = bench.edit(Gains())
    least = scores.better * scores.task_score(trained) - scores.allowance(base, trained)
    for name, gains in (edits() if chosen is None else chosen).items():
        share = bench.norm(gains)
        own = bench.edit(gains)
        control = own if name == AS_TRAINED else bench.edit(Gains(share, share, share, share))
        low, high = scores.gain_interval(base, own, control)
        damage = scores.damage(base, own, share**2)
        rows.append(
            {
                "adapter": bench.placement.update.name,
                "edit": name,
                "norm": share,
                scores.task: scores.task_score(own),
                scores.kept: scores.kept_score(base, own),
                f"control_{scores.task}": scores.task_score(control),
                f"control_{scores.kept}": scores.kept_score(base, control),
                "gain": scores.gain(base, own, control),
                "gain_low": low,
                "gain_high": high,
                # Without a known task nothing is lost of it.
                "keeps_task": not scores.better * scores.task_score(own) < least - 1e-9,
                **damage,
                "control_damage_per_energy": scores.damage(base, control, share**2)["damage_per_energy"],
                **bench.beside,
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

    Columns added: `recovered` (how much better the base is kept without the part), and of the removed part
    `energy_share`, `principal_share` (of the energy of all principal blocks), `relative_norm`, `enrichment`,
    `tightness` (the highest).
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
    kept = table["retention"] if "retention" in table else -table["kept_loss"]
    return found.assign(recovered=(kept - kept.iloc[0]).where(table.index > 0))
