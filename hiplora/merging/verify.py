"""Is a checkpoint really a base with an adapter merged into it?"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pandas as pd

from hiplora.adapters import Delta, LowRankDelta, Placement
from hiplora.errors import HiploraError
from hiplora.merging.beside import different_tensors, unmergeable
from hiplora.merging.rows import by_rows
from hiplora.sources import BaseModel

_SAME = 0.02


@dataclass(frozen=True)
class Verification:
    """What a checkpoint holds, beside what a base and an update would make.

    Attributes:
        name: of the checkpoint.
        expected: names of the base and of the update.
        table: one row per linear map of the base. Columns: `module`; `changed`, whether the update changes it;
            `deviation`, the largest of an entry from `W0 + dW`; `ratio`, the largest deviation of an entry over what
            rounding allows there; `held`, how many times the checkpoint holds the update, `<W - W0, dW> / ||dW||^2`
            (NaN where it is zero or not changed); `visible`, whether it would be seen if the update were missing.
        others: keys of further tensors (embeddings, norms, biases) that are not the base's.
    """

    name: str
    expected: tuple[str, str]
    table: pd.DataFrame
    others: list[str]

    @property
    def agrees(self) -> bool:
        """Whether the checkpoint is the base with the update, and a missing update would have been seen."""
        changed = self.table[self.table["changed"]]
        return bool((self.table["ratio"] <= 1).all() and changed["visible"].any() and not self.others)

    @property
    def finding(self) -> str:
        """What was found, in one or two sentences."""
        base, update = self.expected
        table = self.table
        changed = table[table["changed"]]
        worst = table.iloc[int(table["ratio"].to_numpy().argmax())]
        if self.agrees:
            return (
                f"{self.name} is {base} with {update}: in {len(changed)} changed and {len(table) - len(changed)} other "
                f"maps no entry is further off than {worst['ratio']:.2g} times what rounding allows."
            )
        if (table["ratio"] <= 1).all() and not self.others:
            return (
                f"{self.name} cannot be told from {base} without {update}: the whole update is smaller than the "
                "rounding of the weights."
            )
        found = []
        off = changed[changed["ratio"] > 1]
        if len(off):
            worst = off.iloc[int(off["ratio"].to_numpy().argmax())]
            found.append(
                f"{len(off)} of {len(changed)} changed maps are off, by up to {worst['ratio']:.2g} times what rounding "
                f"allows ({worst['module']})"
            )
            held = off["held"].dropna()
            if len(held):
                low, high = held.min(), held.max()
                times = f"{low:.2f}" if high - low < _SAME else f"{low:.2f} to {high:.2f}"
                found[-1] += f", and hold the update {times} times"
        stray = table[~table["changed"] & (table["ratio"] > 1)]
        if len(stray):
            found.append(f"{len(stray)} maps that it leaves alone differ ({stray['module'].iloc[0]})")
        if self.others:
            found.append(f"{len(self.others)} other tensors differ ({self.others[0]})")
        return f"{self.name} is not {base} with {update}: {'; '.join(found)}."


def verify(
    placement: Placement, merged: BaseModel, progress: Callable[[int, int], None] = lambda done, total: None
) -> Verification:
    """Compare a checkpoint with `W0 + dW`, one matrix at a time.

    An entry may be off by the rounding of the checkpoint's dtype and by that of the usual ways to merge, `u (|W| + 3
    |dW| + 2 |L| |R|) + (q + 4) u' |L| |R|`, for an update `L R` of inner size `q`. `u` is the unit roundoff of the
    dtype, and `u'` that of float32, in which 16 bits are multiplied, or of float64. For an update that is not of low
    rank `|W0| + |W|` takes the place of `|L| |R|`. Where the dtype is coarser than the base's, the base may have been
    rounded to it before: `u |W0|` more.

    Args:
        placement: the update on its base.
        merged: the checkpoint, of the base's architecture.
        progress: called with the number of maps done, and of all.

    Raises:
        HiploraError: the update changes more than matrices, the checkpoint lacks a map of the base or has it in another
            shape, or one of the three cannot be read.
    """
    if reason := unmergeable(placement):
        raise HiploraError(reason)
    base, rows = placement.base, []
    modules = list(dict.fromkeys([*base.linear_maps, *placement.places]))
    for done, module in enumerate(modules, start=1):
        weight, other = base.weights[module], merged.find(module)
        if other is None or other.shape != weight.shape:
            what = "lacks" if other is None else f"holds as {other.shape[0]} x {other.shape[1]}"
            size = f"{weight.shape[0]} x {weight.shape[1]}"
            raise HiploraError(
                f"{merged.path} {what} {module}, which is {size} in {base.name}: pass a checkpoint of the same "
                "architecture."
            )
        delta = placement.delta(module) if module in placement else None
        rows.append({"module": module} | _compared(base.read(weight), merged.read(other), delta))
        progress(done, len(modules))
    table = pd.DataFrame(rows).astype({"changed": bool, "visible": bool})
    others = list(different_tensors(base, merged, placement.places))
    return Verification(merged.name, (base.name, placement.update.name), table, others)


def _compared(before: np.ndarray, stored: np.ndarray, delta: Delta | None) -> dict[str, object]:
    """Return the columns of one row of the table of `Verification`."""
    info = ml_dtypes.finfo(stored.dtype)
    u, least = float(info.eps) / 2, float(info.smallest_subnormal)
    accumulated = min(u, float(np.finfo(np.float32).eps) / 2)
    coarser = u > float(ml_dtypes.finfo(before.dtype).eps) / 2
    deviation = ratio = missing = inner = energy = 0.0
    for rows, dW in by_rows(LowRankDelta.zero((len(before), before.shape[1])) if delta is None else delta):
        W0, W = before[rows].astype(np.float64), stored[rows].astype(np.float64)
        expected = W0 + dW
        allowed = u * np.abs(expected) + least
        if coarser:
            allowed += u * np.abs(W0)
        if isinstance(delta, LowRankDelta):
            product = np.abs(delta.L[rows]) @ np.abs(delta.R)
            allowed += u * (3 * np.abs(dW) + 2 * product) + (delta.L.shape[1] + 4) * accumulated * product
        elif delta is not None:
            allowed += u * (3 * np.abs(dW) + 2 * (np.abs(W0) + np.abs(expected)))
        off = np.abs(W - expected)
        deviation, ratio = max(deviation, float(off.max())), max(ratio, float((off / allowed).max()))
        missing = max(missing, float((np.abs(dW) / allowed).max()))
        inner += float(np.sum((W - W0) * dW))
        energy += float(np.sum(dW**2))
    return {
        "changed": delta is not None,
        "deviation": deviation,
        "ratio": ratio,
        "held": inner / energy if energy else math.nan,
        "visible": missing > 1,
    }
