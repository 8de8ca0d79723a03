"""Updates of a base: adapters on disk and in memory, as deltas of its frozen weights."""

from hiplora.adapters.adapter import Adapter
from hiplora.adapters.delta import Delta, DenseDelta, LowRankDelta, energy_shares
from hiplora.adapters.edit import EditedUpdate, Gains, edited
from hiplora.adapters.full import FullUpdate
from hiplora.adapters.initialized import INITIAL_FILE
from hiplora.adapters.placement import Placement, place
from hiplora.adapters.read import READERS, name_apart, read_adapter, read_updates
from hiplora.adapters.save import save_lora
from hiplora.adapters.update import Update

__all__ = [
    "INITIAL_FILE",
    "READERS",
    "Adapter",
    "Delta",
    "DenseDelta",
    "EditedUpdate",
    "FullUpdate",
    "Gains",
    "LowRankDelta",
    "Placement",
    "Update",
    "edited",
    "energy_shares",
    "name_apart",
    "place",
    "read_adapter",
    "read_updates",
    "save_lora",
]
