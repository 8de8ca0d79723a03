"""The text on which a base's inputs are observed."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hiplora.errors import HiploraError
from hiplora.files import user_path

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEAST_TOKENS = 256
_LONGEST = 512
_CHARACTERS = 16
"""Characters looked at for each token that is wanted, at first."""
_LONG_LINE = 4
"""Lines longer than so many times the usual one are cut."""


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
        raise HiploraError(f"{where} is not a file: pass a text file to observe the base's inputs on.")
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
    width = max(min(longest, _LONGEST) - len(start), 1)
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
