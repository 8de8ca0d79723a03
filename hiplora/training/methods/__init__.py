"""The training methods to compare, one file each. To add one, write its file and add it to the tuple below.

All are matched in size to a plain LoRA of rank `r`. Methods that train more than the two factors (a core, a
magnitude) get a smaller rank, so that the trainable parameters agree within 5 %.
"""

from typing import Final

from hiplora.errors import HiploraError
from hiplora.training.methods import dora, hiplora, lora, loraplus, pissa, rslora
from hiplora.training.methods.match import TOLERANCE, Match, match_parameters
from hiplora.training.methods.method import Method

__all__ = ["METHODS", "TOLERANCE", "Match", "Method", "find_method", "match_parameters"]

METHODS: Final[dict[str, Method]] = {
    module.METHOD.key: module.METHOD for module in (lora, loraplus, rslora, pissa, dora, hiplora)
}
"""All methods by key, in the order in which they are listed everywhere."""


def find_method(key: str) -> Method:
    """Look up a method.

    Raises:
        HiploraError: the method is unknown.
    """
    if key not in METHODS:
        raise HiploraError(f"Unknown method '{key}': choose one of {', '.join(METHODS)}.")
    return METHODS[key]
