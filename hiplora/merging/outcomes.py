"""What merges are worth, measured: the task of each adapter and the base, beside their peers."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from hiplora.effects import Outcome
from hiplora.errors import HiploraError
from hiplora.merging.bench import MergeBench
from hiplora.merging.merge import MergedUpdate

ALL: Final = "all"
"""Name of the row on all tasks together."""
BASE, SINGLE, MERGE = "base", "single", "merge"
TASK_THRESHOLD: Final = 0.9
"""Share of its single score that each task must keep, where no other is asked for (METHOD.md section 9)."""
BASE_ALLOWANCE: Final = 0.05
"""How much more of the base a merge may lose than the worst single adapter, where nothing else is asked for."""
THRESHOLDS: Final = tuple(round(0.5 + 0.01 * step, 2) for step in range(51))
"""Thresholds of the tasks over which MergeFail is drawn."""
ALLOWANCES: Final = tuple(round(0.01 * step, 2) for step in range(21))
"""Allowances of the base over which MergeFail is drawn."""


def outcome_table(
    bench: MergeBench, merges: Mapping[str, MergedUpdate], summed: MergedUpdate
) -> Iterator[pd.DataFrame]:
    """Score the base, each adapter and each merge, one after the other, and yield the table as it grows.

    A row for each outcome and adapter, and one for all adapters together. Columns:

    - `outcome`: `base`, the name of an adapter, or the key of a way; `kind`: `base`, `single` or `merge`;
    - `adapter`: whose task it is, or `all`; `score` on that task, NaN for all;
    - `task_kept, task_kept_low, task_kept_high`: the share of what the single adapter can do of its task (see the way
      to score), for all their mean, with its 95 % interval over examples (paired bootstrap); `least_task_kept`, the
      least of all tasks. NaN where the adapter cannot do its own task; the mean and the least leave that one out;
    - `retention, retention_low, retention_high`: what is kept of the base; `kept_worst_single`, by the adapter that
      keeps the least;
    - `norm`: `||dW||_F` over that of the sum of the adapters;
    - of merges the same with `control_` before it for the *sum scaled to the same norm*, and by how much the merge is
      better than that: `task_gain` and `gain` (of the base), each with `_low` and `_high`.

    Scored by losses, the table says so besides: `kept_text` and `base_kept_loss`, and `caveat` (see `TaskLosses`).
    An adapter whose task is not known does not have a row of its own, and without any the tasks of all are NaN.

    Args:
        bench: of the adapters.
        merges: by the key of their way.
        summed: the sum of the same adapters with the same weights, which is the control.

    Raises:
        HiploraError: the base cannot be scored in this way, or an adapter cannot be read.
    """
    whole = bench.norm(summed)
    rows = _rows(bench, BASE, BASE, bench.base, 0.0, whole)
    yield pd.DataFrame(rows)
    for each in bench.singles:
        rows += _rows(bench, each.update.name, SINGLE, bench.single(each), bench.norm(each), whole)
        yield pd.DataFrame(rows)
    for key, merge in merges.items():
        rows += _merge_rows(bench, key, merge, summed)
        yield pd.DataFrame(rows)


def outcome_rows(adapters: int, tasks: int, ways: int) -> int:
    """Return how many rows `outcome_table` will have."""
    return (1 + adapters + ways) * (1 + tasks)


def balance_table(
    bench: MergeBench, merges: Mapping[tuple[float, float], MergedUpdate], summed: MergedUpdate
) -> Iterator[pd.DataFrame]:
    """Score merges of two adapters at several weights, and yield the table as it grows.

    Rows and columns as in `outcome_table`, of merges alone, and `first_weight, second_weight`.

    Args:
        bench: of the two adapters.
        merges: by the two weights.
        summed: the sum of both, by whose norm the norms are divided.
    """
    rows: list[dict[str, Any]] = []
    for (first, second), merge in merges.items():
        found = _rows(bench, merge.way.key, MERGE, bench.merged(merge), bench.norm(merge), bench.norm(summed))
        rows += [row | {"first_weight": first, "second_weight": second} for row in found]
        yield pd.DataFrame(rows)


def set_table(
    bench: MergeBench, sets: Sequence[tuple[Sequence[str], Mapping[str, MergedUpdate]]]
) -> Iterator[pd.DataFrame]:
    """Score the merges of several sets of adapters, and yield the table as it grows: one row for each set and way.

    Columns: `adapters` (their names, joined by ` + `), `size`, `outcome` (key of the way), `task_kept` (mean over the
    adapters), `least_task_kept`, `retention`, `kept_worst_single` (of the set), `excess_loss` (how much more of the
    base the merge loses than the worst single adapter).

    Args:
        bench: of all adapters.
        sets: names of the adapters of each, and their merges by the key of their way.
    """
    rows: list[dict[str, Any]] = []
    scores, base = bench.scores, bench.base
    singles = {each.update.name: bench.single(each) for each in bench.singles}
    kept = {name: scores.kept_score(base, outcome) for name, outcome in singles.items()}
    for names, merges in sets:
        worst = min(kept[name] for name in names)
        for key, merge in merges.items():
            outcome = bench.merged(merge)
            shares = _shares(bench, names, outcome).values()
            retention = scores.kept_score(base, outcome)
            rows.append(
                {
                    "adapters": " + ".join(names),
                    "size": len(names),
                    "outcome": key,
                    "task_kept": _mean(shares),
                    "least_task_kept": _least(shares),
                    "retention": retention,
                    "kept_worst_single": worst,
                    "excess_loss": worst - retention,
                }
            )
            yield pd.DataFrame(rows)


def fail_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return MergeFail of each way over thresholds: the share of merges that fail (our definition).

    A merge fails where some task keeps less of its single score than a threshold, or where the base loses more beyond
    the worst single adapter than an allowance. Either varies while the other stays, so that no choice decides.

    Columns: `outcome`; `varied`, `task` or `base`; `threshold` of the tasks, `allowance` of the base; `fails`,
    `merges`, and their ratio `merge_fail`.

    Merges of adapters whose tasks are not known are left out.

    Args:
        table: from `set_table`, whole.

    Raises:
        HiploraError: no merge has a known task.
    """
    table = table[table["least_task_kept"].notna()]
    if table.empty:
        raise HiploraError("No adapter has a known task on its card, so no merge can be said to keep it or to fail.")
    grid = [("task", threshold, BASE_ALLOWANCE) for threshold in THRESHOLDS]
    grid += [("base", TASK_THRESHOLD, allowance) for allowance in ALLOWANCES]
    rows = []
    for key, merges in table.groupby("outcome", sort=False, observed=True):
        least, excess = merges["least_task_kept"].to_numpy(), merges["excess_loss"].to_numpy()
        for varied, threshold, allowance in grid:
            # Scores are shares of examples: a difference below this is rounding.
            fails = int(((least < threshold - 1e-9) | (excess > allowance + 1e-9)).sum())
            rows.append(
                {
                    "outcome": key,
                    "varied": varied,
                    "threshold": threshold,
                    "allowance": allowance,
                    "fails": fails,
                    "merges": len(merges),
                    "merge_fail": fails / len(merges),
                }
            )
    return pd.DataFrame(rows)


