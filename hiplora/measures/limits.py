"""Limits on measures: which modules, and which adapters as a whole, lie within them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache

import numpy as np
import pandas as pd

from hiplora.errors import HiploraError
from hiplora.measures.registry import MEASURES
from hiplora.measures.summary import SCORES, summary_table
from hiplora.printable import apart

LIMIT_COLUMNS = ("adapter", "module", "measure", "value", "limit", "within", "reason")
_WHOLE = "adapter:"


@dataclass(frozen=True)
class Limit:
    """A bound on a measure.

    Attributes:
        column: of the layer table, or of the summary where `whole`.
        bound: the last value that is within.
        most: whether it is the highest value; otherwise the lowest.
        whole: whether it binds adapters as a whole; otherwise each of their modules.
        geometry: in which it holds, `weights` or `inputs`; empty for that of the study.
    """

    column: str
    bound: float
    most: bool = True
    whole: bool = False
    geometry: str = ""

    @property
    def key(self) -> str:
        """Its name: of the measure, of what is bound, and of the geometry where it has its own."""
        where = _WHOLE if self.whole and self.column in layer_measures() else ""
        if (self.column, self.geometry) == ("relative_norm", "inputs"):
            return f"{where}effect"
        return f"{where}{self.column}" + (f" ({self.geometry})" if self.geometry else "")

    @property
    def words(self) -> str:
        """The limit as a clause: `tightness at most 1 in each module`."""
        bound = f"at {'most' if self.most else 'least'} {self.bound:g}"
        return f"{self.key} {bound} {'for each adapter as a whole' if self.whole else 'in each module'}"

    def holds(self, value: float) -> bool:
        """Return whether a value is within; one that is not known never is."""
        return value <= self.bound if self.most else value >= self.bound


def read_limit(text: str, *, most: bool = True) -> Limit:
    """Read a limit from `NAME=VALUE`.

    >>> read_limit("tightness=1")
    Limit(column='tightness', bound=1.0, most=True, whole=False, geometry='')
    >>> read_limit("retention=0.9", most=False).whole
    True

    Args:
        text: the name is a numeric column of the layer table, for each module, or else of the summary, for an adapter
            as a whole; `adapter:` before it means the summary's where both have it.
        most: whether the value is the highest that is within; otherwise the lowest.

    Raises:
        HiploraError: there is no such measure, or the value is not a number.
    """
    name, _, typed = text.partition("=")
    try:
        bound = float(typed)
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        raise HiploraError(f"{text!r} is not a limit: write the name of a measure and a number, such as tightness=1.")
    whole, column = name.startswith(_WHOLE), name.removeprefix(_WHOLE)
    if not whole and column in layer_measures():
        return Limit(column, bound, most)
    if column in summary_measures():
        return Limit(column, bound, most, whole=True)
    known = list(dict.fromkeys((*layer_measures(), *summary_measures())))
    near = get_close_matches(column, known, 1)
    raise HiploraError(
        f"{name!r} is not a measure: " + (f"did you mean {near[0]}?" if near else f"choose one of {', '.join(known)}.")
    )


@cache
def layer_measures() -> dict[str, str]:
    """Return `{column: name}` of the numeric columns of the layer table that measure something."""
    return {column: info.name for info in MEASURES.values() for column in (info.column, *info.beside)}


@cache
def summary_measures() -> tuple[str, ...]:
    """Return the numeric columns of the summary, scores included."""
    row = {"adapter": "", "method": "", **dict.fromkeys(layer_measures(), 1.0)}
    return (*summary_table(pd.DataFrame([row])).select_dtypes("number").columns, *SCORES)


def optional_measures(limits: Iterable[Limit]) -> list[str]:
    """Return the columns of the measures that are computed on request only and that limits need."""
    wanted = {limit.column for limit in limits}
    return [info.column for info in MEASURES.values() if info.optional and wanted & {info.column, *info.beside}]


def limit_table(rows: pd.DataFrame, limit: Limit, left_out: Sequence[tuple[str, str, str]] = ()) -> pd.DataFrame:
    """Return one row per module, or per adapter, with its value beside a limit.

    Columns: `adapter, module` (empty for an adapter as a whole), `measure, value` (NaN where it is not known), `limit,
    within, reason` (a sentence; empty where it is within). What is not known is never within.

    Args:
        rows: the layer table, or the summary for a limit on whole adapters.
        limit: the limit.
        left_out: adapter, module and reason of what an adapter changes without being measured.
    """
    values = rows[limit.column].to_numpy(dtype=np.float64, na_value=np.nan)
    modules = [""] * len(rows) if limit.whole else list(rows["module"])
    found = [
        (adapter, module, value, limit.holds(value), _reason(limit, module, value))
        for adapter, module, value in zip(rows["adapter"], modules, values, strict=True)
    ]
    if not limit.whole:
        found += [
            (adapter, module, math.nan, False, f"{module} is left out of the measures ({why}), so it is not within.")
            for adapter, module, why in left_out
        ]
    rows_of = [(adapter, module, limit.key, value, limit.bound, *rest) for adapter, module, value, *rest in found]
    return pd.DataFrame(rows_of, columns=list(LIMIT_COLUMNS))


def _reason(limit: Limit, module: str, value: float) -> str:
    """Return why a value is not within a limit, as a sentence; empty if it is."""
    if limit.holds(value):
        return ""
    what = limit.key + (f" of {module}" if module else "")
    if math.isnan(value):
        return f"{what} is not known, so it is not within {limit.bound:g}."
    shown, bound = apart(value, limit.bound)
    return f"{what} is {shown}, {'above' if limit.most else 'below'} the limit of {bound}."


def verdict_words(table: pd.DataFrame, limits: Sequence[Limit]) -> pd.DataFrame:
    """Return the verdict on each adapter and limit as a table of words, with the worst value and where it is.

    Args:
        table: from `limit_table`, of all limits.
        limits: in the order to show them.
    """
    rows = []
    for name in dict.fromkeys(table["adapter"]):
        for limit in limits:
            same = (table["measure"] == limit.key) & (table["limit"] == limit.bound)
            of_it = table[(table["adapter"] == name) & same]
            away = int((~of_it["within"].astype(bool)).sum())
            unknown = int(of_it["value"].isna().sum())
            worst = of_it.sort_values("value", ascending=not limit.most, na_position="last").iloc[0]
            shown, bound = apart(worst["value"], limit.bound)
            beyond = "not known" if unknown == away else "over" if limit.most else "under"
            rows.append(
                {
                    "Adapter": name,
                    "Measure": limit.key,
                    "Limit": f"{'≤' if limit.most else '≥'} {bound}",
                    "Worst": shown,
                    "Module": worst["module"] or "all together",
                    "Not within": f"{away} of {len(of_it)}",
                    "Verdict": beyond if away else "within",
                }
            )
    return pd.DataFrame(rows)
