"""Match the patterns of a PEFT config with modules.

A config may come from anyone, and a pattern can keep Python's `re` busy for years: its cost is bounded here.
"""

import re
import time
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache, partial
from math import prod
from typing import Final, TypeVar

import regex

from hiplora.errors import HiploraError

_Value = TypeVar("_Value")

_LONGEST: Final = 1000
"""Characters of a pattern, and of a module's name. Names have up to 150, an alternation of all kinds of map of a large
model has 600; 1000 characters compile in 20 ms at worst."""
_LARGEST: Final = 100_000
"""Characters of a pattern times all its counted repeats, which `regex` writes out: they compile in 0.2 s at worst."""
_MATCH_SECONDS: Final = 0.1
"""CPU time for one match, during which no other thread runs: an ordinary one takes 5 microseconds."""
_SECONDS: Final = 0.5
_SECONDS_EACH: Final = 1e-5
"""CPU time for a field: a fixed part, and one for each pair of pattern and module."""

_NAME = re.compile(r"\^?(?:\w|\\?[.-])+\$?")
_COUNTS = re.compile(r"\{(\d*),?(\d*)\}")


def match_patterns(
    patterns: Mapping[str, _Value], modules: Collection[str], field: str
) -> dict[str, tuple[str, _Value]]:
    r"""Return the first pattern matching each module's name, and the pattern's value.

    PEFT's own rule: a pattern matches a module if `re.match(rf"(.*\.)?({pattern})$", module)`. Modules without a
    matching pattern are left out.

    Args:
        patterns: `{pattern: value}`, in the order in which they are tried.
        modules: names without `base_model.model.`.
        field: of `adapter_config.json`, such as `rank_pattern`, for the error.

    Raises:
        HiploraError: a pattern is not a regular expression, is too long, or takes too long.
    """
    found = {}
    end = time.thread_time() + _SECONDS + _SECONDS_EACH * len(patterns) * len(modules)
    for module in modules:
        if patterns and len(module) > _LONGEST:
            raise HiploraError(
                f"The adapter has a module {_shortened(module)} of more than {_LONGEST} characters: save it again."
            )
        for pattern, value in patterns.items():
            try:
                matched = _matcher(pattern)(module)
                if time.thread_time() > end:
                    raise TimeoutError
            except TimeoutError:
                raise _refusal(pattern, field, "takes too long to match: write the names of the modules") from None
            except ValueError as error:
                raise _refusal(pattern, field, str(error)) from None
            if matched:
                found[module] = pattern, value
                break
    return found


@lru_cache(maxsize=4096)
def _matcher(pattern: str) -> Callable[[str], object]:
    """Return a function for matching names against a pattern.

    Raises:
        ValueError: it is too long, or not a regular expression; the message says so, and what to do.
    """
    if len(pattern) > _LONGEST:
        raise ValueError(f"has more than {_LONGEST} characters: write several shorter ones")
    if len(pattern) * prod(max(map(int, ("1", *filter(None, count)))) for count in _COUNTS.findall(pattern)) > _LARGEST:
        raise ValueError("repeats too many characters by its counts: write * or + instead")
    whole = rf"(.*\.)?({pattern})$"
    try:
        # Patterns that PEFT would refuse are refused here too, such as syntax that only `regex` has.
        matcher = re.compile(whole)
        # A plain name cannot take long.
        return (
            matcher.match if _NAME.fullmatch(pattern) else partial(regex.compile(whole).match, timeout=_MATCH_SECONDS)
        )
    except RecursionError:
        raise ValueError("has too many parentheses inside each other: write a simpler one") from None
    except (re.error, regex.error, OverflowError) as error:
        raise ValueError(f"is not a regular expression ({getattr(error, 'msg', error)}): correct it") from None


def _refusal(pattern: str, field: str, reason: str) -> HiploraError:
    return HiploraError(f"adapter_config.json has {_shortened(pattern)} in {field}, which {reason}.")


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")
