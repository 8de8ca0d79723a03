"""Two updates on one base, module by module: how far apart they are, where, and in which channel."""

import math

import numpy as np
import pandas as pd

from hiplora.adapters import Delta, LowRankDelta, Placement
from hiplora.budget import joint_epsilon
from hiplora.measures.layers import changed_weights, layer_table
from hiplora.measures.measurement import measure
from hiplora.measures.pairs import pair_table
from hiplora.spectrum import BaseSpectra
from hiplora.spectrum.blas import one_blas_thread

_ROUNDING = 1e-13


def difference(first: Delta, second: Delta) -> Delta:
    """Return `dW_A - dW_B` (m x n); for two low-rank updates of rank at most `q_A + q_B`, and never formed.

    It is the SVD of the stacked factors, so that its norm is exact to rounding of the updates' norms. Inner products
    alone would lose half of the digits when two updates nearly agree. Values below rounding become zero.

    Args:
        first: (m, n).
        second: (m, n).

    Raises:
        ValueError: shapes differ.
    """
    apart = first - second
    if not isinstance(apart, LowRankDelta):
        return apart
    left, s, right_t = apart.compact_svd
    kept = s > _ROUNDING * (math.sqrt(first.energy) + math.sqrt(second.energy))
    if not kept.any():
        return LowRankDelta.zero(first.shape)
    return LowRankDelta(left[:, kept] * s[kept], right_t[kept], apart.own)


def difference_table(
    spectra: BaseSpectra,
    first: Placement,
    second: Placement,
    k: int,
    *,
    epsilon: float | None = None,
    power: float = 1.0,
) -> pd.DataFrame:
    """Return one row per module changed by either update, in data order; one that is left alone counts as zero.

    The difference `dW_A - dW_B` is measured as an update is: the columns of the layer table (`norm`, `relative_norm`,
    `pp, pr, rp, rr` with their null, ...) are those of the difference, and `adapter` names the pair. Beside them:
    `first, second, first_norm, second_norm`, `mixed` (`pr + rp`), the columns of `pair_table` (`cosine, cosine_pp,
    cosine_rr, overlap_left, overlap_right, joint_tightness`), and `share`, the module's part of the squared difference
    over all modules (NaN where there is none). Which columns, and the share, are our choice.

    Args:
        spectra: of the base; what is missing is computed.
        first: update A on the base.
        second: update B, of another name.
        k: principal rank; a module that has fewer directions is measured at all it has.
        epsilon: budget of the joint tightness; None for the smaller of the updates' own.
        power: `p` of the budget's weights.

    Raises:
        HiploraError: an update holds NaN, or the budget is out of range.
        ValueError: the two updates share a name.
    """
    names = first.update.name, second.update.name
    if names[0] == names[1]:
        raise ValueError(f"two updates are named {names[0]}: give them different names")
    measured, rows = [], []
    with one_blas_thread():
        for weight in changed_weights([first, second]):
            spectrum, module = spectra.get(weight, k), weight.module
            deltas: dict[str, Delta] = {
                placement.update.name: placement.delta(module)
                if placement.changes(weight)
                else LowRankDelta.zero(weight.shape)
                for placement in (first, second)
            }
            changing = (placement for placement in (first, second) if placement.changes(weight))
            budget = joint_epsilon((placement.epsilon(module) for placement in changing), epsilon)
            measured.append(
                measure(
                    spectrum,
                    difference(*deltas.values()),
                    k,
                    adapter=f"{names[0]} against {names[1]}",
                    method="difference",
                    module=module,
                    epsilon=budget,
                )
            )
            norms = {
                f"{which}_norm": math.sqrt(delta.energy)
                for which, delta in zip(("first", "second"), deltas.values(), strict=True)
            }
            rows.append(norms | pair_table(spectrum, deltas, k, budget, power).iloc[0].to_dict())
    table = layer_table(measured, power=power).join(pd.DataFrame(rows))
    energy = table["norm"] ** 2
    table["mixed"] = table["pr"] + table["rp"]
    table["share"] = energy / energy.sum() if energy.sum() > 0 else np.nan
    return table
