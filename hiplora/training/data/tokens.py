"""Tokenized examples from a training file, with the tokens that carry loss."""

import copy
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
from torch.utils.data import Dataset, Subset, random_split
from transformers import DataCollatorForSeq2Seq

from hiplora.demo.data import IGNORED
from hiplora.errors import HiploraError
from hiplora.training.data.files import FORMS, Texts
from hiplora.training.data.templates import require_harmless

TokenExample: TypeAlias = dict[str, list[int]]
Collate: TypeAlias = Callable[[list[TokenExample]], Any]

_ON_ASSISTANT: Final = "The loss falls on the assistant's turns."
_ON_ALL: Final = "The loss falls on all tokens: the chat template does not mark the assistant's turns."
_BATCH: Final = 1000
"""Records tokenized per call."""
_PIECE: Final = 2**20
"""Characters of a plain text tokenized per call: a tokenizer's output takes 100 bytes per token."""


class TokenDataset(Dataset[TokenExample]):
    """Tokenized examples, five bytes per token; each item is a new `{"input_ids": [...], "labels": [...]}`.

    Labels equal the ids where there is a loss, else -100; models shift them by one themselves. The first label is
    always -100, since nothing predicts it: so the number of other labels is the number of predicted tokens.

    Attributes:
        path: the file they came from.
        caveat: for the user: where the loss falls, and what was cut or left out; may be empty.
    """

    def __init__(self, path: Path):
        self.path = path
        self.caveat = ""
        self._ids = array("i")
        self._targets = bytearray()
        self._ends = array("q", [0])

    def append(self, ids: Sequence[int], targets: Sequence[int]) -> bool:
        """Add an example, or return False if it has no token to predict.

        Args:
            ids: tokens.
            targets: for each token 1 where the loss falls on it, else 0; the first is ignored.
        """
        if not any(targets[1:]):
            return False
        self._ids.extend(ids)
        self._targets += bytes([0, *targets[1:]])
        self._ends.append(len(self._ids))
        return True

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> TokenExample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        here = slice(self._ends[index], self._ends[index + 1])
        ids = self._ids[here].tolist()
        return {"input_ids": ids, "labels": [i if hit else IGNORED for i, hit in zip(ids, self._targets[here])]}


def tokenize(texts: Texts, tokenizer: Any, max_length: int) -> TokenDataset:
    """Tokenize a file into examples of at most `max_length` tokens.

    A plain text becomes consecutive blocks; a last one without a token to predict is left out. Blocks, texts and
    prompts begin with what the tokenizer puts before any text (such as `<bos>`); texts and completions end with the
    end token. The loss falls on all text, on the completion and its end token, or on the assistant's turns where the
    chat template marks them with `{% generation %}`. Longer records are cut; those without a token to predict (after
    the cut), and blank texts, are left out; `caveat` counts both.

    Args:
        texts: from `read_texts`.
        tokenizer: of `transformers`.
        max_length: in tokens.

    Raises:
        HiploraError: `max_length` leaves no room, the tokenizer has no chat template for messages or rejects
            them, or there are no examples.
    """
    start = _start(tokenizer)
    least = max(1, len(start)) + 1
    if max_length < least:
        raise HiploraError(f"max_length must be at least {least} tokens for this tokenizer, got {max_length}.")
    dataset = TokenDataset(texts.path)
    caveats = []
    if texts.plain:
        examples = _blocks(texts, tokenizer, start, max_length - len(start))
    elif texts.kind == "messages":
        marked = _marks_assistant(texts.path, tokenizer)
        caveats.append(_ON_ASSISTANT if marked else _ON_ALL)
        examples = _conversations(texts, tokenizer, marked)
    else:
        examples = _records(texts, tokenizer, start)
    cut = dropped = 0
    for ids, targets in examples:
        if not dataset.append(ids[:max_length], targets[:max_length]):
            dropped += 1
        elif len(ids) > max_length:
            cut += 1
    if cut:
        caveats.append(f"{_count(cut)} cut to {max_length} tokens.")
    if dropped:
        caveats.append(f"{_count(dropped)} left out: no token to predict within {max_length} tokens.")
    if not len(dataset):
        raise HiploraError(
            f"{texts.path} has no token to predict within {max_length} tokens: give more text or a larger max_length."
        )
    dataset.caveat = " ".join(caveats)
    return dataset


def _count(number: int) -> str:
    return f"{number} {'record was' if number == 1 else 'records were'}"


