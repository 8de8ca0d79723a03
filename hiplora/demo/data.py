"""Examples as tensors: a dataset and a collator that `transformers.Trainer` takes as they are."""

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import torch
from torch.utils.data import Dataset

from hiplora.demo.skills import Example, Skill, training_example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IGNORED: Final = -100
"""The label of positions that carry no loss."""


class SkillDataset(Dataset[Example]):
    """A fixed number of training examples, each made from the seed and its own index.

    Args:
        weights: How often each skill is drawn, relative to the others.
        size: Number of examples.
        seed: The same seed gives the same examples, in any order of reading.
    """

    def __init__(self, weights: Mapping[Skill, float], size: int, seed: int) -> None:
        self._skills = list(weights)
        self._weights = list(weights.values())
        self._size = size
        self._seed = seed

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self._size:
            raise IndexError(index)
        rng = random.Random(self._seed * 1_000_003 + index)
        return training_example(rng.choices(self._skills, self._weights)[0], rng)


class AnswerCollator:
    """Pads examples to one batch whose loss falls on the answer and the end token only.

    Args:
        tokenizer: The demo tokenizer.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        self._tokenizer = tokenizer

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Encode a batch.

        Args:
            examples: `b` examples.

        Returns:
            `input_ids`, `attention_mask` and `labels`, each of shape (b, t), right-padded to the longest line.
        """
        prompts: list[list[int]] = self._tokenizer([example.prompt for example in examples]).input_ids
        lines: list[list[int]] = self._tokenizer([example.text for example in examples]).input_ids
        width = max(map(len, lines)) + 1
        input_ids = torch.full((len(lines), width), self._tokenizer.pad_token_id)
        labels = torch.full_like(input_ids, IGNORED)
        attention_mask = torch.zeros_like(input_ids)
        for row, (prompt, line) in enumerate(zip(prompts, lines)):
            ids = torch.tensor([*line, self._tokenizer.eos_token_id])
            input_ids[row, : len(ids)] = ids
            attention_mask[row, : len(ids)] = 1
            labels[row, len(prompt) : len(ids)] = ids[len(prompt) :]
        return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
