"""Commands that run: train, demo build, app."""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hiplora.cli.console import INTERRUPTED, asked_to_stop, duration, peak_memory, say, say_result
from hiplora.cli.options import run_settings
from hiplora.errors import HiploraError
from hiplora.printable import printable

if TYPE_CHECKING:
    from hiplora.training.events import Event


def train(args: argparse.Namespace) -> int | None:
    """`hiplora train`: start or resume a run."""
    from hiplora.sources import open_base
    from hiplora.training import Run, RunConfig
    from hiplora.training.events import Step, in_words
    from hiplora.training.train import check, train

    chosen = {each.name: getattr(args, each.name) for each in run_settings() if hasattr(args, each.name)}
    if args.resume:
        if chosen or args.out or args.base or args.reallocate or args.on_top:
            raise HiploraError("--resume continues a run with its own settings: leave out the other options.")
        run = Run(args.resume)
        if run.status.state == "finished":
            say_result(f"{run.path} is finished: there is nothing to resume")
            return None
    else:
        if args.reallocate:
            from hiplora.training.prices import reallocated

            chosen["epsilon_pattern"] = reallocated(Run(args.reallocate))
        if args.on_top:
            chosen["on_top"] = tuple(args.on_top)
        task = args.task or (None if args.data else "swap")
        config = RunConfig(base=args.base or "demo", task=task, data=args.data, **chosen)
        # Before a folder is created: settings that do not fit leave none behind.
        check(open_base(config.base), config)
        run = Run.create(args.out, config) if args.out else Run.create_in(None, config)
    # Warnings of PEFT and transformers meant for their developers.
    warnings.simplefilter("ignore", FutureWarning)
    with asked_to_stop("this step, with a checkpoint") as asked, _shown(run.config.steps) as report:
        train(run, asked, report)
    status = run.status
    if status.state == "stopped":
        say(f"hiplora: {status.message} `hiplora train --resume {run.path}` continues it.")
        return INTERRUPTED
    card = run.card
    say_result(
        f"{run.path}: {in_words(card)}; relative norm {card.relative_norm:.2g}; "
        f"{card.trainable_parameters:,} trained parameters"
    )
    last = next(event for event in reversed(run.events()) if isinstance(event, Step))
    say(
        f"{last.step} steps in {duration(last.seconds)} on {status.device}, "
        f"{last.tokens / last.seconds:,.0f} tokens per second{peak_memory()}"
    )
    return None


@contextmanager
def _shown(steps: int) -> "Iterator[Callable[[Event], None]]":
    """Yield a function that shows the events of a run: progress in one line, scores and caveats above it."""
    from tqdm import tqdm

    from hiplora.training.events import Caveat, Event, Phase, Scores, Step, in_words

    form = "{n:.0f} of {total:.0f} steps|{bar:30}| {desc}"
    with tqdm(total=steps, bar_format=form, disable=None) as bar:

        def report(event: Event) -> None:
            match event:
                case Scores():
                    tqdm.write(f"step {event.step}: {printable(in_words(event))}", file=sys.stderr)
                case Caveat(text):
                    tqdm.write(printable(text), file=sys.stderr)
                case Phase(text):
                    bar.set_description_str(text)
                case Step():
                    bar.set_description_str(f"loss {event.loss:.4f}", refresh=False)
                    bar.update(event.step - bar.n)
                    bar.refresh()

        yield report


def demo_build(args: argparse.Namespace) -> None:
    """`hiplora demo build`: train the demo world again."""
    from tqdm import tqdm

    from hiplora.demo import demo_root
    from hiplora.training.demo_world import build

    out = args.out or demo_root()
    with tqdm(total=1.0, bar_format="{desc} {percentage:3.0f}%|{bar:30}| {remaining} left", disable=None) as bar:
        current = ""

        def report(what: str, share: float) -> None:
            nonlocal current
            if what != current:
                current = what
                bar.reset()
                bar.set_description_str(what, refresh=False)
            bar.update(share - bar.n)

        build(out, seed=args.seed, progress=report)
    say_result(f"{out} holds the demo world")


def app(args: argparse.Namespace) -> None:
    """`hiplora app`: start the app in place of this process."""
    from hiplora.paths import cache_root, site_root

    command = [sys.executable, "-m", "streamlit", "run", "app.py"]
    if args.port is not None:
        command += ["--server.port", str(args.port)]
    # The app runs from its own folder, where streamlit looks for its settings: a relative path would change meaning.
    environment = os.environ | {"HIPLORA_CACHE": str(cache_root().absolute())}
    os.chdir(site_root())
    # Replace this process, so that stopping it stops the server.
    os.execve(sys.executable, [*command, *args.extra], environment)
