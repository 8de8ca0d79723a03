"""Spectral interference on a matrix small enough to see through: the tables behind the page Learn.

One weight of 24 x 16 with singular values 1, 1/2, 1/3, ... and updates of a tenth of its size. That updates on the
leading directions interfere is the claim of the paper (HiP-LoRA, arXiv 2604.17751), and so are two channels with a
budget weighted by singular values. The small weight, its updates and inputs are our choice: made to be seen, not found
in any model.
"""

from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
import pandas as pd

from hiplora.adapters import Delta, LowRankDelta
from hiplora.budget import budget_cost, tightness, within_budget
from hiplora.geometry import Moments, effect, with_inputs
from hiplora.measures import DEFAULT_EPSILON, channels, direction_table, measure, pair_table
from hiplora.spectrum import Spectrum, decompose

SHAPE = (24, 16)
PRINCIPAL_RANK = 4
CORE_RANK = 2
RELATIVE_SIZE = 0.1
ANGLES = tuple(range(91))
USES = tuple(round(0.1 * tenth, 1) for tenth in range(31))
"""How much inputs use the strongest direction, relative to any other, from not at all to three times."""
RARE_SHARE = 0.05
"""How often an input is a rare one, by default (our choice)."""
PENALTY = 10.0
"""`lambda` of the soft budget, the default of `HipLoraConfig`."""

_DRAWS = 4000
_NOTHING = 1e-6
_FIRST, _OWN = (1, 2), (9, 10)
"""Directions of the first of two adapters, and those to which the second may turn, counted from 1."""


@cache
def small_weight() -> np.ndarray:
    """Return `W0 = U diag(1, 1/2, ..., 1/16) V^T`, (24, 16), with random singular vectors from a fixed seed."""
    rng = np.random.default_rng(0)
    m, n = SHAPE
    U, V = (np.linalg.qr(rng.normal(size=(size, n)))[0] for size in (m, n))
    return (U / np.arange(1, n + 1)) @ V.T


@cache
def small_spectrum() -> Spectrum:
    """Return all 16 singular triplets of `small_weight()`."""
    return decompose(small_weight())


def typical_inputs(spectrum: Spectrum) -> np.ndarray:
    """Return `X = V diag(s)`, (n, k): inputs `x = X z`, `z ~ N(0, I)`, as the weight expects them (our choice).

    Leading directions are as strong in them as in the weight.
    """
    return spectrum.Vt.T.astype(np.float64) * spectrum.sigma


def rare_inputs(spectrum: Spectrum, k: int = PRINCIPAL_RANK) -> np.ndarray:
    """Return `X = (v_k+1, v_k+2, ...)`, (n, K - k): inputs in the tail directions only (our choice)."""
    return spectrum.Vt[k:].T.astype(np.float64)


def all_inputs(spectrum: Spectrum, rare_share: float = RARE_SHARE, k: int = PRINCIPAL_RANK) -> np.ndarray:
    """Return `X`, (n, 2 K - k), with the second moment of typical and rare inputs mixed (our choice).

    With probability f an input is rare, else typical: `E[x x^T] = (1 - f) X_typ X_typ^T + f X_rare X_rare^T = X X^T`.

    Args:
        spectrum: of the weight.
        rare_share: f, how often an input is a rare one, 0 to 1.
        k: principal rank; rare inputs lie beyond it.
    """
    parts = (1 - rare_share, typical_inputs(spectrum)), (rare_share, rare_inputs(spectrum, k))
    return np.hstack([np.sqrt(share) * X for share, X in parts])


def relative_effect(delta: Delta, weight: np.ndarray, inputs: np.ndarray) -> float:
    """Return `sqrt(E ||dW x||^2 / E ||W x||^2)` for inputs `x = X z`, `z ~ N(0, I)`: `||dW X||_F / ||W X||_F`.

    Exact, with no input drawn. (Our choice: root mean squares, so that a rare small output counts little.)

    Args:
        delta: (m, n).
        weight: (m, n), what the change is relative to; not zero on the inputs.
        inputs: `X`, (n, anything).
    """
    changed = delta.project(Vt=inputs.T)
    return float(np.sqrt(changed.energy) / np.linalg.norm(weight @ inputs))


