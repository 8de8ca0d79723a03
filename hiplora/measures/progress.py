"""What is looked at again and again while an adapter trains: the part of the layer table that needs no SVD of it."""

import math

import pandas as pd

from hiplora.adapters import Adapter
from hiplora.budget import budget_cost, tightness
from hiplora.measures.channels import channels
from hiplora.measures.layers import matched_weights, update_of
from hiplora.sources.base import in_data_order
from hiplora.spectrum.prepare import BaseSpectra


def progress_table(spectra: BaseSpectra, adapter: Adapter, k: int, epsilon: float, power: float) -> pd.DataFrame:
    """Return one row per module.

    Columns: `module, norm, relative_norm, principal_norm, mixed_norm, residual_norm, base_norm, epsilon, tightness`.

    Args:
        spectra: of the base.
        adapter: as it is now.
        k: principal rank.
        epsilon: budget of modules for which the adapter states none.
        power: `p` of the budget's weights.
    """
    plan = {weight.module: (module, weight) for module, weight in matched_weights(spectra.base, adapter).items()}
    rows = []
    for name in in_data_order(plan):
        module, weight = plan[name]
        head = spectra.get(weight, k).truncate(k)
        parts = channels(update_of(spectra.base, adapter, module, weight), head.Ut, head.Vt)
        own = adapter.epsilon(module) or epsilon
        rows.append(
            {
                "module": name,
                "norm": math.sqrt(parts.total),
                "relative_norm": math.sqrt(parts.total) / head.frobenius if head.frobenius else math.nan,
                "principal_norm": math.sqrt(parts.pp),
                "mixed_norm": math.sqrt(parts.pr + parts.rp),
                "residual_norm": math.sqrt(parts.rr),
                "base_norm": head.frobenius,
                "epsilon": own,
                "tightness": tightness(budget_cost(parts.core, head.sigma, power), own),
            }
        )
    return pd.DataFrame(rows)
