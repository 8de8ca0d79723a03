"""Sources of frozen weights: a folder, an installed package or a hub, read one matrix at a time."""

from hiplora.sources.base import BaseModel, Weight
from hiplora.sources.files import hub_name
from hiplora.sources.locate import canonical, known_bases, may_open, nearest_bases, open_base
from hiplora.sources.names import PEFT_PREFIX, layer_and_kind, strip_peft_prefix, with_stack

__all__ = [
    "PEFT_PREFIX",
    "BaseModel",
    "Weight",
    "canonical",
    "hub_name",
    "known_bases",
    "layer_and_kind",
    "may_open",
    "nearest_bases",
    "open_base",
    "strip_peft_prefix",
    "with_stack",
]
