"""One row per adapter: the whole of the layer table in a few numbers, each with its null and the update's size."""

import numpy as np
import pandas as pd

from hiplora.measures.null import beta_band


def summary_table(layers: pd.DataFrame) -> pd.DataFrame:
    """Sum the layer table up, adapter by adapter, in the order in which they appear.

    Shares are of the energy of all modules together; their null is the energy-weighted mean of the modules' nulls,
    with the variances added as of independent modules. Columns: `adapter, method, modules, relative_norm, pp, pr, rp,
    rr, pp_null, pp_null_low, pp_null_high, enrichment, max_tightness, over_budget` (modules with tightness above 1),
    `mean_stable_rank`.

    Args:
        layers: from `layer_table`.
    """
    rows = []
    for adapter, group in layers.groupby("adapter", sort=False):
        energy = group["norm"].to_numpy() ** 2
        total = energy.sum()
        weight = energy / total if total > 0 else np.full(len(energy), np.nan)
        live = energy > 0
        shares = {block: float(np.sum((weight * group[block])[live])) for block in ("pp", "pr", "rp", "rr")}
        if not live.any():
            shares = dict.fromkeys(shares, float("nan"))
        null = beta_band(float(np.sum(weight * group["pp_null"])), float(np.sum((weight * group["pp_null_sd"]) ** 2)))
        rows.append(
            {
                "adapter": adapter,
                "method": group["method"].iloc[0],
                "modules": len(group),
                "relative_norm": float(np.sqrt(total / np.sum(group["base_norm"] ** 2))),
                **shares,
                "pp_null": null.mean,
                "pp_null_low": null.low,
                "pp_null_high": null.high,
                "enrichment": shares["pp"] / null.mean,
                "max_tightness": float(group["tightness"].max()),
                "over_budget": int((group["tightness"] > 1).sum()),
                "mean_stable_rank": float(group["stable_rank"].mean()),
            }
        )
    return pd.DataFrame(rows)
