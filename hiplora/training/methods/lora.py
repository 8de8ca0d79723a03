"""LoRA, the size reference of all methods."""

from hiplora.training.methods.method import Method

METHOD = Method("lora", "LoRA", "a low-rank update", "Hu et al., arXiv 2106.09685")
