"""Conflicts of updates before they are merged, by module and block, each beside what two independent updates have."""

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from hiplora.adapters import Placement
from hiplora.budget import budget_cost, joint_epsilon, tightness
from hiplora.geometry import seen
from hiplora.measures import changed_weights, split_expert
from hiplora.measures.null import bands
from hiplora.measures.pairs import BLOCKS, Blocks, overlaps
from hiplora.merging.merge import checked_weights
from hiplora.sources import layer_and_kind
from hiplora.spectrum import BaseSpectra, InputSpectrum, Spectrum
from hiplora.spectrum.blas import one_blas_thread

REINFORCE, CANCEL, CHANCE = "reinforce", "cancel", "chance"
CLEAR = 3.0
"""Standard deviations of the null beyond which two updates are said to reinforce or cancel each other (our choice)."""


def conflict_table(
    spectra: BaseSpectra,
    placements: Sequence[Placement],
    k: int,
    *,
    epsilon: float | None = None,
    power: float = 1.0,
    weights: Sequence[float] | None = None,
) -> pd.DataFrame:
    """Return one row per module that two updates change, pair of updates, and block.

    Columns: `module, layer, kind, first, second`; `block` (`all, pp, pr, rp, rr`); `first_norm, second_norm`, of the
    block; `cosine`, of the two there, NaN where one has no part; `null_sd`, the standard deviation of the cosine of two
    independent updates of the same spectra, whose mean is 0; `sign`, what that says: `reinforce` or `cancel` beyond
    three of them, else `chance`. In rows of `all`: `overlap_left, overlap_right` of the column and row spaces and their
    means over independent updates, `overlap_left_null, overlap_right_null` (NaN on inputs, where it has no closed
    form). In rows of `pp`: `joint_tightness`, of the sum of both, and `joint_tightness_null`, the root mean square for
    independent blocks of the same tightness.

    The null turns either update by rotations that are independent of the other, as a whole or within the block: the
    cosine of two `a x b` matrices then has the variance `1 / (a b)`, exactly. On inputs, where updates with independent
    entries do not have isotropic effects, `b` is `(tr B)^2 / tr B^2`, with the `B` of METHOD.md section 8, to first
    order.

    Args:
        spectra: of the base; what is missing is computed.
        placements: at least two updates on it, of different names.
        k: principal rank.
        epsilon: budget of the joint tightness; None for the smaller of the two updates' own.
        power: `p` of the budget's weights.
        weights: of the updates, each of which is scaled by its own first; 1 by default.

    Raises:
        HiploraError: an update cannot be read or holds NaN, or another number of weights than of updates.
    """
    placed = [seen(placement, spectra) for placement in placements]
    scale = dict(zip((each.update.name for each in placed), checked_weights(weights, len(placed)), strict=True))
    rows: list[dict[str, object]] = []
    with one_blas_thread():
        for weight in changed_weights(placed):
            here = [each for each in placed if each.changes(weight)]
            if len(here) < 2:
                continue
            module = weight.module
            layer, kind = layer_and_kind(split_expert(module)[0])
            head = spectra.get(weight, k)
            head = head.truncate(min(k, *head.shape))
            sd = _null_sd(head)
            blocks = {each.update.name: Blocks.of(scale[each.update.name] * each.delta(module), head) for each in here}
            for a, b in combinations(here, 2):
                budget = joint_epsilon((each.epsilon(module) for each in (a, b)), epsilon)
                first, second = blocks[a.update.name], blocks[b.update.name]
                found = {"module": module, "layer": layer, "kind": kind, "first": a.update.name}
                beside = {"all": _overlap(first, second, head), "pp": _joint(first, second, head, budget, power)}
                norms = [np.sqrt(np.maximum(each.inner(each), 0)) for each in (first, second)]
                for place, (block, cosine) in enumerate(zip(BLOCKS, first.cosines(second), strict=True)):
                    rows.append(
                        found
                        | {"second": b.update.name, "block": block}
                        | {"first_norm": norms[0][place], "second_norm": norms[1][place]}
                        | {"cosine": cosine, "null_sd": sd[block], "sign": _sign(cosine, sd[block])}
                        | beside.get(block, {})
                    )
    return pd.DataFrame(rows, columns=_COLUMNS).astype({"layer": "Int64"})


