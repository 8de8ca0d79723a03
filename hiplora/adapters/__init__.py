"""Adapters on disk as deltas of frozen weights."""

from hiplora.adapters.adapter import Adapter
from hiplora.adapters.delta import Delta, DenseDelta, LowRankDelta
from hiplora.adapters.initialized import INITIAL_FILE
from hiplora.adapters.read import name_apart, read_adapter, read_adapters

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
