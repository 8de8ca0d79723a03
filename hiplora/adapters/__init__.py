"""Updates of a base: adapters on disk and in memory, as deltas of its frozen weights."""

from hiplora.adapters.adapter import Adapter
from hiplora.adapters.delta import Delta, DenseDelta, LowRankDelta
from hiplora.adapters.full import FullUpdate
from hiplora.adapters.initialized import INITIAL_FILE
from hiplora.adapters.placement import Placement, place
from hiplora.adapters.read import READERS, name_apart, read_adapter, read_updates
from hiplora.adapters.update import Update

__all__ = [
    "INITIAL_FILE",
    "READERS",
    "Adapter",
    "Delta",
    "DenseDelta",
    "FullUpdate",
    "LowRankDelta",
    "Placement",
    "Update",
    "name_apart",
    "place",
    "read_adapter",
    "read_updates",
]
