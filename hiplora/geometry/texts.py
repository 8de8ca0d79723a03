"""A text that a base reads: for its inputs, or for its loss."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hiplora.errors import HiploraError
from hiplora.files import user_path

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEAST_TOKENS = 256
LONGEST = 512
_CHARACTERS = 16
"""Characters looked at for each token that is wanted, at first."""
_LONG_LINE = 4
"""Lines longer than so many times the usual one are cut."""
_UNFAMILIAR = 0.5
"""A text is called unfamiliar where the base's loss is above this share of that of guessing any token,"""
_UNKNOWN = 0.05
"""or where more than this share of its tokens is unknown."""


@dataclass(frozen=True)
class Text:
    """A text by name.

    Attributes:
        name: in captions.
        lines: read one by one where the tokenizer does not know line breaks; joined otherwise.
        path: of its file, if it is one.
    """

    name: str
    lines: tuple[str, ...]
    path: str = ""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the lines, as hex."""
        return hashlib.sha256("\n".join(self.lines).encode("utf-8", "surrogatepass")).hexdigest()


def read_text(path: str | Path) -> Text:
    """Read a text file in UTF-8.

    Raises:
        HiploraError: no such file, not text, or an empty one.
    """
    where = user_path(path)
    if not where.is_file():
        raise HiploraError(f"{where} is not a file: pass the path of a text file.")
    try:
        lines = where.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise HiploraError(f"{where} cannot be read as text in UTF-8 ({error}): pass a text file.") from None
    if not any(line.strip() for line in lines):
        raise HiploraError(f"{where} is empty: pass a text of at least {LEAST_TOKENS} tokens.")
    return Text(where.name, tuple(lines), str(where))


def default_text() -> Text:
    """Return English that comes with Python: its own documentation."""
    from pydoc_data.topics import topics

    return Text("Python's documentation", tuple("\n\n".join(topics.values()).splitlines()))


def by_lines(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Return whether a tokenizer does not know line breaks, so that a text is read line by line."""
    unknown = tokenizer.unk_token_id
    return unknown is not None and unknown in tokenizer("\n").input_ids


def check_tokens(found: Sequence[Sequence[int]], size: int, base: Path) -> None:
    """Raise if a tokenizer gives tokens that a model does not have.

    Args:
        found: token ids.
        size: of the model's vocabulary.
        base: folder of the base, for the error.

    Raises:
        HiploraError: a token is not one of the model's.
    """
    if max(map(max, found)) >= size:
        raise HiploraError(
            f"{base} has a tokenizer with more tokens than the model's {size}: put the model's own tokenizer beside "
            "its weights."
        )


def unknown_share(found: Sequence[Sequence[int]], unknown: int | None) -> float:
    """Return the share of tokens that the tokenizer does not know; 0 where it has no token for them."""
    return 0.0 if unknown is None else float(np.mean(np.concatenate([np.asarray(ids) for ids in found]) == unknown))


def doubt(found: Sequence[Sequence[int]], unknown: int | None, perplexity: float | None, vocabulary: int) -> str:
    """Return why a base hardly knows a text, as a clause; empty where it knows it.

    Args:
        found: token ids of the text.
        unknown: the id of an unknown token, if there is one.
        perplexity: of the base on the text; None where it does not tell.
        vocabulary: size of the base's.
    """
    if (share := unknown_share(found, unknown)) > _UNKNOWN:
        return f"{share:.0%} of its tokens are unknown"
    if perplexity is not None and not np.log(perplexity) < _UNFAMILIAR * np.log(vocabulary):
        return f"its perplexity is {perplexity:.3g}"
    return ""


def sequences(text: Text, tokenizer: "PreTrainedTokenizerBase", longest: int, tokens: int) -> list[list[int]]:
    """Return the text as sequences of token ids, `tokens` of them in all at most.

    Each begins as the tokenizer begins a text. A tokenizer that knows line breaks gets windows of the whole text;
    another gets the lines.

    Args:
        text: to be read from its beginning.
        tokenizer: of the base.
        longest: that the model can read.
        tokens: in all, at most.

    Raises:
        HiploraError: the text has fewer than `LEAST_TOKENS` tokens.
    """
    start: list[int] = tokenizer("").input_ids
    width = max(min(longest, LONGEST) - len(start), 1)
    # Of a large file only the beginning is looked at: more of it where that has too few tokens.
    size = sum(len(line) + 1 for line in text.lines)
    characters = _CHARACTERS * tokens
    while True:
        body = _windows(text, tokenizer, len(start), width, characters)
        if characters >= size or sum(map(len, body)) >= tokens:
            break
        characters *= 2
    found: list[list[int]] = []
    left = tokens
    for ids in body:
        ids = [*start, *ids][:left]
        if len(ids) > len(start):
            found.append(ids)
        left -= len(ids)
        if left <= len(start):
            break
    if (count := sum(map(len, found))) < min(LEAST_TOKENS, tokens - len(start)):
        raise HiploraError(f"{text.name} has {count} tokens for this base: at least {LEAST_TOKENS} are needed.")
    return found


def _windows(
    text: Text, tokenizer: "PreTrainedTokenizerBase", start: int, width: int, characters: int
) -> list[list[int]]:
    """Return the tokens of the beginning of a text, in windows of `width` at most, without what starts each."""
    chosen, left = [], characters
    for line in text.lines:
        if left <= 0:
            break
        chosen.append(line[:left])
        left -= len(line) + 1
    if not by_lines(tokenizer):
        ids = tokenizer("\n".join(chosen), verbose=False).input_ids[start:]
        return [ids[at : at + width] for at in range(0, len(ids), width)]
    lines = [line for line in chosen if line.strip()]
    if not lines:
        return []
    found = [ids[start:] for ids in tokenizer(lines, verbose=False).input_ids]
    # One long line must not pad all others.
    usual = sorted(map(len, found))[len(found) // 2]
    width = min(width, max(_LONG_LINE * usual, 1))
    return [ids[at : at + width] for ids in found for at in range(0, len(ids), width)]
