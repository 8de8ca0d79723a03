"""The command that holds adapters against limits: check."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hiplora.cli.console import say, say_result
from hiplora.cli.measuring import spectra_of
from hiplora.cli.options import LIMIT_OPTIONS, opened, typed
from hiplora.cli.tables import lines_of
from hiplora.errors import HiploraError
from hiplora.settings import NOT_NEGATIVE

if TYPE_CHECKING:
    from hiplora.measures import Limit

_LISTED = 20
"""Rows over a limit that are listed; the files have all."""


def check(args: argparse.Namespace) -> int:
    """`hiplora check`: hold adapters against limits."""
    from hiplora.files import atomic_path
    from hiplora.measures.limits import optional_measures, verdict_words
    from hiplora.study.check_files import as_json, as_junit, as_sarif

    files = {form: path for form in ("json", "sarif", "junit") if (path := getattr(args, form))}
    for path in files.values():
        if path.is_dir():
            raise HiploraError(f"{path} is a folder: name a file in it.")
    wanted = limits(args)
    geometries = {limit.geometry or args.geometry for limit in wanted}
    of_inputs = argparse.Namespace(**vars(args) | {"geometry": "inputs"})
    study = opened(of_inputs if "inputs" in geometries else args, strict=False)
    inputs = study.calibration
    if args.geometry == "weights":
        study = study.at(geometry="weights")
    for geometry in sorted(geometries) if study.updates else ():
        there = study.at(geometry=inputs or "inputs") if geometry == "inputs" else study
        spectra_of(there, None if optional_measures(wanted) else study.k)
    found = study.check(wanted, inputs)
    for form, write in (("json", as_json), ("sarif", as_sarif), ("junit", as_junit)):
        if form in files:
            with atomic_path(files[form]) as draft:
                draft.write_text(write(found), encoding="utf-8")
    if len(found.table):
        say_result(*lines_of(verdict_words(found.table, wanted)))
    for row in found.over.head(_LISTED).to_dict("records"):
        say(f"hiplora: {row['adapter']}: {row['reason']}")
    if (more := len(found.over) - _LISTED) > 0:
        say(f"hiplora: {more} more are not within their limits: --json FILE, --sarif FILE and --junit FILE list all.")
    for update in found.study.updates:
        for caveat in found.study.caveats[update.name]:
            say(f"hiplora: {update.name}: {caveat}")
    for refusal in found.refusals:
        say(f"hiplora: {refusal}")
    return found.code


def limits(args: argparse.Namespace) -> "list[Limit]":
    """Return the limits that a command names.

    Raises:
        HiploraError: there is none, or one is not a measure with a number.
    """
    from hiplora.measures import Limit, read_limit

    found = [read_limit(text, most=most) for most, texts in ((True, args.max), (False, args.min)) for text in texts]
    for name in LIMIT_OPTIONS:
        if (bound := getattr(args, f"max_{name}")) is not None:
            of_inputs = Limit("relative_norm", bound, geometry="inputs")
            found.append(of_inputs if name == "effect" else read_limit(f"{name}={bound!r}"))
    if not found:
        raise HiploraError(
            "Nothing is limited: give at least one limit, such as --max-tightness 1, or --max NAME=VALUE for any "
            "measure."
        )
    return list(dict.fromkeys(found))


def add_limits(command: argparse.ArgumentParser) -> None:
    """Add the options of limits, and of the files for other programs."""
    for name, meaning in LIMIT_OPTIONS.items():
        command.add_argument(f"--max-{name}", metavar="X", type=typed(NOT_NEGATIVE), help=f"Highest {meaning}")
    for option, which in (("max", "Highest"), ("min", "Lowest")):
        command.add_argument(
            f"--{option}",
            metavar="NAME=X",
            action="append",
            default=[],
            help=f"{which} value of a measure: a column of the layer table for each module, or of the summary for an "
            "adapter as a whole, as in retention=0.9; adapter:NAME is the summary's where both have it",
        )
    for form, meaning in (
        ("json", "everything as JSON"),
        ("sarif", "what is not within as SARIF 2.1.0, for code scanning"),
        ("junit", "each module and limit as a test, in JUnit's XML"),
    ):
        command.add_argument(f"--{form}", metavar="FILE", type=Path, help=f"Write {meaning}")
