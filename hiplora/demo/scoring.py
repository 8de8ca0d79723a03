"""Exact-match scores: the share of prompts a model completes without a single wrong character."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from hiplora.demo.data import IGNORED, AnswerCollator
from hiplora.demo.skills import SKILLS, Example, evaluation_examples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

EVALUATION_SIZE: Final = 400
"""Examples per skill for the scores on the cards: steps of 0.25 %."""


@torch.no_grad()
def greedy_answers(
    model: torch.nn.Module, tokenizer: "PreTrainedTokenizerFast", prompts: Sequence[str], max_new_tokens: int = 12
) -> list[str]:
    """Complete prompts greedily, all of them in one batch.

    Args:
        model: A causal language model over the demo vocabulary, with or without adapters.
        tokenizer: The demo tokenizer.
        prompts: Texts that end in `=`.
        max_new_tokens: Where to stop a model that does not end its answer.

    Returns:
        One answer per prompt, without special tokens.
    """
    if not prompts:
        return []
    was_training = model.training
    model.eval()
    rows: list[list[int]] = tokenizer(list(prompts)).input_ids
    length = torch.tensor([len(row) for row in rows])
    batch = torch.arange(len(rows))
    ids = torch.full((len(rows), int(length.max()) + max_new_tokens), tokenizer.pad_token_id)
    for row, content in enumerate(rows):
        ids[row, : len(content)] = torch.tensor(content)
    start, running = length.clone(), torch.ones(len(rows), dtype=torch.bool)
    device = next(model.parameters()).device
    # Right-padded and causal: a row's logits do not see its padding, so rows of any length share one batch.
    for _ in range(max_new_tokens):
        logits = model(input_ids=ids[:, : int(length.max())].to(device)).logits.cpu()
        chosen = logits[batch, length - 1].argmax(-1)
        running &= chosen != tokenizer.eos_token_id
        if not running.any():
            break
        ids[batch[running], length[running]] = chosen[running]
        length[running] += 1
    model.train(was_training)
    return [
        tokenizer.decode(ids[row, start[row] : length[row]], skip_special_tokens=True) for row in range(len(prompts))
    ]


def exact_match(
    model: torch.nn.Module,
    tokenizer: "PreTrainedTokenizerFast",
    examples: Sequence[Example],
    batch_size: int = 256,
) -> float:
    """Return the share of `right_answers`, from 0 to 1."""
    return float(right_answers(model, tokenizer, examples, batch_size).mean())


@torch.no_grad()
def right_answers(
    model: torch.nn.Module,
    tokenizer: "PreTrainedTokenizerFast",
    examples: Sequence[Example],
    batch_size: int = 256,
) -> np.ndarray:
    """Score a model on examples by greedy decoding.

    Args:
        model: A causal language model over the demo vocabulary, with or without adapters.
        tokenizer: The demo tokenizer.
        examples: What to score on, not empty.
        batch_size: Examples per forward pass.

    Returns:
        For each example, in order, whether its answer, end token included, is right in full: (n,), bool.
    """
    was_training = model.training
    model.eval()
    collate = AnswerCollator(tokenizer)
    device = next(model.parameters()).device
    right: list[np.ndarray] = []
    # Greedy decoding gives the right answer exactly when each right token is the most likely one after the right
    # tokens before it. So one pass over the whole line decides what token-by-token decoding would.
    for start in range(0, len(examples), batch_size):
        batch = collate(examples[start : start + batch_size])
        logits = model(input_ids=batch["input_ids"].to(device)).logits.cpu()
        labels = batch["labels"][:, 1:]
        agrees = (logits[:, :-1].argmax(-1) == labels) | (labels == IGNORED)
        right.append(agrees.all(-1).numpy())
    model.train(was_training)
    return np.concatenate(right)


def score(
    model: torch.nn.Module,
    tokenizer: "PreTrainedTokenizerFast",
    names: Iterable[str] = tuple(SKILLS),
    size: int = EVALUATION_SIZE,
    seed: int = 0,
) -> dict[str, float]:
    """Score a model on skills and tasks.

    The skill `fact` is scored on the facts that no edit touches. For a model with edited facts it is the locality
    of the edit, and `edit` its efficacy.

    Args:
        model: A causal language model over the demo vocabulary, with or without adapters.
        tokenizer: The demo tokenizer.
        names: Skills and tasks, by default all skills.
        size: Evaluation examples per name, at most.
        seed: Chooses the evaluation examples.

    Returns:
        Name to exact-match score from 0 to 1, in the order of `names`.

    Raises:
        HiploraError: A name is not a skill or task, or `size` is not positive.
    """
    return {name: exact_match(model, tokenizer, evaluation_examples(name, size, seed)) for name in names}
