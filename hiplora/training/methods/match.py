"""Ranks at which a method trains as many parameters as a plain LoRA."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hiplora.errors import HiploraError
from hiplora.settings import HipLoraSettings
from hiplora.training.methods import lora
from hiplora.training.methods.method import Method

TOLERANCE: Final = 0.05
"""Largest difference in trainable parameters between methods that are compared (METHOD.md section 5)."""


@dataclass(frozen=True)
class Match:
    """The ranks of a method that train as many parameters as a LoRA of rank `r`.

    Attributes:
        ranks: `{module: rank}`.
        parameters: trainable parameters in total.
        reference: trainable parameters of the LoRA.
    """

    ranks: dict[str, int]
    parameters: int
    reference: int

    @property
    def difference(self) -> float:
        """Relative difference from the LoRA."""
        return self.parameters / self.reference - 1


def match_parameters(method: Method, shapes: Mapping[str, tuple[int, int]], settings: HipLoraSettings) -> Match:
    """Find ranks at which a method trains as many parameters as a LoRA of rank `settings.r`.

    All modules get the same rank if that is within 5 %; else some of them, evenly spread, get one more.

    Args:
        method: the method.
        shapes: `{module: (m, n)}` of all adapted modules.
        settings: `r`, and the settings of the method.

    Raises:
        HiploraError: `r` or `k` is larger than a module, or no rank comes within 5 %.
    """
    _require_fit("r", settings.r, shapes)
    if method.has_core:
        _require_fit("k", settings.principal_rank, shapes)
    reference = sum(lora.METHOD.parameters(shape, settings.r, settings) for shape in shapes.values())

    def total(ranks: Mapping[str, int]) -> int:
        return sum(method.parameters(shape, ranks[module], settings) for module, shape in shapes.items())

    def uniform(r: int) -> dict[str, int]:
        return dict.fromkeys(shapes, r)

    best = min(range(1, settings.r + 1), key=lambda r: abs(total(uniform(r)) - reference))
    ranks = uniform(best)
    if abs(total(ranks) / reference - 1) > TOLERANCE:
        low = max((r for r in range(1, settings.r + 1) if total(uniform(r)) <= reference), default=0)
        ranks = uniform(low)
        share, carry = (reference - total(ranks)) / sum(m + n for m, n in shapes.values()), 0.0
        for module in shapes:
            carry += share
            if low and carry >= 1:
                ranks[module] += 1
                carry -= 1
    found = Match(ranks, total(ranks), reference)
    if abs(found.difference) > TOLERANCE:
        more = f"a smaller k than {settings.principal_rank}, core='diagonal', or " if method.has_core else ""
        raise HiploraError(
            f"{method.title} cannot train as few parameters as a LoRA of r={settings.r} within {TOLERANCE:.0%}: use "
            f"{more}a larger r."
        )
    return found


def _require_fit(name: str, value: float, shapes: Mapping[str, tuple[int, int]]) -> None:
    module, shape = min(shapes.items(), key=lambda item: min(item[1]))
    if value > min(shape):
        raise HiploraError(
            f"{name}={value} is larger than {module} ({shape[0]} x {shape[1]}): use at most {min(shape)}."
        )
