"""Read training files: plain text, or JSONL of one kind. Does not load torch: used before a run is created."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from hiplora.errors import HiploraError
from hiplora.files import reject_lfs_pointer, user_path

Kind: TypeAlias = Literal["text", "prompt", "messages"]

_HEAD: Final = 2**20
FORMS: Final[dict[Kind, str]] = {
    "text": '{"text": "..."}',
    "prompt": '{"prompt": "...", "completion": "..."}',
    "messages": '{"messages": [{"role": "...", "content": "..."}, ...]}',
}
_KINDS: Final[dict[frozenset[str], Kind]] = {
    frozenset({"text"}): "text",
    frozenset({"prompt", "completion"}): "prompt",
    frozenset({"messages"}): "messages",
}


@dataclass(frozen=True)
class Texts:
    """The content of a training file, not yet tokenized.

    Attributes:
        path: the file.
        kind: `text`, `prompt` (with its completion) or `messages`; a plain text file is `text`.
        records: for `text` strings (a plain text file is one), for `prompt` pairs (prompt, completion), for `messages`
            lists of `{"role", "content"}`.
    """

    path: Path
    kind: Kind
    records: list[Any] = field(repr=False)

    @property
    def plain(self) -> bool:
        """Whether the file is one plain text, to be cut into blocks, instead of records."""
        return _is_plain(self.path)


def _is_plain(path: Path) -> bool:
    return path.suffix.lower() != ".jsonl"


def read_texts(path: str | Path) -> Texts:
    """Read a training file.

    A `.jsonl` file holds one JSON object per line, all of one kind; blank lines are skipped. Any other file is plain
    UTF-8 text.

    Raises:
        HiploraError: the file is missing, a folder, unreadable, empty, binary or a Git LFS pointer; a line is broken or
            is not of one of the three kinds; the kinds are mixed.
    """
    path = user_path(path)
    if path.is_dir():
        raise HiploraError(f"{path} is a folder: pass a text or .jsonl file in it.")
    if not path.is_file():
        raise HiploraError(f"{path} is missing: check the path of the training file.")
    try:
        reject_lfs_pointer(path)
        with path.open("rb") as file:  # the start first: a large binary file may be one endless line
            _require_text(file.read(_HEAD).decode("latin-1"), path)
        texts = _read_plain(path) if _is_plain(path) else _read_jsonl(path)
    except UnicodeDecodeError:
        raise _binary(path) from None
    except OSError as error:
        raise HiploraError(f"{path} cannot be read ({error.strerror}): check its permissions.") from None
    if not texts.records:
        raise HiploraError(f"{path} is empty: pass a file with text to train on.")
    return texts


def _read_plain(path: Path) -> Texts:
    text = path.read_text(encoding="utf-8-sig")
    _require_text(text, path)
    return Texts(path, "text", [text] if text.strip() else [])


def _read_jsonl(path: Path) -> Texts:
    records: list[Any] = []
    kind: Kind = "text"
    first = 0
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            _require_text(line, path)
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            found, record = _parse(line, where)
            if not records:
                kind, first = found, number
            elif found != kind:
                raise HiploraError(
                    f"{path} mixes kinds, {FORMS[kind]} in line {first} and {FORMS[found]} in line {number}: "
                    "make one file for each."
                )
            records.append(record)
    return Texts(path, kind, records)


def _binary(path: Path) -> HiploraError:
    return HiploraError(f"{path} is binary or not UTF-8: save its text as UTF-8, plain or as .jsonl.")


def _require_text(text: str, path: Path) -> None:
    if "\0" in text:
        raise _binary(path)


def _parse(line: str, where: str) -> tuple[Kind, Any]:
    """Return the kind and content of one line of JSONL, or raise a HiploraError that begins with `where`."""
    forms = " or ".join(FORMS.values())
    try:
        value = json.loads(line.rstrip())
    except (ValueError, RecursionError) as error:
        # The message of a JSONDecodeError counts its lines from the start of this one.
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise HiploraError(f"{where} is not valid JSON ({reason}): write one object per line, {forms}.") from None
    if not isinstance(value, dict):
        raise HiploraError(f"{where} holds a {type(value).__name__} where a JSON object is expected, {forms}.")
    kind = _KINDS.get(frozenset(value))
    if kind is None:
        keys = ", ".join(repr(key[:40]) for key in list(value)[:6]) or "none"
        raise HiploraError(f"{where} has the wrong keys ({keys}): expected exactly {forms}.")
    if kind == "text":
        record, fits = value["text"], _is_text(value["text"])
    elif kind == "prompt":
        record = (value["prompt"], value["completion"])
        fits = all(map(_is_text, record))
    else:
        record = value["messages"]
        fits = isinstance(record, list) and bool(record) and all(map(_is_message, record))
    if not fits:
        raise HiploraError(
            f"{where} has the right keys but wrong values: expected {FORMS[kind]}, where ... is a Unicode string."
        )
    return kind, record


def _is_text(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair: JSON can escape it, tokenizers reject it
        return False
    return True


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"role", "content"} and all(map(_is_text, value.values()))
