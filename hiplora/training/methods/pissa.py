"""PiSSA."""

from hiplora.training.methods.method import Method

METHOD = Method(
    "pissa",
    "PiSSA",
    "LoRA initialized from the leading singular directions, which are removed from the base",
    "Meng et al., arXiv 2404.02948",
    lora_fields={"init_lora_weights": "pissa"},
    keeps_start=True,
)
