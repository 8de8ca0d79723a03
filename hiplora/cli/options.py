"""Options that several commands share."""

import argparse
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hiplora.errors import HiploraError
from hiplora.settings import COUNT, DEFAULT_TOKENS, LOSS_TOKENS, Rule

if TYPE_CHECKING:
    from hiplora.effects import Scores
    from hiplora.study import Study

BASE_HELP = (
    "A transformers folder, a known name (demo, SmolLM2-135M-Instruct, all-MiniLM-L6-v2) or a hub name (owner/model)"
)

GAIN_OPTIONS = {
    "pp": "the principal block",
    "pr": "principal outputs from residual inputs",
    "rp": "residual outputs from principal inputs",
    "rr": "the rest",
}

LIMIT_OPTIONS = {
    "effect": "relative change of a module's outputs on the base's inputs (geometry inputs)",
    "tightness": "share of the stability budget that a module spends (1 = all of it)",
    "enrichment": "share of a module's update in its principal block, in times of a random update's",
}

PORT = Rule("a port from 1 to 65535", (int,), lambda value: 1 <= value <= 65535)

_SHORT_OPTIONS = {"principal_rank": "--k", "budget_power": "--power", "budget_lambda": "--lambda"}


def typed(rule: Rule) -> Callable[[str], Any]:
    """Return a function that reads a typed value and checks it."""

    def read(text: str) -> Any:
        try:
            value = rule.kind[0](text)
        except ValueError:
            value = None
        if not rule.accepts(value):
            raise argparse.ArgumentTypeError(f"must be {rule.words}, got {text}")
        return value

    return read


def run_settings() -> "list[dataclasses.Field[Any]]":
    """Return the fields of `RunConfig` that have their own option."""
    from hiplora.training.config import RunConfig

    return [
        each
        for each in dataclasses.fields(RunConfig)
        if each.name not in ("base", "task", "data", "on_top", "epsilon_pattern")
    ]


def add_settings(command: argparse.ArgumentParser) -> None:
    """Add one option for each setting of a run, with its own default, check and help."""
    from hiplora.training.config import default_words
    from hiplora.training.methods import METHODS

    for each in run_settings():
        rule, text = each.metadata["rule"], each.metadata["help"].rstrip(".")
        if each.name == "method":
            text = f"How to train: {', '.join(METHODS)}"
        if words := default_words(each.name):
            text += f" (default: {words})"
        command.add_argument(
            _SHORT_OPTIONS.get(each.name, f"--{each.name.replace('_', '-')}"),
            dest=each.name,
            type=str if rule.choices else typed(rule),
            choices=rule.choices or None,
            default=argparse.SUPPRESS,
            help=text.replace("%", "%%"),
        )


def opened(args: argparse.Namespace, *, strict: bool = True) -> "Study":
    """Return the study of the adapters of a command, with what its options say of it.

    Args:
        args: of a command with a base, adapters, `--k` and a geometry.
        strict: as in `open_study`.

    Raises:
        HiploraError: as `open_study`.
    """
    from hiplora.study import open_study

    adapters = args.adapters if hasattr(args, "adapters") else [args.adapter]
    # Of a command that scores texts too, the number is theirs, unless inputs are observed as well.
    scored = args.tokens is None or (args.geometry == "weights" and getattr(args, "task_text", None) is not None)
    tokens = DEFAULT_TOKENS if scored else args.tokens
    chosen = {name: getattr(args, name) for name in ("epsilon", "power", "device") if hasattr(args, name)}
    return open_study(
        args.base, adapters, args.k, geometry=args.geometry, text=args.text, tokens=tokens, download=args.download,
        strict=strict, **chosen,
    )  # fmt: skip


def add_scores(command: argparse.ArgumentParser) -> None:
    """Add the options that say how edits are scored; `scores` reads them."""
    command.add_argument(
        "--task-text", metavar="FILE", help="Score by loss, on this text of the task (default: exactly, on the demo)"
    )
    command.add_argument(
        "--kept-text",
        metavar="FILE",
        help="Score on this text of what should be kept, too (default: Python's documentation)",
    )
    command.add_argument(
        "--size", type=typed(COUNT), default=200, help="Examples per skill of the demo world (default: %(default)s)"
    )


def scores(args: argparse.Namespace) -> "Scores":
    """Return the way to score edits.

    Raises:
        HiploraError: a text for what is kept, without one of the task.
    """
    if args.task_text is None:
        from hiplora.demo.scored import ExactScores

        if args.kept_text is not None:
            raise HiploraError("--kept-text belongs to --task-text FILE, a text of the task: pass both, or neither.")
        return ExactScores(args.size)
    from hiplora.effects import TextLosses

    return TextLosses(args.task_text, args.kept_text, LOSS_TOKENS if args.tokens is None else args.tokens)
