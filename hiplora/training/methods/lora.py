"""LoRA, which the other methods are matched to."""

from hiplora.training.methods.method import Method

METHOD = Method("lora", "LoRA", "a low-rank update", "Hu et al., arXiv 2106.09685")
