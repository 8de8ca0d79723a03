"""Caveats on the numbers, one sentence each."""

import re
from collections.abc import Sequence

import pandas as pd

from hiplora.adapters import Placement
from hiplora.geometry import InputSpectra
from hiplora.spectrum import BaseSpectra

_FUSED = re.compile(r"c_attn|qkv|query_key_value|in_proj")


def caveats_on(spectra: BaseSpectra, placement: Placement, table: pd.DataFrame, k: int) -> list[str]:
    """Return the caveats on the numbers of one update, one sentence each.

    Args:
        spectra: of the base they were measured on.
        placement: one update on that base.
        table: the layer table; its rows of this update are used.
        k: principal rank of the table.
    """
    base, update = spectra.base, placement.update
    rows = table[table["adapter"] == update.name]
    found = list(update.caveats)
    found += _left_out(placement)
    names = {part.lower() for part in (base.name, base.path.name, str(base.config.get("_name_or_path", "")))}
    if update.base_name and not any(name and _last(name) == _last(update.base_name.lower()) for name in names):
        found.append(
            f"It names {update.base_name} as its base, this is {base.name}: matching shapes are not enough to "
            "tell that they belong together."
        )
    elif not update.base_name and update.source:
        found.append(f"It names no base: that it is of {base.name} is known by names and shapes alone.")
    trained_on = {weight: update.weight_hash(placement.names[weight.module]) for weight in placement.weights}
    others = sum(known is not None and known != spectra.weight_hash(weight) for weight, known in trained_on.items())
    if others:
        found.append(
            f"{others} of its modules were trained on other weights than those of {base.name}, perhaps a copy in "
            "another precision: its channels mix."
        )
    fused = sorted({kind for kind in rows["kind"] if _FUSED.search(kind)})
    if fused:
        found.append(f"{', '.join(fused)} hold q, k and v in one matrix, which is measured as a whole.")
    silent = int((rows["norm"] == 0).sum())
    if silent:
        found.append(f"{silent} of its modules do nothing: their update is zero.")
    if (rows["relative_norm"] > 1).any():
        whole = "output of the weight" if isinstance(spectra, InputSpectra) else "weight itself"
        most = rows.sort_values("relative_norm", na_position="first").iloc[-1]
        found.append(
            f"Its update is larger than the {whole} in places ({most['relative_norm']:.2g} times in "
            f"{most['module']}), a sign of another base."
        )
    small = rows[rows["principal_rank"] < k]
    if len(small):
        found.append(f"{_counted(small)} fewer than k = {k} directions: there all of them count as principal.")
    trained = [update.principal_rank(placement.names[module]) for module in rows["module"]]
    if any(at is not None and at != rank for at, rank in zip(trained, rows["principal_rank"], strict=True)):
        ranks = ", ".join(str(rank) for rank in sorted({at for at in trained if at is not None}))
        found.append(f"It was trained at principal rank {ranks}; at k = {k} its channels mix.")
    return found + _other_geometry(spectra, placement, [str(module) for module in rows["module"]])


def _other_geometry(spectra: BaseSpectra, placement: Placement, modules: Sequence[str]) -> list[str]:
    """Say that the channels of an update were trained in another geometry than the one that it is measured in."""
    update, names = placement.update, placement.names
    own = {module: update.trained_inputs(names[module]) for module in modules if update.principal_rank(names[module])}
    if not isinstance(spectra, InputSpectra):
        if any(own.values()):
            return ["It was trained in the geometry of its inputs (our extension): on the weights its channels mix."]
        return []
    if any(inputs is None for inputs in own.values()):
        return ["It was trained in the geometry of the weights: on inputs its channels mix."]
    calibration = spectra.calibration.complete()
    if any(inputs != calibration.digest(module) for module, inputs in own.items()):
        return [f"It was trained on other inputs than {calibration.name}: its channels mix a little."]
    return []


def _left_out(placement: Placement) -> list[str]:
    """Return one sentence for each reason for which modules of the update are not measured, with one of them named."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in placement.left_out.items():
        by_reason.setdefault(reason, []).append(name)
    return [
        f"{names[0]} is left out: {reason}."
        if len(names) == 1
        else f"{len(names)} of its {len(placement.update.modules)} modules are left out, such as {names[0]}: {reason}."
        for reason, names in by_reason.items()
    ]


def _counted(rows: pd.DataFrame) -> str:
    """Return `model.layers.0.mlp.gate (1 x 64) has`, or `4 of its modules, such as model..., have`."""
    first = rows.iloc[0]
    name = f"{first['module']} ({first['rows']} x {first['cols']})"
    return f"{name} has" if len(rows) == 1 else f"{len(rows)} of its modules, such as {name}, have"


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]
