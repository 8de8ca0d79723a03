"""Scores on any base: the mean loss of the next token on two texts, one of the task and one of what should be kept."""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from hiplora.adapters import Placement
from hiplora.effects.scores import Outcome, Scorer, Scores, picks, shortened
from hiplora.errors import HiploraError
from hiplora.geometry import Text, default_text, read_text
from hiplora.geometry.texts import LEAST_TOKENS, by_lines, check_tokens, doubt, sequences
from hiplora.settings import COUNT, LOSS_TOKENS
from hiplora.sources.transformers_models import load_causal_lm, load_tokenizer
from hiplora.spectrum.prepare import resolve_device

_WINDOWS: Final = 16
"""Windows into which a text is cut: they are what is resampled, and what is halved."""
_SHORTEST: Final = 32
"""Tokens of a window, at least, however short the text is: a token is hard to tell without those before it."""
_LEARNED: Final = 0.05
"""Share of what an update learned of the task that an edit may lose and still count as keeping it."""
_LOGITS: Final = 2**25
"""Logits computed at once: 128 MiB in float32."""
TASK, KEPT = "task", "kept"


@dataclass(frozen=True)
class TextLosses(Scores):
    """Score by the mean cross-entropy of the next token, in nats, on two texts.

    Each text is read as a calibration reads it, in windows of at most 512 tokens, and of fewer, but 32 at least, where
    there would be less than 16. An outcome has a row for each window: its summed loss, and the tokens predicted.

    >>> from hiplora.effects import TextLosses
    >>> TextLosses("task.txt", tokens=4096).kept
    'kept_loss'

    Attributes:
        task_text: file of the task, or a text.
        kept_text: file of what should be kept, or a text; by default English that comes with Python.
        tokens: of each text, at most.
        device: where to compute: `cpu`, `cuda`, or `auto` for a GPU where there is one.

    Raises:
        HiploraError: `tokens` is not a number of tokens, or fewer than 256.
    """

    task_text: str | Path | Text
    kept_text: str | Path | Text | None = None
    tokens: int = LOSS_TOKENS
    device: str = "auto"
    task: ClassVar[str] = "task_loss"
    kept: ClassVar[str] = "kept_loss"
    better: ClassVar[int] = -1

    def __post_init__(self) -> None:
        require_tokens(self.tokens)

    @cached_property
    def texts(self) -> dict[str, Text]:
        """The two texts, `task` and `kept`.

        Raises:
            HiploraError: a file cannot be read as text, or the two are the same.
        """
        kept = as_text(self.kept_text)
        return {TASK: apart(as_text(self.task_text), kept), KEPT: kept}

    @property
    def identity(self) -> Hashable:
        """What the texts say, how much of them is read, and where: a GPU computes in the base's own dtype."""
        return "losses", *(text.digest for text in self.texts.values()), self.tokens, resolve_device(self.device)

    def open(self, placement: Placement) -> Scorer:
        """Load the base of an update, and read both texts with its tokenizer.

        Raises:
            HiploraError: the base is not a causal language model, or a text is too short.
        """
        return text_scorer(placement, self.texts, self.tokens, self.device)

    def task_score(self, outcome: Outcome) -> float:
        """Return the mean loss on the task's text, nats per token."""
        return mean_loss(outcome[TASK])

    def kept_score(self, base: Outcome, outcome: Outcome) -> float:
        """Return the mean loss on the text of what should be kept, nats per token."""
        return mean_loss(outcome[KEPT])

    def resampled_gain(self, base: Outcome, one: Outcome, other: Outcome) -> np.ndarray:
        """Return by how much the loss of `one` is below that of `other`, with their windows resampled, (1000,)."""
        less = other[KEPT][:, 0] - one[KEPT][:, 0]
        chosen = picks(len(less), np.random.default_rng(0))
        sums: np.ndarray = less[chosen].sum(axis=1) / one[KEPT][:, 1][chosen].sum(axis=1)
        return sums

    def flips(self, base: Outcome, trained: Outcome, now: Outcome) -> dict[str, float]:
        """Return what an edit takes back of the loss that the update added, and what it adds where neither had it.

        `healed` is the share of the rise of the windows whose loss the update raised; `damaged`, in nats per token, is
        what windows lose beside the worse of base and update.
        """
        before, after, edited = (outcome[KEPT][:, 0] for outcome in (base, trained, now))
        rise = np.maximum(after - before, 0.0)
        back = np.clip(after - edited, 0.0, rise)
        worse = np.maximum(edited - np.maximum(before, after), 0.0)
        healed = float(back.sum() / rise.sum()) if rise.any() else math.nan
        return {"healed": healed, "damaged": float(worse.sum() / base[KEPT][:, 1].sum())}

    def allowance(self, base: Outcome, trained: Outcome) -> float:
        """Return 5 % of what the update learned of the task: its loss below the base's."""
        return _LEARNED * max(self.task_score(base) - self.task_score(trained), 0.0)


