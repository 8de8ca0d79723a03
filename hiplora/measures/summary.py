"""Sums of the layer table: per adapter, per layer and channel, and of the energy that a hard budget would have cut."""

import numpy as np
import pandas as pd

from hiplora.measures.null import beta_band
from hiplora.printable import apart

SCORES = ("task_score", "retention")
"""Columns of `Study.summary` that come from cards."""


def summary_table(layers: pd.DataFrame) -> pd.DataFrame:
    """Sum the layer table up, adapter by adapter, in the order in which they appear.

    Shares are of the energy of all modules together; their null is the energy-weighted mean of the modules' nulls,
    with the variances added as of independent modules. Columns: `adapter, method, modules, relative_norm, pp, pr, rp,
    rr, pp_null, pp_null_low, pp_null_high, enrichment, max_tightness, over_budget` (modules with tightness above 1),
    `mean_stable_rank`, `intruders` (NaN where they were not counted), `top_module` (of those above the band of random
    updates, the one with the highest enrichment; empty where none is), `top_enrichment`.

    Args:
        layers: from `layer_table`.
    """
    rows = []
    for adapter, group in layers.groupby("adapter", sort=False):
        blocks = summed_blocks(group)
        del blocks["pp_null_sd"]
        above = group[group["pp"] > group["pp_null_high"]]
        top = above.iloc[int(above["enrichment"].argmax())] if len(above) else None
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
                "top_module": "" if top is None else str(top["module"]),
                "top_enrichment": np.nan if top is None else float(top["enrichment"]),
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
    enrichment, low, high = beside_band(row)
    intruders = f"; {row['intruders']:.0f} intruder dimensions" if row["intruders"] >= 0 else ""
    over = f", over budget in {row['over_budget']} maps" if row["over_budget"] else ""
    return (
        f"{what}: {enrichment} times a random update's share in the principal block "
        f"(95 % of random updates: {low} to {high}), "
        f"{row['pp']:.2%} of its energy; {size} {row['relative_norm']:.2g}; "
        f"max tightness {row['max_tightness']:.2g}{over}{intruders}"
    )


def beside_band(row: pd.Series) -> list[str]:
    """Return the enrichment and both ends of the band of random updates, with digits enough to tell them apart.

    Args:
        row: of `summary_table`.
    """
    edges = (row["pp_null_low"] / row["pp_null"], row["pp_null_high"] / row["pp_null"])
    return apart(row["enrichment"], *edges)


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
