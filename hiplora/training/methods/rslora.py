"""rsLoRA."""

from hiplora.training.methods.method import Method

METHOD = Method(
    "rslora",
    "rsLoRA",
    "LoRA scaled by alpha / sqrt(r)",
    "Kalajdzievski, arXiv 2312.03732",
    lora_fields={"use_rslora": True},
)