def _start(tokenizer: Any) -> list[int]:
    """Return the tokens that the tokenizer puts before any text."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    return [token for token, _ in takewhile(lambda pair: pair[1], zip(encoded.input_ids, encoded.special_tokens_mask))]


def _encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(
        texts, add_special_tokens=False, return_attention_mask=False, verbose=False
    ).input_ids
    return ids


_Tokens: TypeAlias = tuple[list[int], list[int]]
"""Ids of an example, and for each 1 if the loss falls on it, else 0."""


def _blocks(texts: Texts, tokenizer: Any, start: list[int], room: int) -> Iterator[_Tokens]:
    (text,) = texts.records
    waiting: list[int] = []

    def block(ids: list[int]) -> _Tokens:
        return start + ids, [0] * len(start) + [1] * len(ids)

    for piece in _pieces(text):
        waiting += _encode(tokenizer, [piece])[0]
        whole = len(waiting) - len(waiting) % room
        yield from (block(waiting[at : at + room]) for at in range(0, whole, room))
        waiting = waiting[whole:]
    if waiting and len(start) + len(waiting) >= 2:
        yield block(waiting)


def _pieces(text: str) -> Iterator[str]:
    """Split a text at line ends if it has any: few tokenizers have tokens that span them."""
    at = 0
    while at < len(text):
        end = at + _PIECE
        if end < len(text):
            end = text.rfind("\n", at, end) + 1 or end
        yield text[at:end]
        at = end


def _records(texts: Texts, tokenizer: Any, start: list[int]) -> Iterator[_Tokens]:
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for at in range(0, len(texts.records), _BATCH):
        batch = texts.records[at : at + _BATCH]
        pairs: list[tuple[str, str]] = [("", text) for text in batch] if texts.kind == "text" else batch
        prompts = _encode(tokenizer, [prompt for prompt, _ in pairs])
        joined = _encode(tokenizer, [prompt + completion for prompt, completion in pairs])
        for (_, completion), before, ids in zip(pairs, prompts, joined):
            if texts.kind == "text" and not completion.strip():
                yield [], []
                continue
            # A prompt comes alone when the model is used: no token may span its end.
            if ids[: len(before)] != before:
                ids = before + _encode(tokenizer, [completion])[0]
            silent = len(start) + len(before)
            ids = start + ids + end
            yield ids, [0] * silent + [1] * (len(ids) - silent)


def _marks_assistant(path: Path, tokenizer: Any) -> bool:
    """Whether the chat template marks the assistant's tokens."""
    try:
        template = tokenizer.get_chat_template()
    except ValueError:
        raise HiploraError(
            f"{path} holds messages, and this base's tokenizer has no chat template: choose a chat model, or "
            f"write {FORMS['prompt']}."
        ) from None
    # Only tokenizers of the `tokenizers` library know which characters a token stands for.
    return bool(re.search(r"\{%-?\s*generation\s*-?%\}", template)) and tokenizer.is_fast


def _conversations(texts: Texts, tokenizer: Any, marked: bool) -> Iterator[_Tokens]:
    from jinja2 import TemplateError

    require_harmless(texts.path, tokenizer, texts.records[0])
    for number, messages in enumerate(texts.records, 1):
        try:
            encoded = tokenizer.apply_chat_template(
                messages, return_dict=True, return_assistant_tokens_mask=marked, tokenizer_kwargs={"verbose": False}
            )
        except TemplateError as error:
            raise HiploraError(
                f"{texts.path}, conversation {number} does not fit the tokenizer's chat template ({error}): change its "
                "roles or their order."
            ) from None
        ids = encoded["input_ids"]
        yield ids, encoded["assistant_masks"] if marked else [1] * len(ids)


def split(
    dataset: TokenDataset, share: float = 0.05, seed: int = 0, most: int = 64
) -> tuple[Subset[TokenExample], Subset[TokenExample]]:
    """Split a dataset at random into training and validation, the same way for the same seed.

    Args:
        dataset: of at least two examples.
        share: of validation examples; at least one, and at least one is left to train on.
        seed: of the split.
        most: largest number of validation examples.

    Raises:
        HiploraError: there are fewer than two examples.
    """
    total = len(dataset)
    if total < 2:
        raise HiploraError(
            f"{dataset.path} has too few tokens for one training and one validation example: give more text or a "
            "smaller max_length."
        )
    held = max(1, min(most, round(share * total), total - 1))
    train, validation = random_split(dataset, [total - held, held], torch.Generator().manual_seed(seed))
    return train, validation


def collator(tokenizer: Any) -> Collate:
    """Return a function that batches examples: `input_ids, attention_mask, labels`, each of shape (b, t).

    Right-padded to the longest with any tokenizer, since a model with absolute positions counts them from the left. The
    padding is masked and carries no loss; it is the pad token, else the end token, else token 0. Neither the
    tokenizer nor the model is changed.
    """
    padding = copy.deepcopy(tokenizer)
    padding.padding_side = "right"
    if padding.pad_token_id is None:
        padding.pad_token = padding.eos_token or padding.convert_ids_to_tokens(0)
    return DataCollatorForSeq2Seq(padding, label_pad_token_id=IGNORED)


@torch.no_grad()
def mean_loss(
    model: torch.nn.Module, dataset: TokenDataset | Subset[TokenExample], collate: Collate, batch_size: int
) -> float:
    """Return the mean cross-entropy per predicted token, in nats, independent of the batch size.

    In eval mode, on the model's device; the mode is restored, and no random number is drawn.

    Args:
        model: a causal language model that returns its loss; without a HiP-LoRA penalty.
        dataset: with at least one predicted token per batch.
        collate: from `collator`.
        batch_size: examples per forward pass.
    """
    was_training = model.training
    device = next(model.parameters()).device
    total, targets = 0.0, 0
    model.eval()
    try:
        for at in range(0, len(dataset), batch_size):
            batch = collate([dataset[index] for index in range(at, min(at + batch_size, len(dataset)))])
            count = int((batch["labels"][:, 1:] != IGNORED).sum())
            total += count * float(model(**{name: tensor.to(device) for name, tensor in batch.items()}).loss)
            targets += count
    finally:
        model.train(was_training)
    return total / targets
