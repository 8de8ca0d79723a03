"""Options that several commands share."""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

from hiplora.settings import Rule

BASE_HELP = (
    "a transformers folder, a known name (demo, SmolLM2-135M-Instruct, all-MiniLM-L6-v2) or a hub name (owner/model)"
)

GAIN_OPTIONS = {
    "pp": "the principal block",
    "pr": "principal outputs from residual inputs",
    "rp": "residual outputs from principal inputs",
    "rr": "the rest",
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
        each for each in dataclasses.fields(RunConfig) if each.name not in ("base", "task", "data", "epsilon_pattern")
    ]


def add_settings(command: argparse.ArgumentParser) -> None:
    """Add one option for each setting of a run, with its own default, check and help."""
    from hiplora.training.config import default_words
    from hiplora.training.methods import METHODS

    for each in run_settings():
        rule, text = each.metadata["rule"], each.metadata["help"].rstrip(".")
        if each.name == "method":
            text = ", ".join(METHODS)
        if words := default_words(each.name):
            text += f" (default: {words})"
        command.add_argument(
            _SHORT_OPTIONS.get(each.name, f"--{each.name.replace('_', '-')}"),
            dest=each.name,
            type=str if rule.choices else typed(rule),
            choices=rule.choices or None,
            default=argparse.SUPPRESS,
            help=(text[0].lower() + text[1:]).replace("%", "%%"),
        )


def geometry(args: argparse.Namespace) -> dict[str, Any]:
    """Return the choices of `open_study` that belong to the geometry."""
    return {"geometry": args.geometry, "text": args.text, "tokens": args.tokens}
