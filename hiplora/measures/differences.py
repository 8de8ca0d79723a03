"""Two adapters on one base, module by module: how far apart they are, where, and in which channel."""

import math

import numpy as np
import pandas as pd

from hiplora.adapters import Adapter, Delta, DenseDelta, LowRankDelta
from hiplora.measures.layers import DEFAULT_EPSILON, layer_table, matched_weights, measure, require_rank, update_of
from hiplora.measures.pairs import pair_table
from hiplora.sources.base import in_data_order
from hiplora.spectrum.prepare import BaseSpectra

_ROUNDING = 1e-13


def difference(first: Delta, second: Delta) -> Delta:
    """Return `dW_A - dW_B` (m x n); of two low-rank updates never formed, and of rank `q_A + q_B` at most.

    It is the SVD of the stacked factors `[L_A, L_B] [R_A; -R_B]`, so that its norm is exact to rounding of the updates'
    norms. The inner products alone would lose half of the digits where two updates nearly agree. What is below
    rounding is zero.

    Args:
        first: (m, n).
        second: (m, n).

    Raises:
        ValueError: shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"updates of shapes {first.shape} and {second.shape} have no difference")
    if isinstance(first, LowRankDelta) and isinstance(second, LowRankDelta):
        stacked = LowRankDelta(np.hstack([first.L, second.L]), np.vstack([first.R, -second.R]))
        left, s, right_t = stacked.compact_svd
        kept = s > _ROUNDING * (math.sqrt(first.energy) + math.sqrt(second.energy))
        return LowRankDelta(left[:, kept] * s[kept], right_t[kept]) if kept.any() else _zero(first.shape)
    return DenseDelta(first.dense() - second.dense())


def difference_table(
    spectra: BaseSpectra,
    first: Adapter,
    second: Adapter,
    k: int,
    *,
    epsilon: float | None = None,
    power: float = 1.0,
) -> pd.DataFrame:
    """Return one row per module that either adapter changes, in data order; one that is left alone counts as zero.

    The difference `dW_A - dW_B` is measured as an update is: the columns of the layer table (`norm`, `relative_norm`,
    `pp, pr, rp, rr` with their null, ...) are those of the difference, and `adapter` names the pair. Beside them:
    `first, second, first_norm, second_norm`, `mixed` (`pr + rp`), the columns of `pair_table` (`cosine, cosine_pp,
    cosine_rr, overlap_left, overlap_right, joint_tightness`), and `share`, the module's part of the squared difference
    over all modules (NaN where there is none). Which columns, and the share, are our choice.

    Args:
        spectra: of the base; what is missing is computed.
        first: adapter A.
        second: adapter B, of another name.
        k: principal rank.
        epsilon: budget of the joint tightness; None for the smaller of the adapters' own.
        power: `p` of the budget's weights.

    Raises:
        HiploraError: an adapter does not fit the base, holds NaN, or `k` is larger than a layer.
        ValueError: the two adapters have one name.
    """
    if first.name == second.name:
        raise ValueError(f"two adapters of one name ({first.name}) cannot be told apart")
    places = {
        adapter.name: {weight.module: (name, weight) for name, weight in matched_weights(spectra.base, adapter).items()}
        for adapter in (first, second)
    }
    weights = {module: weight for found in places.values() for module, (_, weight) in found.items()}
    require_rank(weights.values(), k)
    measured, rows = [], []
    for module in in_data_order(weights):
        weight = weights[module]
        spectrum = spectra.get(weight, k)
        deltas: dict[str, Delta] = {}
        budgets = []
        for adapter in (first, second):
            deltas[adapter.name] = _zero(weight.shape)
            if module in places[adapter.name]:
                name = places[adapter.name][module][0]
                deltas[adapter.name] = update_of(spectra.base, adapter, name, weight)
                budgets.append(adapter.epsilon(name))
        own = min((budget for budget in budgets if budget is not None), default=DEFAULT_EPSILON)
        budget = epsilon or own
        measured.append(
            measure(
                spectrum,
                difference(*deltas.values()),
                k,
                adapter=f"{first.name} against {second.name}",
                method="difference",
                module=module,
                epsilon=budget,
            )
        )
        norms = {
            f"{place}_norm": math.sqrt(delta.energy)
            for place, delta in zip(("first", "second"), deltas.values(), strict=True)
        }
        rows.append(norms | pair_table(spectrum, deltas, k, budget, power).iloc[0].to_dict())
    table = layer_table(measured, power=power).join(pd.DataFrame(rows))
    energy = table["norm"] ** 2
    table["mixed"] = table["pr"] + table["rp"]
    table["share"] = energy / energy.sum() if energy.sum() > 0 else np.nan
    return table


def _zero(shape: tuple[int, int]) -> LowRankDelta:
    return LowRankDelta(np.zeros((shape[0], 1)), np.zeros((1, shape[1])))