def rotated_update(angle: float, p: int = 1, q: int = 12) -> LowRankDelta:
    """Return `dW = size a b^T`, `a = cos(t) u_p + sin(t) u_q`, `b = cos(t) v_p + sin(t) v_q` (our choice).

    Its norm is a tenth of the small weight's at every angle.

    Args:
        angle: `t`, degrees; 0 lies on direction p, 90 on direction q.
        p: the principal direction, from 1.
        q: the residual one.
    """
    return _turned(angle, (p,), (q,), np.ones((1, 1)))


def rotation_directions(angle: float, p: int = 1, q: int = 12) -> pd.DataFrame:
    """Return the `direction_table` of the rotated update: one row per singular direction.

    Args:
        angle: degrees.
        p: the principal direction, from 1.
        q: the residual one.
    """
    return direction_table(small_spectrum(), rotated_update(angle, p, q), "update")


def rotation_effects(
    p: int = 1,
    q: int = 12,
    k: int = PRINCIPAL_RANK,
    angles: Sequence[float] = ANGLES,
    rare_share: float = RARE_SHARE,
) -> pd.DataFrame:
    """Return the effects of the rotated update, one row per angle.

    Columns: `angle` (degrees), `pp, pr, rp, rr` (shares of its energy), `typical, rare, all` (`relative_effect` on the
    outputs of either kind of inputs, and of all inputs as they come), `rare_share`.

    Args:
        p: the principal direction, from 1.
        q: the residual one.
        k: principal rank; rare inputs lie beyond it.
        angles: degrees.
        rare_share: how often an input is a rare one, 0 to 1.
    """
    weight, spectrum = small_weight(), small_spectrum()
    head = spectrum.truncate(k)
    inputs = {
        "typical": typical_inputs(spectrum),
        "rare": rare_inputs(spectrum, k),
        "all": all_inputs(spectrum, rare_share, k),
    }
    rows = []
    for angle in angles:
        delta = rotated_update(angle, p, q)
        parts = channels(delta, head.Ut, head.Vt)
        rows.append(
            {"angle": angle}
            | {block: parts.share(block) for block in ("pp", "pr", "rp", "rr")}
            | {name: relative_effect(delta, weight, X) for name, X in inputs.items()}
            | {"rare_share": rare_share}
        )
    return pd.DataFrame(rows)


def budget_cores(
    c11: float,
    c22: float,
    c12: float = 0.0,
    epsilon: float = DEFAULT_EPSILON,
    power: float = 1.0,
    penalty: float = PENALTY,
) -> pd.DataFrame:
    """Return a 2 x 2 core as it is trained and as the hard limit scales it, one row each.

    The limit is `C min(1, epsilon / sqrt(cost))`. Columns: `core` (`raw`, `effective`), `c11, c22, c12, cost,
    tightness, charge` (`lambda cost`, what the soft mode would add to the loss were this the only layer).

    Args:
        c11: how much of `u_1 v_1^T` is added, in units of the singular values (the largest is 1).
        c22: the same of `u_2 v_2^T`.
        c12: of `u_1 v_2^T`; the fourth entry stays 0.
        epsilon: budget.
        power: `p` of the budget's weights.
        penalty: `lambda` of the soft mode.
    """
    sigma = small_spectrum().sigma[:CORE_RANK]
    raw = np.array([[c11, c12], [0.0, c22]])
    rows = []
    for name, core in (("raw", raw), ("effective", within_budget(raw, sigma, power, epsilon))):
        cost = budget_cost(core, sigma, power)
        rows.append(
            {
                "core": name,
                "c11": core[0, 0],
                "c22": core[1, 1],
                "c12": core[0, 1],
                "cost": cost,
                "tightness": tightness(cost, epsilon),
                "charge": penalty * cost,
            }
        )
    return pd.DataFrame(rows)


