"""What was read of an update: its tensors, its modules, its settings, and how it fits a base."""

import math
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hiplora.adapters import Placement, Update, place
from hiplora.errors import HiploraError
from hiplora.measures.experts import split_expert
from hiplora.measures.ranks import effective_rank, stable_rank
from hiplora.sources import BaseModel, layer_and_kind
from hiplora.sources.base import in_data_order

_NEEDS_BASE = "its update depends on the base's weights: name the base"
_SETTINGS = (
    "peft_type", "r", "lora_alpha", "alpha", "use_rslora", "use_dora", "init_lora_weights", "principal_rank",
    "geometry", "epsilon", "core", "budget_mode", "layer_replication", "target_modules", "target_parameters",
    "modules_to_save", "bias",
)  # fmt: skip


@dataclass(frozen=True)
class Inspection:
    """What was read of an update.

    Attributes:
        adapter: its name.
        method: how it was made.
        source: the name or path that opens it; empty when it exists in memory only.
        base_name: the base that it names; may be empty.
        base: the base that it was put on; None without.
        problem: why nothing of it fits the base; empty where something does.
        settings: those of its config that bear on the update.
        modules: one row per module, see `module_table`.
        tensors: one row per tensor, see `tensor_table`.
        caveats: one sentence each for what is not measured, or looks wrong.
    """

    adapter: str
    method: str
    source: str
    base_name: str
    base: str | None
    problem: str
    settings: dict[str, Any]
    modules: pd.DataFrame
    tensors: pd.DataFrame
    caveats: list[str]

    @property
    def effect(self) -> str:
        """`all`, `part` or `none` of the modules change a weight; `unknown` where that takes the base."""
        norms = self.modules["norm"]
        if self.problem:
            return "none"
        if self.base is None and norms.isna().any():
            return "unknown"
        changed = int((norms > 0).sum())
        return "none" if not changed else "all" if changed == len(norms) else "part"

    @property
    def effect_words(self) -> str:
        """The effect as a clause."""
        if self.problem:
            return "none: it does not fit"
        return {
            "all": "changes every module",
            "part": "changes some modules",
            "none": "changes nothing",
            "unknown": "known on its base only",
        }[self.effect]

    @property
    def scales(self) -> str:
        """The factors of the modules' products, from the least to the largest; empty where there are none."""
        found = sorted(self.modules["scale"].dropna().unique())
        return _range(found) if found else ""

    @property
    def headline(self) -> str:
        """How much was read, as a sentence."""
        tensors = f"{int(self.tensors['read'].sum())} of {len(self.tensors)} tensors count in its numbers"
        if self.base is None:
            return f"{len(self.modules)} modules; {tensors}."
        fit = 0 if self.problem else int((self.modules["reason"] == "").sum())
        return f"{fit} of {len(self.modules)} modules fit {self.base}; {tensors}."

    @property
    def lines(self) -> list[str]:
        """The inspection as text, line by line."""
        read = self.modules[self.modules["reason"] == ""]
        lines = [
            f"{self.adapter} ({self.method}): {self.headline}",
            f"  base that it names: {self.base_name or 'none'}",
        ]
        if self.scales:
            lines.append(f"  scale of the factors' product: {self.scales}")
        lines.append(f"  effect: {self.effect_words}")
        for kind, rows in read.groupby("kind", sort=False):
            ranks, norms = rows["rank"].dropna(), rows["norm"].dropna()
            told = [f"{len(rows)} {'map' if len(rows) == 1 else 'maps'}"]
            told += [f"rank {_range(sorted(ranks.unique()))}"] if len(ranks) else []
            told += [f"norm {_range(sorted(norms))}"] if len(norms) else []
            told += [f"stable rank {_range(sorted(rows['stable_rank'].dropna()))}"] if (norms > 0).any() else []
            lines.append(f"  {kind}: {', '.join(told)}")
        for reason, rows in self.modules[self.modules["reason"] != ""].groupby("reason", sort=False):
            more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
            lines.append(f"  not measured: {rows['module'].iloc[0]}{more}: {reason}")
        for part, rows in self.tensors[~self.tensors["read"]].groupby("part", sort=False):
            more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
            lines.append(f"  not read: {rows['tensor'].iloc[0]}{more}: {part}")
        return [*lines, *(f"  {caveat}" for caveat in (*self.caveats, self.problem) if caveat)]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data for JSON; what is not known is None."""
        fields = ("adapter", "method", "source", "base_name", "base", "problem", "effect", "settings", "caveats")
        return {name: getattr(self, name) for name in fields} | {
            name: [{key: _known(value) for key, value in row.items()} for row in table.to_dict("records")]
            for name, table in (("modules", self.modules), ("tensors", self.tensors))
        }


def inspect(update: Update, base: BaseModel | None = None, placement: Placement | None = None) -> Inspection:
    """Return what was read of an update.

    Args:
        update: an open update.
        base: to see how it fits; without it, only what the update itself tells.
        placement: the update on that base, where it is known already.
    """
    work = inspecting(update, base, placement)
    while True:
        try:
            next(work)
        except StopIteration as done:
            found: Inspection = done.value
            return found


def inspecting(
    update: Update, base: BaseModel | None = None, placement: Placement | None = None
) -> Generator[str, None, Inspection]:
    """Yield the name of each module as it is read, and return what `inspect` returns.

    Args:
        update: as for `inspect`.
        base: as for `inspect`.
        placement: as for `inspect`.
    """
    problem = ""
    if base is not None and placement is None:
        try:
            placement = place(base, update)
        except HiploraError as error:
            problem = str(error)
    rows = []
    for row in _module_rows(update, placement):
        rows.append(row)
        yield row["module"]
    return Inspection(
        update.name,
        update.method,
        update.source,
        update.base_name,
        None if base is None else base.name,
        problem,
        {name: update.config[name] for name in _SETTINGS if update.config.get(name) not in (None, [], {}, False)},
        _module_table(rows),
        tensor_table(update),
        list(update.caveats),
    )


def module_table(update: Update, placement: Placement | None = None) -> pd.DataFrame:
    """Return one row per module of an update, in data order.

    Columns: `adapter, method, module, layer, kind, expert, rows, cols, rank, scale, norm, spectral_norm, stable_rank,
    effective_rank, reason`; `reason` says why a module could not be measured, and is empty where it was.

    Args:
        update: an open update.
        placement: where it lies on a base; without it, what does not depend on a base.
    """
    return _module_table(_module_rows(update, placement))


def _module_table(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    integers = dict.fromkeys(["layer", "expert", "rows", "cols", "rank"], "Int64")
    return pd.DataFrame(list(rows)).astype(integers | {"scale": "float64"})


def _module_rows(update: Update, placement: Placement | None) -> Iterator[dict[str, Any]]:
    places = {} if placement is None else {name: module for module, name in placement.names.items()}
    for module in in_data_order(update.modules):
        parameter, expert = split_expert(module)
        layer, kind = layer_and_kind(parameter)
        shape = update.shape(module) or (None, None)
        row: dict[str, Any] = {
            "adapter": update.name,
            "method": update.method,
            "module": module,
            "layer": layer,
            "kind": kind,
            "expert": expert,
            "rows": shape[0],
            "cols": shape[1],
            "rank": None,
            "scale": None,
            "norm": math.nan,
            "spectral_norm": math.nan,
            "stable_rank": math.nan,
            "effective_rank": math.nan,
            "reason": "",
        }
        try:
            row["scale"] = update.scale(module)
            if placement is not None and module not in places:
                row["reason"] = placement.left_out.get(module, "the base has no place for it")
            elif placement is None and update.needs_weight(module):
                row["reason"] = _NEEDS_BASE
            else:
                delta = update.delta(module) if placement is None else placement.delta(places[module])
                s = delta.singular_values
                row |= {"rows": delta.shape[0], "cols": delta.shape[1], "rank": delta.rank}
                row |= {"norm": math.sqrt(delta.energy), "spectral_norm": float(s[0])}
                row |= {"stable_rank": stable_rank(s), "effective_rank": effective_rank(s)}
        except HiploraError as error:
            row["reason"] = str(error)
        yield row


def tensor_table(update: Update) -> pd.DataFrame:
    """Return one row per tensor of an update: `tensor, shape, module, part, read`.

    `part` says what the tensor is for, and `read` whether it counts in the numbers.
    """
    rows = [
        {
            "tensor": each.key,
            "shape": " x ".join(map(str, each.shape)) or "1",
            "module": each.module,
            "part": each.part,
            "read": each.read,
        }
        for each in update.contents()
    ]
    return pd.DataFrame(rows, columns=["tensor", "shape", "module", "part", "read"]).astype({"read": bool})


def _range(values: list[float]) -> str:
    first, last = f"{values[0]:.3g}", f"{values[-1]:.3g}"
    return first if first == last else f"{first} to {last}"


def _known(value: Any) -> Any:
    return None if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)) else value