def conflict_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per pair and block, over all modules that both change.

    Columns: `first, second, block`; `cosine` of all modules together, with `null_sd` and `sign` as by module;
    `reinforcing, cancelling, modules`, how many there are; and the largest `joint_tightness`, in rows of `pp`.

    Args:
        table: from `conflict_table`.
    """
    rows = []
    for (first, second, block), group in table.groupby(["first", "second", "block"], sort=False, observed=True):
        sizes = group["first_norm"] * group["second_norm"]
        whole = math.sqrt((group["first_norm"] ** 2).sum() * (group["second_norm"] ** 2).sum())
        cosine = (group["cosine"] * sizes).sum() / whole if whole else math.nan
        sd = math.sqrt(((group["null_sd"] * sizes) ** 2).sum()) / whole if whole else math.nan
        counts = group["sign"].value_counts()
        rows.append(
            {
                "first": first,
                "second": second,
                "block": block,
                "cosine": cosine,
                "null_sd": sd,
                "sign": _sign(cosine, sd),
                "reinforcing": int(counts.get(REINFORCE, 0)),
                "cancelling": int(counts.get(CANCEL, 0)),
                "modules": len(group),
                "joint_tightness": group["joint_tightness"].max(),
            }
        )
    return pd.DataFrame(rows, columns=_SUMMARY)


_COLUMNS = [
    "module", "layer", "kind", "first", "second", "block", "first_norm", "second_norm", "cosine", "null_sd", "sign",
    "overlap_left", "overlap_left_null", "overlap_right", "overlap_right_null", "joint_tightness",
    "joint_tightness_null",
]  # fmt: skip

_SUMMARY = [
    "first", "second", "block", "cosine", "null_sd", "sign", "reinforcing", "cancelling", "modules", "joint_tightness",
]  # fmt: skip


def _sign(cosine: float, sd: float) -> str | None:
    """Return what a cosine says beside its null; None where there is none."""
    if math.isnan(cosine):
        return None
    return CHANCE if abs(cosine) <= CLEAR * sd else REINFORCE if cosine > 0 else CANCEL


def _null_sd(head: Spectrum) -> dict[str, float]:
    """Return the standard deviation of the cosine of two independent updates, for each block."""
    (m, n), k = head.shape, head.k
    reach = bands(head, np.array([0]))
    if reach is None:
        columns, every = (float(k), float(n - k)), float(n)
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            size = np.where(reach.square > 0, reach.share**2 / reach.square, 0.0)
        columns, every = (float(size[0]), float(size[1])), 1 / reach.spread if reach.spread else 0.0
    sizes = {"all": m * every} | {
        name: height * width
        for name, height, width in zip(BLOCKS[1:], (k, k, m - k, m - k), (*columns, *columns), strict=True)
    }
    return {name: 1 / math.sqrt(size) if size > 0 else math.nan for name, size in sizes.items()}


def _overlap(first: Blocks, second: Blocks, head: Spectrum) -> dict[str, float]:
    left, right = overlaps(first.whole, second.whole)
    largest = max(_rank(first), _rank(second))
    on_inputs = isinstance(head, InputSpectrum)
    return {
        "overlap_left": left,
        "overlap_left_null": largest / head.shape[0],
        "overlap_right": right,
        "overlap_right_null": math.nan if on_inputs else largest / head.shape[1],
    }


def _rank(blocks: Blocks) -> int:
    s = blocks.whole.singular_values
    return int(np.sum(s > 1e-10 * s[0]))


def _joint(first: Blocks, second: Blocks, head: Spectrum, epsilon: float, power: float) -> dict[str, float]:
    alone, other, both = (
        tightness(budget_cost(core, head.sigma, power), epsilon)
        for core in (first.core, second.core, first.core + second.core)
    )
    return {"joint_tightness": both, "joint_tightness_null": math.hypot(alone, other)}
