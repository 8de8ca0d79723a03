"""LoRA+."""

from hiplora.training.methods.method import Method

METHOD = Method(
    "loraplus",
    "LoRA+",
    "LoRA whose B learns 16 times as fast as its A",
    "Hayou et al., arXiv 2402.12354; both rates lie around the common one, which is our choice",
    learning_rate_ratio=16.0,
)
