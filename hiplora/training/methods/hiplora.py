"""HiP-LoRA."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from hiplora.settings import HipLoraSettings
from hiplora.training.methods.method import Method, shared_fields

if TYPE_CHECKING:
    from peft import PeftConfig


class _HipLora(Method):
    def extra_parameters(self, m: int, n: int, settings: HipLoraSettings) -> int:
        """Return the size of the core: `k^2`, or `k` for a diagonal one."""
        k = settings.principal_rank
        assert isinstance(k, int), "a share of spectral energy has no size before the base is decomposed"
        return k**2 if settings.core == "full" else k

    def peft_config(
        self, settings: HipLoraSettings, ranks: Mapping[str, int], left_alone: Iterable[str] = ()
    ) -> "PeftConfig":
        """Return a `HipLoraConfig`; see `Method.peft_config`."""
        from hiplora.tuner import HipLoraConfig

        own = {each.name: getattr(settings, each.name) for each in dataclasses.fields(HipLoraSettings)}
        return HipLoraConfig(
            **own | {"epsilon_pattern": dict(settings.epsilon_pattern)} | shared_fields(settings, ranks, left_alone)
        )


METHOD = _HipLora(
    "hiplora",
    "HiP-LoRA",
    "a budgeted core on the leading singular directions, and a low-rank update in their complement",
    "Chen and Tan, arXiv 2604.17751",
    has_core=True,
)
