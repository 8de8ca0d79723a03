"""Adapters on disk as deltas of frozen weights."""

from hiplora.adapters.adapter import Adapter
from hiplora.adapters.delta import Delta, DenseDelta, LowRankDelta
from hiplora.adapters.read import read_adapter

__all__ = ["Adapter", "Delta", "DenseDelta", "LowRankDelta", "read_adapter"]