def doubts(table: pd.DataFrame) -> list[str]:
    """Return what is to be said of how merges were scored, as sentences.

    Args:
        table: from `outcome_table`.
    """
    found = [table["caveat"].iloc[0]] if "caveat" in table and table["caveat"].iloc[0] else []
    own = table[(table["kind"] == SINGLE) & (table["outcome"] == table["adapter"].astype(str))]
    lost = own.loc[own["task_kept"].isna(), "outcome"]
    return found + [
        f"{name} by itself is no better on its task than the base, so no share of it can be kept: it is left out of "
        "the mean."
        for name in lost
    ]


def _merge_rows(bench: MergeBench, key: str, merge: MergedUpdate, summed: MergedUpdate) -> list[dict[str, Any]]:
    whole, norm = bench.norm(summed), bench.norm(merge)
    own = bench.merged(merge)
    control = bench.merged(summed, norm / whole if whole and merge.way != summed.way else 1.0)
    rows = _rows(bench, key, MERGE, own, norm, whole)
    beside = _rows(bench, key, MERGE, control, norm, whole)
    scores, base = bench.scores, bench.base
    gain = scores.gain(base, own, control), *scores.gain_interval(base, own, control)
    draws = _draws(bench, own), _draws(bench, control)
    for row, other in zip(rows, beside, strict=True):
        row |= {f"control_{name}": other[name] for name in ("task_kept", "least_task_kept", "retention")}
        row["task_gain"] = row["task_kept"] - other["task_kept"]
        row["task_gain_low"], row["task_gain_high"] = _interval(draws[0][row["adapter"]] - draws[1][row["adapter"]])
        row["gain"], row["gain_low"], row["gain_high"] = gain
    return rows


