"""A training method: its name, its size, and its PEFT config."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hiplora.settings import HipLoraSettings

if TYPE_CHECKING:
    from peft import PeftConfig


@dataclass(frozen=True)
class Method:
    """One way to adapt a model: an instance for a variant of LoRA, a subclass for any other method.

    Attributes:
        key: its name in settings and on the command line.
        title: its name in figures and texts.
        summary: what it does, in one phrase.
        source: its publication.
        lora_fields: fields of `peft.LoraConfig` that differ from those of a plain LoRA.
        learning_rate_ratio: learning rate of `B` over that of `A`.
        keeps_start: whether a checkpoint is valid only together with the initial weights.
        has_core: whether it trains a core of rank `principal_rank` under a budget, which has shadow prices.
    """

    key: str
    title: str
    summary: str
    source: str
    lora_fields: Mapping[str, Any] = field(default_factory=dict)
    learning_rate_ratio: float = 1.0
    keeps_start: bool = False
    has_core: bool = False

    def extra_parameters(self, m: int, n: int, settings: HipLoraSettings) -> int:
        """Return how many parameters one module of shape (m, n) trains besides the two factors."""
        return 0

    def parameters(self, shape: tuple[int, int], r: int, settings: HipLoraSettings) -> int:
        """Return how many parameters one module of shape (m, n) trains at rank `r`."""
        m, n = shape
        return r * (m + n) + self.extra_parameters(m, n, settings)

    def peft_config(
        self, settings: HipLoraSettings, ranks: Mapping[str, int], left_alone: Iterable[str] = ()
    ) -> "PeftConfig":
        """Return the config that `peft.get_peft_model` takes.

        Args:
            settings: `lora_alpha / r`, the scaling of every module at any rank, and the settings of the method.
            ranks: `{module: rank}` of all modules to adapt.
            left_alone: the other linear maps of the model.
        """
        from peft import LoraConfig

        return LoraConfig(**shared_fields(settings, ranks, left_alone), **self.lora_fields)


def shared_fields(
    settings: HipLoraSettings, ranks: Mapping[str, int], left_alone: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the fields of a PEFT config that all methods share, from the arguments of `Method.peft_config`."""
    leaves = {module.rpartition(".")[2] for module in ranks}
    # Short names if they match the same modules.
    targets = ranks.keys() if leaves & {module.rpartition(".")[2] for module in left_alone} else leaves
    r = Counter(ranks.values()).most_common(1)[0][0]

    def alpha(rank: int) -> float:
        value = settings.scaling * rank
        return int(value) if value == int(value) else value

    # Keys of a pattern are regular expressions to PEFT, and names of modules are a base's own.
    other = {re.escape(module): rank for module, rank in ranks.items() if rank != r}
    return {
        "r": r,
        "lora_alpha": alpha(r),
        "rank_pattern": other,
        "alpha_pattern": {module: alpha(rank) for module, rank in other.items()},
        "target_modules": sorted(targets),
        "task_type": "CAUSAL_LM",
    }