def budget_sections(
    c12: Iterable[float] = (0.0,), epsilon: float = DEFAULT_EPSILON, power: float = 1.0
) -> pd.DataFrame:
    """Return the closed curve `cost(C) = epsilon^2` in the plane of `C11` and `C22`, one block of rows per `C12`.

    Columns: `c11, c22, c12`; no rows where `C12` alone spends more than the budget.

    Args:
        c12: in units of the singular values; each value counts once.
        epsilon: budget.
        power: `p` of the budget's weights.
    """
    sigma = small_spectrum().sigma[:CORE_RANK]
    turn = np.linspace(0, 2 * np.pi, 181)
    parts = [pd.DataFrame({"c11": [], "c22": [], "c12": []})]
    for value in dict.fromkeys(c12):
        left = epsilon**2 - budget_cost(np.array([[0.0, value], [0.0, 0.0]]), sigma, power)
        if left > 0:
            # The cost has no cross terms: along each axis it is that of one entry.
            first, second = (np.sqrt(left / budget_cost(np.diag(unit), sigma, power)) for unit in np.eye(CORE_RANK))
            parts.append(pd.DataFrame({"c11": first * np.cos(turn), "c22": second * np.sin(turn), "c12": value}))
    return pd.concat(parts[1:] or parts, ignore_index=True)


def merged_updates(angle: float) -> dict[str, LowRankDelta]:
    """Return two updates of rank 2, each a tenth of the small weight's size (our choice).

    The first maps `v_1, v_2` to `u_1, u_2`. The second does so with the outputs turned by 60 degrees, so that they are
    related but not the same (cosine 0.5), and moves to directions 9 and 10 on both sides.

    Args:
        angle: of the second, degrees; 0 is on the directions of the first, 90 on its own.
    """
    cos, sin = np.cos(np.pi / 3), np.sin(np.pi / 3)
    return {
        "first": _turned(0, _FIRST, _OWN, np.eye(2)),
        "second": _turned(angle, _FIRST, _OWN, np.array([[cos, -sin], [sin, cos]])),
    }


def merge_effects(angles: Sequence[float] = ANGLES, epsilon: float = DEFAULT_EPSILON) -> pd.DataFrame:
    """Return the effects of the sum of the two updates on each one's task, one row per angle.

    Columns: `angle` (degrees); `first_error, second_error`: `||dW_other x|| / ||dW_own x||` for the inputs that the own
    adapter reacts to, 1 where the other changes these outputs as much as the own one does; `typical_first,
    typical_merged`: `||dW x|| / ||W0 x||` for typical inputs, of the first alone and of the sum; and the columns of
    `pair_table`. All in the root mean square over inputs.

    Args:
        angles: of the second adapter, degrees.
        epsilon: budget of the joint tightness.
    """
    spectrum, weight = small_spectrum(), small_weight()
    typical = typical_inputs(spectrum)
    rows = []
    for angle in angles:
        both = merged_updates(angle)
        first, second = both.values()
        merged = LowRankDelta(np.hstack([first.L, second.L]), np.vstack([first.R, second.R]))
        rows.append(
            {
                "angle": angle,
                "first_error": relative_effect(second, first.dense(), first.R.T),
                "second_error": relative_effect(first, second.dense(), second.R.T),
                "typical_first": relative_effect(first, weight, typical),
                "typical_merged": relative_effect(merged, weight, typical),
                **pair_table(spectrum, dict(both), PRINCIPAL_RANK, epsilon).iloc[0].to_dict(),
            }
        )
    return pd.DataFrame(rows)


def partly_used_inputs(use: float) -> Moments:
    """Return the moments of inputs of equal strength in every direction of the small weight but its strongest.

    Args:
        use: root mean square of the inputs along `v_1`, relative to that along any other direction; 0: none uses it.
    """
    strengths = np.ones(min(SHAPE))
    strengths[0] = use**2
    order = np.argsort(-strengths, kind="stable")
    return Moments(small_spectrum().Vt[order], strengths[order])


