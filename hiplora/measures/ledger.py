"""Updates put one on top of another: what each spends of a budget that they share, and what it leaves to the next."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from hiplora.adapters import Placement
from hiplora.budget import budget_cost, joint_epsilon, tightness
from hiplora.measures.layers import changed_weights
from hiplora.sources import layer_and_kind
from hiplora.spectrum import BaseSpectra
from hiplora.spectrum.blas import one_blas_thread


@one_blas_thread()
def ledger_table(
    spectra: BaseSpectra, placements: Sequence[Placement], k: int, *, epsilon: float | None = None, power: float = 1.0
) -> pd.DataFrame:
    """Return one row per module and update, in the order in which the updates are put on top of each other.

    All are measured on the base, as their sum is what stands on it in the end. Columns:

    - `adapter, position` (from 1), `module, layer, kind, epsilon` (of all together);
    - `tightness` of the update alone, 0 where it leaves the module alone;
    - `together`: of the sum of this update and all before it;
    - `independent`: what they would spend together if their cores were independent, the root of the sum of squares: the
      null of `together`, which is above it where updates reinforce each other, and below where they cancel;
    - `left`: what any next update may spend, whatever its direction, since the root of the cost is a norm: 1 -
      `together`, and 0 where the budget is spent;
    - `left_independent`: what one that is independent of the sum may spend, the root of 1 minus its square.

    All in units of the budget; NaN on a weight of zeros.

    Args:
        spectra: of the base; what is missing is computed.
        placements: the updates on the base, in their order.
        k: principal rank; a module that has fewer directions is measured at all it has.
        epsilon: the shared budget; None for the smallest of the updates' own.
        power: `p` of the budget's weights.

    Raises:
        HiploraError: an update holds NaN, or the budget is out of range.
    """
    rows = []
    for weight in changed_weights(placements):
        module = weight.module
        changing = [each for each in placements if each.changes(weight)]
        budget = joint_epsilon((each.epsilon(module) for each in changing), epsilon)
        head = spectra.at_least(weight, k).truncate(min(k, *weight.shape))
        Ut, Vt = head.Ut.astype(np.float64), head.Vt.astype(np.float64)
        layer, kind = layer_and_kind(module)
        whole, squares = np.zeros((head.k, head.k)), 0.0
        for position, placement in enumerate(placements, 1):
            core = (
                placement.delta(module).project(Ut, Vt).dense() if placement.changes(weight) else np.zeros_like(whole)
            )
            whole = whole + core
            own, together = (tightness(budget_cost(C, head.sigma, power), budget) for C in (core, whole))
            squares += own**2
            rows.append(
                {
                    "adapter": placement.update.name,
                    "position": position,
                    "module": module,
                    "layer": layer,
                    "kind": kind,
                    "epsilon": budget,
                    "tightness": own,
                    "together": together,
                    "independent": math.sqrt(squares),
                    "left": float(np.clip(1 - together, 0, None)),
                    "left_independent": math.sqrt(np.clip(1 - together**2, 0, None)),
                }
            )
    order = pd.CategoricalDtype(list(dict.fromkeys(placement.update.name for placement in placements)))
    return pd.DataFrame(rows, columns=_COLUMNS).astype({"adapter": order})


_COLUMNS = [
    "adapter", "position", "module", "layer", "kind", "epsilon", "tightness", "together", "independent", "left",
    "left_independent",
]  # fmt: skip


def ledger_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per update, in their order: how much of the budget is spent when it is on top.

    Columns: `adapter, position, modules`, `spent` and `together` (medians over modules), `most` (the highest of
    `together`), `over` (modules above the budget), `least_left` (the lowest of `left`), `module` (where that is).

    Args:
        table: from `ledger_table`.
    """
    rows = []
    for position, part in table.groupby("position", sort=True):
        part = part.reset_index(drop=True)
        fullest = part["module"].iloc[int(part["together"].fillna(-1).to_numpy().argmax())]
        rows.append(
            {
                "adapter": part["adapter"].iloc[0],
                "position": position,
                "modules": len(part),
                "spent": part["tightness"].median(),
                "together": part["together"].median(),
                "most": part["together"].max(),
                "over": int((part["together"] > 1).sum()),
                "least_left": part["left"].min(),
                "module": fullest,
            }
        )
    return pd.DataFrame(rows)
