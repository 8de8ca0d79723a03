"""PiSSA."""

from hiplora.training.methods.method import Method

METHOD = Method(
    "pissa",
    "PiSSA",
    "LoRA that starts from the leading singular directions, taken out of the base",
    "Meng et al., arXiv 2404.02948",
    lora_fields={"init_lora_weights": "pissa"},
    keeps_start=True,
)