def text_scorer(placement: Placement, texts: Mapping[str, Text], tokens: int, device: str) -> Scorer:
    """Load the base of an update, and read texts with its tokenizer.

    Args:
        placement: the update.
        texts: by their name in outcomes.
        tokens: of each text, at most.
        device: where to compute.

    Raises:
        HiploraError: the base is not a causal language model, or a text is too short.
    """
    base = placement.base
    tokenizer = load_tokenizer(base.path)
    device = resolve_device(device)
    # Processors multiply 16-bit numbers slowly, if at all.
    model: Any = load_causal_lm(base.path, dtype="float32" if device == "cpu" else "auto").eval()
    config = model.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None) or tokens
    windows = {name: _windows(text, tokenizer, longest, tokens) for name, text in texts.items()}
    size = model.get_input_embeddings().weight.shape[0]
    for found in windows.values():
        check_tokens(found, size, base.path)
    model.to(device)

    def tell(outcome: Outcome) -> dict[str, Any]:
        about: dict[str, Any] = {f"base_{name}_loss": mean_loss(outcome[name]) for name in texts}
        doubts = []
        for name, text in texts.items():
            count = sum(map(len, windows[name]))
            about[f"{name}_text"] = f"{text.name}, {count:,} tokens"
            perplexity = None if by_lines(tokenizer) else math.exp(min(mean_loss(outcome[name]), 700.0))
            if reason := doubt(windows[name], tokenizer.unk_token_id, perplexity, config.vocab_size):
                doubts.append(
                    f"The base hardly knows {text.name} ({reason}): its losses may say little of the base's work."
                )
        return about | {"caveat": " ".join([*doubts, *_not_scored(placement)])}

    return Scorer(model, placement, lambda model: {name: losses(model, found) for name, found in windows.items()}, tell)


def losses(model: Any, windows: Sequence[Sequence[int]]) -> np.ndarray:
    """Return for each window its summed cross-entropy of the next token, nats, and the tokens predicted, (n, 2).

    Args:
        model: a causal language model of transformers, in evaluation mode.
        windows: token ids, two or more each.
    """
    import torch
    from torch.nn.functional import cross_entropy

    device = next(model.parameters()).device
    found = np.empty((len(windows), 2))
    with torch.inference_mode():
        for rows in _batches(windows, model.config.get_text_config().vocab_size):
            longest = max(len(windows[row]) for row in rows)
            ids = torch.zeros((len(rows), longest), dtype=torch.long)
            mask = torch.zeros_like(ids)
            for at, row in enumerate(rows):
                ids[at, : len(windows[row])] = torch.tensor(list(windows[row]))
                mask[at, : len(windows[row])] = 1
            whole = bool(mask.all())
            ids, mask = ids.to(device), mask.to(device)
            logits = model(input_ids=ids, attention_mask=None if whole else mask, use_cache=False).logits
            each = cross_entropy(logits[:, :-1].float().transpose(1, 2), ids[:, 1:], reduction="none").double()
            counted = mask[:, 1:]
            found[rows] = torch.stack([(each * counted).sum(1), counted.sum(1).double()], dim=1).cpu().numpy()
    return found


def _batches(windows: Sequence[Sequence[int]], vocabulary: int) -> Iterator[list[int]]:
    """Yield the rows of each batch: as many windows in a row as their logits allow."""
    batch: list[int] = []
    longest = 0
    for row, window in enumerate(windows):
        longest = max(longest, len(window))
        if batch and (len(batch) + 1) * longest * vocabulary > _LOGITS:
            yield batch
            batch, longest = [], len(window)
        batch.append(row)
    yield batch


def _windows(text: Text, tokenizer: Any, longest: int, tokens: int) -> list[list[int]]:
    """Return a text as a calibration reads it, in 16 windows or more where it is long enough for that."""
    found = sequences(text, tokenizer, longest, tokens)
    if len(found) < _WINDOWS:
        width = max(math.ceil(sum(map(len, found)) / _WINDOWS), _SHORTEST)
        found = sequences(text, tokenizer, min(width, longest), tokens)
    # A single token predicts nothing.
    return [window for window in found if len(window) > 1]


def mean_loss(rows: np.ndarray) -> float:
    """Return the mean loss of an outcome's rows, nats per token."""
    return float(rows[:, 0].sum() / rows[:, 1].sum())


def require_tokens(tokens: int) -> None:
    """Raise unless losses over so many tokens show a difference.

    Raises:
        HiploraError: `tokens` is not a number of tokens, or fewer than 256.
    """
    COUNT.require("tokens", tokens)
    if tokens < LEAST_TOKENS:
        raise HiploraError(f"tokens must be at least {LEAST_TOKENS}, got {tokens}: fewer do not show a difference.")


def as_text(text: str | Path | Text | None) -> Text:
    """Return a text, or that of a file; English that comes with Python for None.

    Raises:
        HiploraError: the file cannot be read as text.
    """
    if text is None:
        return default_text()
    return text if isinstance(text, Text) else read_text(text)


def apart(task: Text, kept: Text) -> Text:
    """Return the text of a task.

    Raises:
        HiploraError: it is the text of what should be kept, too.
    """
    if task.digest == kept.digest:
        raise HiploraError(
            f"{task.name} and {kept.name} are the same text: pass one of the task, and another of what should be kept."
        )
    return task


def _not_scored(placement: Placement) -> list[str]:
    """Return what belongs to an update and is not put on the base, as sentences."""
    found = list(placement.update.caveats)
    if placement.left_out:
        names = shortened(list(placement.left_out))
        found.append(f"Not a part of what is scored: {names} ({next(iter(placement.left_out.values()))}).")
    return found
