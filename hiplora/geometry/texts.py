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
    longest = min(longest, _LONGEST)
    start: list[int] = tokenizer("").input_ids
    body: list[list[int]]
    if by_lines(tokenizer):
        lines = [line for line in text.lines if line.strip()]
        body = [ids[len(start) :] for ids in tokenizer(lines).input_ids]
    else:
        ids = tokenizer("\n".join(text.lines), verbose=False).input_ids[len(start) :]
        width = longest - len(start)
        body = [ids[at : at + width] for at in range(0, len(ids), width)]
    found: list[list[int]] = []
    left = tokens
    for ids in body:
        ids = [*start, *ids][: min(longest, left)]
        if len(ids) > len(start):
            found.append(ids)
        left -= len(ids)
        if left <= len(start):
            break
    if (count := sum(map(len, found))) < min(LEAST_TOKENS, tokens):
        raise HiploraError(f"{text.name} has {count} tokens for this base: at least {LEAST_TOKENS} are needed.")
    return found
