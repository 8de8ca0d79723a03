"""The part of the layer table that is fast enough to measure repeatedly during training."""

import math

import pandas as pd

from hiplora.adapters import Placement
from hiplora.budget import budget_cost, tightness
from hiplora.measures.channels import channels
from hiplora.spectrum import BaseSpectra
from hiplora.spectrum.blas import one_blas_thread


def progress_table(spectra: BaseSpectra, placement: Placement, k: int, epsilon: float, power: float) -> pd.DataFrame:
    """Return one row per module.

    Columns: `module, norm, relative_norm, principal_norm, mixed_norm, residual_norm, base_norm, epsilon, tightness`.

    Args:
        spectra: of the base.
        placement: the update as it is now, on that base.
        k: principal rank.
        epsilon: budget of modules for which the update states none.
        power: `p` of the budget's weights.
    """
    rows = []
    with one_blas_thread():
        for weight, delta in placement:
            head = spectra.get(weight, k)
            parts = channels(delta, head.Ut, head.Vt)
            stated = placement.epsilon(weight.module)
            own = epsilon if stated is None else stated
            rows.append(
                {
                    "module": weight.module,
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
