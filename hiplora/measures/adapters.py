"""Measures of an update that do not need its base."""

import math

import pandas as pd

from hiplora.adapters import Update
from hiplora.measures.experts import split_expert
from hiplora.measures.ranks import effective_rank, stable_rank
from hiplora.sources import layer_and_kind
from hiplora.sources.base import in_data_order


def adapter_table(update: Update) -> pd.DataFrame:
    """Return one row per module, measured without the base.

    Columns: `adapter, method, module, layer, kind, expert, rows, cols, rank, norm, spectral_norm, stable_rank,
    effective_rank`.

    Args:
        update: an open update.

    Raises:
        HiploraError: NaN or infinity in its weights, or an update that depends on its base (DoRA).
    """
    rows = []
    for module in in_data_order(update.modules):
        delta = update.delta(module)
        s = delta.singular_values
        parameter, expert = split_expert(module)
        layer, kind = layer_and_kind(parameter)
        rows.append(
            {
                "adapter": update.name,
                "method": update.method,
                "module": module,
                "layer": layer,
                "kind": kind,
                "expert": expert,
                "rows": delta.shape[0],
                "cols": delta.shape[1],
                "rank": delta.rank,
                "norm": math.sqrt(delta.energy),
                "spectral_norm": float(s[0]),
                "stable_rank": stable_rank(s),
                "effective_rank": effective_rank(s),
            }
        )
    return pd.DataFrame(rows).astype({"layer": "Int64", "expert": "Int64"})
