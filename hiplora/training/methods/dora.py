"""DoRA."""

from hiplora.settings import HipLoraSettings
from hiplora.training.methods.method import Method


class _Dora(Method):
    def extra_parameters(self, m: int, n: int, settings: HipLoraSettings) -> int:
        """Return the size of the magnitude, one number per row."""
        return m


METHOD = _Dora(
    "dora",
    "DoRA",
    "LoRA with a separately trained magnitude per row",
    "Liu et al., arXiv 2402.09353",
    lora_fields={"use_dora": True},
)