def _rows(bench: MergeBench, name: str, kind: str, outcome: Outcome, norm: float, whole: float) -> list[dict[str, Any]]:
    """Return the rows of an outcome: one for each adapter with a known task, and one for all."""
    scores, base = bench.scores, bench.base
    singles = {each.update.name: bench.single(each) for each in bench.singles}
    shares = _shares(bench, bench.tasks, outcome)
    draws = _draws(bench, outcome)
    low, high = (scores.kept_score(base, base) + each for each in scores.gain_interval(base, outcome, base))
    rows = []
    for adapter, share in (shares | {ALL: _mean(shares.values())}).items():
        least, most = _interval(draws[adapter])
        rows.append(
            {
                "outcome": name,
                "kind": kind,
                "adapter": adapter,
                "score": math.nan if adapter == ALL else scores.score_of(bench.tasks[adapter], outcome),
                "task_kept": share,
                "task_kept_low": least,
                "task_kept_high": most,
                "least_task_kept": _least(shares.values()),
                "retention": scores.kept_score(base, outcome),
                "retention_low": low,
                "retention_high": high,
                "kept_worst_single": min(scores.kept_score(base, single) for single in singles.values()),
                "norm": norm / whole if whole else math.nan,
                **bench.beside,
            }
        )
    return rows


def _shares(bench: MergeBench, names: Iterable[str], outcome: Outcome) -> dict[str, float]:
    """Return how much an outcome has of each adapter's own task, by its name; NaN where it cannot do that itself."""
    return {
        each.update.name: bench.scores.share(bench.tasks[each.update.name], bench.base, outcome, bench.single(each))
        for each in bench.singles
        if each.update.name in names and each.update.name in bench.tasks
    }


def _known(shares: Iterable[float]) -> list[float]:
    return [share for share in shares if not math.isnan(share)]


def _mean(shares: Iterable[float]) -> float:
    known = _known(shares)
    return float(np.mean(known)) if known else math.nan


def _least(shares: Iterable[float]) -> float:
    return min(_known(shares), default=math.nan)


def _draws(bench: MergeBench, outcome: Outcome) -> dict[str, np.ndarray]:
    """Return the shares kept with the examples resampled, (1000,): of each adapter's task, and the mean of all."""
    found = {
        each.update.name: bench.scores.resampled_share(
            bench.tasks[each.update.name], bench.base, outcome, bench.single(each)
        )
        for each in bench.singles
        if each.update.name in bench.tasks
    }
    known = [draws for draws in found.values() if not np.isnan(draws).all()]
    return found | {ALL: np.mean(known, axis=0) if known else np.array([np.nan])}


def _interval(draws: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of draws; NaN where there is none."""
    if np.isnan(draws).all():
        return math.nan, math.nan
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return float(low), float(high)
