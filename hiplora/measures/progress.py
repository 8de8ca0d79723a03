"""The part of the layer table that is fast enough to measure repeatedly during training."""

import math

import pandas as pd

from hiplora.adapters import Delta, LowRankDelta, Placement
from hiplora.budget import budget_cost, tightness
from hiplora.measures.channels import channels
from hiplora.measures.null import Null, leading, null_of
from hiplora.spectrum import BaseSpectra, Spectrum
from hiplora.spectrum.blas import one_blas_thread

_DENSE_UP_TO = 256
"""Shorter side of the largest update of full rank with a null: its singular values cost more than steps of training."""


def progress_table(spectra: BaseSpectra, placement: Placement, k: int, epsilon: float, power: float) -> pd.DataFrame:
    """Return one row per module.

    Columns: `module, norm, relative_norm, principal_norm, mixed_norm, residual_norm, base_norm, epsilon, tightness`,
    and of the layer table `pp, pr, rp, rr, pp_null, pp_null_sd`. The null of a large update that is not of low rank is
    NaN.

    Args:
        spectra: of the base; an `InputSpectra` with a placement that is `seen` by it.
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
            null = _null(head, delta)
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
                    **{block: parts.share(block) for block in ("pp", "pr", "rp", "rr")},
                    "pp_null": null.mean,
                    "pp_null_sd": null.sd,
                }
            )
    return pd.DataFrame(rows)


def _null(head: Spectrum, delta: Delta) -> Null:
    """Return the null of the share in the principal block, NaN where it costs too much."""
    if not isinstance(delta, LowRankDelta) and min(delta.shape) > _DENSE_UP_TO:
        return Null(*[math.nan] * 4)
    k, reach = len(head.sigma), leading(head)
    return null_of(k, delta.shape, delta.parts, reach=None if reach is None else reach[k - 1])
