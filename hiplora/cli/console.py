"""What the command line says, and how it is stopped."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiplora.printable import printable

if TYPE_CHECKING:
    from hiplora.spectrum.prepare import Progress

INTERRUPTED = 130


def say(text: str) -> None:
    """Print one line on stderr."""
    print(printable(" ".join(text.split())), file=sys.stderr)


def say_once(text: str) -> None:
    """Print one line on stderr, from the first of several processes only."""
    if not rank_of_process():
        say(text)


def say_result(*lines: str) -> None:
    """Print lines on stdout."""
    print("\n".join(map(printable, lines)))


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning as one line on stderr, in the form that `warnings` asks for."""
    say(f"hiplora: {message}")


@contextmanager
def asked_to_stop(after: str) -> Iterator[Callable[[], bool]]:
    """Yield a function: whether Ctrl-C or a scheduler's termination signal has come. The second one stops at once.

    The first one raises nothing: Python drops exceptions raised while it frees an object.

    Args:
        after: the work that is still finished, for the message.
    """
    asked = False

    def ask(*_: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        say_once(f"hiplora: stopping after {after}; once more to stop at once.")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show_progress(what: str, work: "Iterable[Progress]", every: float = 30.0) -> int:
    """Show a progress bar of work on maps, and return how many were done.

    Args:
        what: the work, for a person.
        work: yields its progress.
        every: seconds between two lines where stderr is a file, which has no bar.
    """
    from tqdm import tqdm

    done, shown = 0, what + " {percentage:3.0f}%|{bar:30}| {desc}"
    said = time.monotonic()
    with tqdm(total=1.0, bar_format=shown, disable=rank_of_process() > 0 or None) as bar:
        for progress in work:
            done = progress.done
            left = "" if progress.remaining is None else f", {duration(progress.remaining)} left"
            bar.set_description_str(f"{done} of {progress.total} maps{left}", refresh=False)
            bar.update(progress.share - bar.n)
            if bar.disable and time.monotonic() - said >= every:
                say_once(f"{what} {progress.share:.0%}, {done} of {progress.total} maps{left}")
                said = time.monotonic()
    return done


def rank_of_process() -> int:
    """Return the rank of this process under `torchrun`, 0 without it. Only the first one prints."""
    return int(os.environ.get("RANK", "0"))


def peak_memory() -> str:
    """Return `, peak memory ...` of this process; empty if the system does not report it."""
    try:
        # On Linux getrusage would also count what the parent held when it started this process.
        lines = Path("/proc/self/status").read_text().splitlines()
        peak = 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    except (OSError, StopIteration):
        try:
            import resource
        except ImportError:
            return ""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f", peak memory {size_of(peak)}"


def size_of(count: float) -> str:
    """Return a number of bytes in words."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    """Return a time in words."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
