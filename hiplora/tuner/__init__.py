"""HiP-LoRA as a method of PEFT. `import hiplora` is enough to have it registered: see `hiplora.registration`."""

import peft
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

from hiplora.adapters.hiplora_format import PREFIX
from hiplora.tuner.config import HipLoraConfig, HipPeftType
from hiplora.tuner.functional import budget_cost
from hiplora.tuner.layer import HipLoraLayer, HipLoraLinear
from hiplora.tuner.model import HipLoraModel
from hiplora.tuner.observe import observe_inputs
from hiplora.tuner.penalty import budget_penalty
from hiplora.tuner.prices import ShadowPrices

__all__ = [
    "HipLoraConfig",
    "HipLoraLayer",
    "HipLoraLinear",
    "HipLoraModel",
    "HipPeftType",
    "ShadowPrices",
    "budget_cost",
    "budget_penalty",
    "observe_inputs",
]

# `peft.utils.register_peft_method` takes only the names in PEFT's own enum. The key must be an enum member and not a
# string: transformers' load_adapter asks it for `.value`.
peft.PEFT_TYPE_TO_CONFIG_MAPPING[HipPeftType.HIPLORA] = HipLoraConfig
peft.PEFT_TYPE_TO_TUNER_MAPPING[HipPeftType.HIPLORA] = HipLoraModel
PEFT_TYPE_TO_PREFIX_MAPPING[HipPeftType.HIPLORA] = PREFIX
