"""Adapters on disk as deltas of frozen weights."""

from hiplora.adapters.adapter import Adapter
from hiplora.adapters.delta import Delta, DenseDelta, LowRankDelta
from hiplora.adapters.read import name_apart, read_adapter, read_adapters
from hiplora.adapters.started import INITIAL_FILE

__all__ = [
    "INITIAL_FILE",
    "Adapter",
    "Delta",
    "DenseDelta",
    "LowRankDelta",
    "name_apart",
    "read_adapter",
    "read_adapters",
]
