"""What a reader of the numbers must know, one sentence each."""

import re

import pandas as pd

from hiplora.adapters import Adapter
from hiplora.measures.layers import matched_weights
from hiplora.spectrum.prepare import BaseSpectra

_FUSED = re.compile(r"c_attn|qkv|query_key_value|in_proj")


def caveats_on(spectra: BaseSpectra, adapter: Adapter, table: pd.DataFrame, k: int) -> list[str]:
    """Return one sentence for each thing a reader of the numbers must know.

    Args:
        spectra: of the base they were measured on.
        adapter: one adapter.
        table: the layer table; its rows of this adapter are used.
        k: principal rank of the table.
    """
    base, rows = spectra.base, table[table["adapter"] == adapter.name]
    notes = list(adapter.notes)
    unmatched = len(adapter.modules) - len(rows)
    if unmatched > 0:
        notes.append(f"{unmatched} of its {len(adapter.modules)} modules are not in {base.name} and are left out.")
    names = {part.lower() for part in (base.name, base.path.name, str(base.config.get("_name_or_path", "")))}
    if adapter.base_name and not any(name and _last(name) == _last(adapter.base_name.lower()) for name in names):
        notes.append(f"It names {adapter.base_name} as its base, this is {base.name}: fitting shapes prove nothing.")
    trained_on = {weight: adapter.weight_hash(module) for module, weight in matched_weights(base, adapter).items()}
    others = sum(known is not None and known != spectra.weight_hash(weight) for weight, known in trained_on.items())
    if others:
        notes.append(
            f"{others} of its modules were trained on other weights than those of {base.name}, perhaps a copy in "
            "another precision: its channels mix."
        )
    fused = sorted({kind for kind in rows["kind"] if _FUSED.search(kind)})
    if fused:
        notes.append(f"{', '.join(fused)} hold q, k and v in one matrix, which is measured as a whole.")
    silent = int((rows["norm"] == 0).sum())
    if silent:
        notes.append(f"{silent} of its modules do nothing: their update is zero.")
    if (rows["relative_norm"] > 1).any():
        notes.append("Its update is larger than the weight itself in places, a sign of another base.")
    trained_at = {rank for module in adapter.modules if (rank := adapter.principal_rank(module)) is not None}
    if trained_at and trained_at != {k}:
        ranks = ", ".join(str(rank) for rank in sorted(trained_at))
        notes.append(f"It was trained at principal rank {ranks}; at k = {k} its channels mix.")
    return notes


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]
