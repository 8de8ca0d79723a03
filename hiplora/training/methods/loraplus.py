"""LoRA+."""

from hiplora.training.methods.method import Method

METHOD = Method(
    "loraplus",
    "LoRA+",
    "LoRA with a learning rate for B 16 times that for A",
    "Hayou et al., arXiv 2402.12354; centering both rates on the common one is our choice",
    learning_rate_ratio=16.0,
)