def two_views(angle: float, use: float, q: int = 12) -> pd.DataFrame:
    """Return what either geometry says of the rotated update from direction 1 to direction q, one row each.

    Columns: `geometry` (`weights`, `inputs`), `pp` (NaN where no input notices the update), `pp_null, pp_null_low,
    pp_null_high, enrichment`, and `relative_norm` (`||dW||_F / ||W0||_F`, on inputs `||dW K||_F / ||W0 K||_F`): the
    measures of any adapter.

    Args:
        angle: degrees; 0 lies on the strongest direction, 90 on direction q.
        use: as in `partly_used_inputs`.
        q: the residual direction, from 1.
    """
    moments, delta = partly_used_inputs(use), rotated_update(angle, 1, q)
    on_inputs = with_inputs(decompose(moments.root(small_weight())), moments)
    rows = []
    for geometry, spectrum, seen in (
        ("weights", small_spectrum(), delta),
        ("inputs", on_inputs, effect(delta, moments)),
    ):
        found = measure(spectrum, seen, PRINCIPAL_RANK)
        size = float(np.sqrt(found.channels.total)) / found.frobenius
        # Single precision, in which singular vectors are kept, leaves next to nothing in place of nothing.
        share = found.channels.share("pp") if size > _NOTHING else float("nan")
        rows.append(
            {
                "geometry": geometry,
                "pp": share,
                "pp_null": found.null.mean,
                "pp_null_low": found.null.low,
                "pp_null_high": found.null.high,
                "enrichment": share / found.null.mean,
                "relative_norm": size if size > _NOTHING else 0.0,
            }
        )
    return pd.DataFrame(rows)


def input_damages(angle: float, q: int = 12, uses: Sequence[float] = USES) -> pd.DataFrame:
    """Return how much the rotated update changes outputs, beside random updates of its size, one row per use.

    Columns: `use`; `damage` (`E||dW x||^2 / E||W0 x||^2`), `null` (its mean for an update of rank one with random
    singular vectors), `null_low, null_high` (2.5 % and 97.5 % quantiles of 4000 such updates, from a fixed seed).

    Args:
        angle: degrees; 0 lies on the strongest direction, 90 on direction q.
        q: the residual direction, from 1.
        uses: as in `partly_used_inputs`.
    """
    delta = rotated_update(angle, 1, q)
    drawn = np.random.default_rng(0).normal(size=(_DRAWS, SHAPE[1]))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    rows = []
    for use in uses:
        moments = partly_used_inputs(use)
        base = float(np.sum(moments.root(small_weight()) ** 2))
        # A left singular vector of length one leaves the size of an output to the right one.
        chance = delta.energy * np.sum(moments.root(drawn) ** 2, axis=1) / base
        low, high = np.quantile(chance, (0.025, 0.975))
        rows.append(
            {
                "use": use,
                "damage": effect(delta, moments).energy / base,
                "null": delta.energy * moments.trace / moments.size / base,
                "null_low": float(low),
                "null_high": float(high),
            }
        )
    return pd.DataFrame(rows)


def _turned(angle: float, start: Sequence[int], end: Sequence[int], core: np.ndarray) -> LowRankDelta:
    """Return `size A Q B^T / ||Q||` whose bases turn from the directions `start` to `end`, (m, n)."""
    spectrum = small_spectrum()
    size = RELATIVE_SIZE * spectrum.frobenius / np.linalg.norm(core)
    t = np.radians(angle)
    left, right = (
        np.cos(t) * rows[np.subtract(start, 1)] + np.sin(t) * rows[np.subtract(end, 1)]
        for rows in (spectrum.Ut.astype(np.float64), spectrum.Vt.astype(np.float64))
    )
    return LowRankDelta(size * left.T @ core, right)
