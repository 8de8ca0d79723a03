"""Mutated inputs for a target, guided by coverage where atheris is installed.

A fault is an exception that the reader does not promise, an input that takes the processor more than five seconds, or a
peak of more than 256 MiB over the campaign. Inputs that reached new code are kept in `corpus/`, one JSON string a line.
"""

import faulthandler
import importlib
import json
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hiplora.errors import HiploraError
from tests.fuzz.targets import TARGETS

SLOWEST = 5.0
MEMORY = 256 * 2**20
_CORPUS = Path(__file__).with_name("corpus")
_ODD: tuple[Any, ...] = (
    None, True, -1, 0, 10**400, 1e308, float("nan"), "", "²", "=cmd|", "\x1b[2J", [], {}, [None], {"a": []}, "9" * 5000,
    "../../etc/passwd", "(a+)+$",
)  # fmt: skip


@dataclass
class Figures:
    """What a campaign saw so far."""

    name: str
    inputs: int = 0
    slowest: float = 0.0
    start: float = 0.0
    memory: int = 0

    def __str__(self) -> str:
        seconds = time.perf_counter() - self.start
        grown = _peak() - self.memory
        return (
            f"{self.name}: {self.inputs:,} inputs, {self.inputs / seconds:,.0f} a second, slowest "
            f"{self.slowest * 1e3:.0f} ms, {grown / 2**20:.0f} MiB more"
        )


def corpus(name: str) -> list[bytes]:
    """Return the inputs kept of a target."""
    path = _CORPUS / f"{name}.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line).encode("latin-1") for line in lines]


def keep(name: str, inputs: list[bytes]) -> None:
    """Replace the inputs kept of a target."""
    _CORPUS.mkdir(exist_ok=True)
    lines = sorted({json.dumps(content.decode("latin-1")) for content in inputs}, key=lambda line: (len(line), line))
    (_CORPUS / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))


def campaign(name: str, inputs: int = 0, seconds: float = 0.0, seed: int = 0) -> Figures:
    """Run a target on its corpus, and then on mutated inputs until so many were tried, or for so long.

    Raises:
        AssertionError: a fault, with the input.
    """
    choose, kept = random.Random(seed), corpus(name)
    known = [*TARGETS[name][1], *(value for content in kept if (value := parsed(content)) is not None)]
    with trial(name) as (figures, attempt):
        for content in kept:
            attempt(content)
        end = figures.start + seconds
        while figures.inputs < inputs or time.perf_counter() < end:
            attempt(mutated(choose.choice(known), choose))
    return figures


@contextmanager
def trial(name: str) -> Iterator[tuple[Figures, Any]]:
    """Yield figures, and a function that tries one input and counts it."""
    target = TARGETS[name][0]
    with tempfile.TemporaryDirectory() as folder:
        # Their import is not a part of the first input that needs them.
        importlib.import_module("transformers.models.auto.modeling_auto")
        importlib.import_module("peft")
        figures = Figures(name, start=time.perf_counter(), memory=_peak())

        def attempt(content: bytes) -> None:
            begun = time.process_time()
            # An input that never returns ends the process, and shows where it was.
            faulthandler.dump_traceback_later(12 * SLOWEST, exit=True)
            try:
                target(content, Path(folder))
            except HiploraError:
                pass
            except Exception as error:
                raise AssertionError(f"{name}: {type(error).__name__} from {content[:600]!r}") from error
            finally:
                faulthandler.cancel_dump_traceback_later()
            figures.inputs += 1
            figures.slowest = max(figures.slowest, time.process_time() - begun)
            assert figures.slowest < SLOWEST, f"{name}: {figures.slowest:.1f} s for {content[:600]!r}"
            grown = _peak() - figures.memory
            assert grown < MEMORY, f"{name}: {grown / 2**20:.0f} MiB more after {content[:600]!r}"

        yield figures, attempt


def mutated(value: Any, choose: random.Random) -> bytes:
    """Return a JSON value with some entries replaced, removed or doubled, and sometimes some bytes changed."""
    value = json.loads(json.dumps(value))
    for _ in range(choose.randint(0, 3)):
        at = value
        while isinstance(at, dict | list) and at:
            key: Any = choose.choice(list(at)) if isinstance(at, dict) else choose.randrange(len(at))
            if isinstance(at[key], dict | list) and at[key] and choose.random() < 0.6:
                at = at[key]
                continue
            if choose.random() < 0.2:
                del at[key]
            elif isinstance(at, dict) and choose.random() < 0.2:
                at[f"{key}{choose.choice(['.x', '²', '.weight', '_'])}"] = at[key]
            else:
                at[key] = deepcopy(choose.choice([*_ODD, choose.randrange(40)]))
            break
    content = bytearray(json.dumps(value).encode())
    if choose.random() < 0.3:
        for _ in range(choose.randint(1, 4)):
            content[choose.randrange(len(content))] = choose.randrange(256)
    return bytes(content[: choose.randrange(len(content))] if choose.random() < 0.05 else content)


def parsed(content: bytes) -> Any:
    """Return an input as a JSON object or list; None where it is neither."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) and value else None


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
