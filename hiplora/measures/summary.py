"""Sums of the layer table: per adapter, per layer and channel, and of the energy that a hard budget would have cut."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from hiplora.measures.null import beta_band

SCORES = ("task_score", "retention")
"""Columns of `Study.summary` that come from cards."""
SMALL = 0.02
"""Relative norm below which an update is called small: our choice."""
_KEEPS = 0.98


def summary_table(layers: pd.DataFrame) -> pd.DataFrame:
    """Sum the layer table up, adapter by adapter, in the order in which they appear.

    Shares are of the energy of all modules together; their null is the energy-weighted mean of the modules' nulls,
    with the variances added as of independent modules. Columns: `adapter, method, modules, relative_norm, pp, pr, rp,
    rr, pp_null, pp_null_low, pp_null_high, enrichment, max_tightness, over_budget` (modules with tightness above 1),
    `mean_stable_rank`, `intruders` (NaN where they were not counted).

    Args:
        layers: from `layer_table`.
    """
    rows = []
    for adapter, group in layers.groupby("adapter", sort=False):
        blocks = summed_blocks(group)
        del blocks["pp_null_sd"]
        rows.append(
            {
                "adapter": adapter,
                "method": group["method"].iloc[0],
                "modules": len(group),
                **blocks,
                "max_tightness": float(group["tightness"].max()),
                "over_budget": int((group["tightness"] > 1).sum()),
                "mean_stable_rank": float(group["stable_rank"].mean()),
                "intruders": float(group["intruders"].sum()) if group["intruders"].notna().all() else np.nan,
            }
        )
    return pd.DataFrame(rows)


def summed_blocks(rows: pd.DataFrame) -> dict[str, float]:
    """Return size and blocks of several modules together, as in `summary_table`.

    Args:
        rows: of the layer table.
    """
    energy = rows["norm"].to_numpy() ** 2
    total, base = energy.sum(), float(np.sum(rows["base_norm"] ** 2))
    weight = energy / total if total > 0 else np.full(len(energy), 1 / len(energy))
    live = energy > 0
    shares = {block: float(np.sum((weight * rows[block])[live])) for block in ("pp", "pr", "rp", "rr")}
    if not live.any():
        shares = dict.fromkeys(shares, float("nan"))
    null = beta_band(float(np.sum(weight * rows["pp_null"])), float(np.sum((weight * rows["pp_null_sd"]) ** 2)))
    return {
        "relative_norm": float(np.sqrt(total / base)) if base else float("nan"),
        **shares,
        "pp_null": null.mean,
        "pp_null_sd": null.sd,
        "pp_null_low": null.low,
        "pp_null_high": null.high,
        "enrichment": shares["pp"] / null.mean,
    }


def finding(row: pd.Series, k: int, geometry: str = "weights") -> str:
    """Return the finding on an update in one line: its share with its null, and its size.

    Args:
        row: of `summary_table`.
        k: principal rank of the table.
        geometry: of the table: in that of the `inputs`, size is the effect on them.
    """
    size = "relative norm" if geometry == "weights" else "relative effect on the inputs"
    what = f"{row['adapter']} ({row['method']}, {row['modules']} maps, k = {k})"
    if row["relative_norm"] == 0:
        return f"{what}: does nothing, its update is zero."
    chance = row["pp_null"]
    intruders = f"; {row['intruders']:.0f} intruder dimensions" if row["intruders"] >= 0 else ""
    over = f", over budget in {row['over_budget']} maps" if row["over_budget"] else ""
    return (
        f"{what}: {row['enrichment']:.3g} times a random update's share in the principal block "
        f"(95 % of random updates: {row['pp_null_low'] / chance:.3g} to {row['pp_null_high'] / chance:.3g}), "
        f"{row['pp']:.2%} of its energy; {size} {row['relative_norm']:.2g}; "
        f"max tightness {row['max_tightness']:.2g}{over}{intruders}"
    )


@dataclass(frozen=True)
class Judgement:
    """What a summary says of an update in plain words.

    Attributes:
        verdict: one sentence, without the update's name.
        advice: what to do next, one sentence.
        page: of the app that shows it.
        reason: the numbers behind it, one sentence.
    """

    verdict: str
    advice: str
    page: str
    reason: str


def judgement(row: pd.Series, geometry: str = "weights") -> Judgement:
    """Judge an update by its size, its place beside chance, and what was measured of forgetting, if anything was.

    Geometry alone is never called forgetting. "Small" is a relative norm (or effect) below `SMALL`: our choice.

    Args:
        row: of `Study.summary`.
        geometry: of that table.
    """
    size, above = float(row["relative_norm"]), bool(row["pp"] > row["pp_null_high"])
    of_what = "of the weight" if geometry == "weights" else "of the output on its inputs"
    reason = (
        f"Size: {size:.2g} {of_what}. Principal block: {row['enrichment']:.3g} times chance, where 95 % of random "
        f"updates lie between {row['pp_null_low'] / row['pp_null']:.3g} and {row['pp_null_high'] / row['pp_null']:.3g}."
    )
    kept = float(row["retention"]) if pd.notna(row.get("retention")) else None
    reason += " Nothing measured says what it forgets." if kept is None else f" Base skills kept, measured: {kept:.1%}."
    if size == 0:
        return Judgement("It changes nothing.", "Check that the right file was saved.", "read", reason)
    if size > 1:
        return Judgement(
            "It is larger than the base itself, as if it belonged to another.", "Check how it was read.", "read", reason
        )
    if kept is not None and kept >= _KEEPS:
        return Judgement("It keeps the base, as measured.", "There is nothing to mend.", "compare", reason)
    lost = "" if kept is None else f", and has lost {1 - kept:.0%} of the base's skills"
    if above:
        start = "It is small, but leans" if size < SMALL else "It leans"
        return Judgement(
            f"{start} on the leading directions{lost}.",
            "See what its principal block causes, and what an edit gives back.",
            "effect",
            reason,
        )
    if size < SMALL and kept is None:
        return Judgement(
            "It is small and spread out like a random update.", "There is nothing to mend.", "spectrum", reason
        )
    return Judgement(
        f"It is spread out like a random update{', and large' if size >= SMALL else ''}{lost}.",
        "Its size is what to look at: see what scaling it down gives back.",
        "effect",
        reason,
    )


def channel_table(layers: pd.DataFrame, kind: str | None = None) -> pd.DataFrame:
    """Return the norms of the channels per adapter and layer, the modules of a layer together.

    Columns: `adapter, layer, principal_norm, mixed_norm, residual_norm, norm` (Frobenius). Modules outside the
    numbered layers are left out.

    Args:
        layers: from `layer_table`.
        kind: one kind of module only; all by default.
    """
    rows = layers[layers["layer"].notna() & ((layers["kind"] == kind) if kind else True)]
    energy = rows["norm"] ** 2
    squares = pd.DataFrame(
        {
            "adapter": rows["adapter"],
            "layer": rows["layer"],
            "principal_norm": energy * rows["pp"].fillna(0),
            "mixed_norm": energy * (rows["pr"] + rows["rp"]).fillna(0),
            "residual_norm": energy * rows["rr"].fillna(0),
            "norm": energy,
        }
    )
    sums = squares.groupby(["adapter", "layer"], sort=False).sum().reset_index()
    columns = ["principal_norm", "mixed_norm", "residual_norm", "norm"]
    sums[columns] = np.sqrt(sums[columns])
    return sums


def cut_table(layers: pd.DataFrame) -> pd.DataFrame:
    """Return the energy cut by a hard budget: `C` scaled by `min(1, 1 / tightness)` (METHOD.md section 3).

    Columns: `adapter, module, layer, kind, tightness, scale, energy` (`||dW||_F^2`), `removed` (energy that goes with
    the scaling of the principal block), `removed_share`.

    Args:
        layers: from `layer_table`.
    """
    table = layers[["adapter", "module", "layer", "kind", "tightness"]].copy()
    table["scale"] = 1 / np.maximum(layers["tightness"].fillna(0), 1)
    table["energy"] = layers["norm"] ** 2
    table["removed"] = table["energy"] * layers["pp"].fillna(0) * (1 - table["scale"] ** 2)
    table["removed_share"] = table["removed"] / table["energy"].where(table["energy"] > 0)
    return table
