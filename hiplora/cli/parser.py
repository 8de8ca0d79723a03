"""The commands and their options."""

import argparse
import textwrap
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path

from hiplora import __version__
from hiplora.cli.assistant import mcp
from hiplora.cli.changing import convert, edit, export_lora, rebudget, repair
from hiplora.cli.checking import add_limits, check
from hiplora.cli.examples import EXAMPLES
from hiplora.cli.measuring import ablate, analyze, cache, calibrate, inspect, ledger, report, svd
from hiplora.cli.merging import merge, verify
from hiplora.cli.options import BASE_HELP, GAIN_OPTIONS, PORT, add_scores, add_settings, typed
from hiplora.cli.running import app, demo_build, train
from hiplora.settings import (
    COUNT,
    DEFAULT_TOKENS,
    DENSITY,
    LOSS_TOKENS,
    MERGE_WAYS,
    NOT_NEGATIVE,
    POSITIVE,
    WHOLE,
    HipLoraSettings,
)

_WIDTH = 100


def _examples(command: str) -> str:
    """Return the examples of a command, or of all of them, as the end of its help."""
    return "\n  ".join(["examples:", *EXAMPLES[command]])


def mistyped(given: Sequence[str]) -> str:
    """Return which command was perhaps meant by one that does not exist, as a sentence; empty if there is none.

    Args:
        given: arguments without the program's name.
    """
    known = [name for name in EXAMPLES if name]
    typed_name = next((word for word in given if not word.startswith("-")), "")
    if not typed_name or typed_name in known or not (near := get_close_matches(typed_name, known, 1)):
        return ""
    return f"{typed_name!r} is not a command: did you mean {near[0]}?"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; a command is its function in `run`."""
    parser = argparse.ArgumentParser(
        "hiplora",
        description="See what low-rank adapters do to the leading directions of their base, and train ones that hold "
        "a budget there.",
        epilog=_examples(""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"hiplora {__version__}", help="Show the version and exit"
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int | None], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=text,
            description=textwrap.fill(f"{text}.", _WIDTH),
            epilog=_examples(name),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        return command

    def add_base(command: argparse.ArgumentParser) -> None:
        command.add_argument("base", metavar="BASE", help=BASE_HELP)
        command.add_argument("--download", action="store_true", help="Allow downloading a model by its hub name")
        command.add_argument(
            "--device",
            choices=("auto", "cpu", "cuda"),
            default="auto",
            help="Where to compute SVDs (default: %(default)s)",
        )

    def add_text(command: argparse.ArgumentParser, scored: bool = False) -> None:
        command.add_argument(
            "--text", metavar="FILE", help="Text to observe the inputs on (default: the base's own, else English)"
        )
        command.add_argument(
            "--tokens",
            type=typed(COUNT),
            default=None if scored else DEFAULT_TOKENS,
            help="At most this many tokens of "
            + (
                f"each text (default: {LOSS_TOKENS}; of --text {DEFAULT_TOKENS})"
                if scored
                else "the text (default: %(default)s)"
            ),
        )

    def add_geometry(command: argparse.ArgumentParser, scored: bool = False) -> None:
        command.add_argument(
            "--geometry",
            choices=("weights", "inputs"),
            default="weights",
            help="What is measured: the update, or what it does on the inputs of a text (default: %(default)s)",
        )
        add_text(command, scored)

    def add_k(command: argparse.ArgumentParser, uses: str = "Principal rank") -> None:
        default = HipLoraSettings.principal_rank
        command.add_argument("--k", type=typed(COUNT), default=default, help=f"{uses} (default: {default})")

    def add_budget(command: argparse.ArgumentParser, epsilon: str) -> None:
        command.add_argument("--epsilon", type=typed(POSITIVE), help=epsilon)
        command.add_argument(
            "--power",
            type=typed(NOT_NEGATIVE),
            default=HipLoraSettings.budget_power,
            help="Exponent p of the budget's weights (s_i/s_1)^p (default: %(default)g)",
        )

    def add_study(command: argparse.ArgumentParser, epsilon: str, k: str = "Principal rank") -> None:
        add_base(command)
        command.add_argument(
            "adapters",
            metavar="ADAPTER",
            nargs="+",
            help="An adapter folder, a run, or one of the demo's adapters by name",
        )
        add_k(command, k)
        add_budget(command, epsilon)
        add_geometry(command)

    def add_table(command: argparse.ArgumentParser, table: str = "the table") -> None:
        command.add_argument("--out", type=Path, metavar="FILE", help=f"Write {table}: .csv, .json or .parquet")

    command = add("analyze", analyze, "Measure adapters against the spectrum of their base")
    add_study(command, f"Budget for all adapters (default: each adapter's own, else {HipLoraSettings.epsilon:g})")
    add_table(command, "the layer table")
    command.add_argument(
        "--intruders",
        action="store_true",
        help="Count intruder dimensions too, and the intruder scale (needs complete SVDs)",
    )

    command.add_argument(
        "--worst", type=typed(WHOLE), default=3, help="How many modules of each adapter to list (default: %(default)s)"
    )

    command = add("report", report, "Write what adapters do to their base as one HTML page, with figures and hashes")
    add_study(command, f"Budget for all adapters (default: each adapter's own, else {HipLoraSettings.epsilon:g})")
    command.add_argument(
        "--out", type=Path, metavar="FILE", default=Path("report.html"), help="The page to write (default: %(default)s)"
    )

    command = add(
        "check", check, "Hold adapters against limits, for CI: exit code 0 if all are within, 1 if not, 2 for bad input"
    )
    add_study(command, f"Budget for all adapters (default: each adapter's own, else {HipLoraSettings.epsilon:g})")
    add_limits(command)

    command = add("ledger", ledger, "Say what adapters, one put on top of another, spend of a budget that they share")
    add_study(command, f"The budget (default: the smallest own, else {HipLoraSettings.epsilon:g})")
    add_table(command)

    command = add(
        "inspect", inspect, "Say what is read of an adapter: tensors, scaling, ranks, and whether it fits a base"
    )
    command.add_argument(
        "adapter", metavar="ADAPTER", help="An adapter, one file, a run, or the folder of a whole model"
    )
    command.add_argument("--base", metavar="BASE", help=BASE_HELP)
    command.add_argument("--download", action="store_true", help="Allow downloading a model by its hub name")
    command.add_argument("--json", action="store_true", help="Print everything, as JSON")

    command = add(
        "convert",
        convert,
        "Write a pickle of tensors (.bin, .pt) as safetensors, running no code of it; with --base, give a LoRA of "
        "kohya or ComfyUI the names that a model of diffusers has",
    )
    command.add_argument(
        "file", metavar="FILE", help="A file that torch.save wrote, or with --base a .safetensors file"
    )
    command.add_argument("out", metavar="OUT", nargs="?", help="The file to write (default: beside it, .safetensors)")
    command.add_argument("--base", metavar="BASE", help="Folder of a model of diffusers: unet/ or transformer/")

    def add_adapter(command: argparse.ArgumentParser, scored: bool = False) -> None:
        command.add_argument(
            "adapter", metavar="ADAPTER", help="An adapter folder, a run, or one of the demo's adapters by name"
        )
        command.add_argument("--base", metavar="BASE", required=True, help=BASE_HELP)
        command.add_argument("--download", action="store_true", help="Allow downloading a model by its hub name")
        add_k(command)
        add_geometry(command, scored)

    def add_edit(command: argparse.ArgumentParser, scored: bool = False) -> None:
        add_adapter(command, scored)
        command.add_argument("--out", metavar="DIR", type=Path, required=True, help="The folder to write")
        command.add_argument("--rank", type=typed(COUNT), help="Cut each module back to this rank (default: exact)")

    command = add(
        "ablate",
        ablate,
        "Score an adapter without each of its blocks and with each alone, beside the whole scaled to the same norm",
    )
    add_adapter(command, scored=True)
    add_scores(command)
    command.add_argument(
        "--by",
        choices=("block", "layer", "kind", "module"),
        default="block",
        help="Remove blocks, or one part at a time beside what the indicators said of it (default: %(default)s)",
    )
    add_table(command)

    command = add("edit", edit, "Change the four blocks of an adapter, and save it as an ordinary LoRA")
    add_edit(command)
    for block, meaning in GAIN_OPTIONS.items():
        command.add_argument(f"--{block}", type=float, default=1.0, help=f"Gain of {meaning} (default: 1)")

    command = add(
        "repair",
        repair,
        "Find the edit that keeps the task and most of the base, and save it as an ordinary LoRA",
    )
    add_edit(command, scored=True)
    add_scores(command)

    command = add(
        "merge",
        merge,
        "Merge adapters of one base, and save the merge as an ordinary LoRA or as a whole model, with a report",
    )
    add_study(
        command, "Joint budget of core (default: the smallest own)", "Principal rank of core and of the conflicts"
    )
    command.add_argument("--how", choices=MERGE_WAYS, default="sum", help="The way to merge (default: %(default)s)")
    command.add_argument(
        "--weights",
        metavar="W",
        nargs="+",
        type=float,
        help="One number for each adapter, which scales it (default: 1)",
    )
    command.add_argument("--density", type=typed(DENSITY), help="Share of entries that a pruning way keeps")
    command.add_argument("--seed", type=typed(WHOLE), default=0, help="Seed of a way that draws (default: 0)")
    command.add_argument("--rank", type=typed(COUNT), help="Cut each module back to this rank (default: exact)")
    command.add_argument("--save-model", action="store_true", help="Write the merged model in the place of a LoRA")
    command.add_argument("--out", metavar="DIR", type=Path, required=True, help="The new folder to write")

    command = add(
        "verify", verify, "Say whether a checkpoint is really a base with an adapter merged into it (exit code 0 or 1)"
    )
    command.add_argument("base", metavar="BASE", help=BASE_HELP)
    command.add_argument(
        "adapter", metavar="ADAPTER", help="An adapter folder, a run, or one of the demo's adapters by name"
    )
    command.add_argument("merged", metavar="MERGED", help="Folder of the checkpoint")
    command.add_argument("--download", action="store_true", help="Allow downloading a model by its hub name")
    add_table(command, "a table with one row per map")

    command = add("rebudget", rebudget, "Scale an adapter's principal block down to a budget, and save it as a LoRA")
    add_edit(command)
    add_budget(command, f"The budget (default: the adapter's own, else {HipLoraSettings.epsilon:g})")

    command = add(
        "calibrate", calibrate, "Observe what reaches each map of a base on a text, for the geometry of the inputs"
    )
    add_base(command)
    add_text(command)

    command = add("svd", svd, "Fill the cache with the spectra of a base, so that later work starts at once")
    add_base(command)
    command.add_argument(
        "--k", type=typed(COUNT), default=64, help="Leading singular directions of each weight (default: %(default)s)"
    )
    command.add_argument("--full", action="store_true", help="Compute all singular directions")

    command = add("train", train, "Train an adapter, as a run that can be stopped, resumed, analyzed and compared")
    command.add_argument("--base", metavar="BASE", help=f"{BASE_HELP} (default: demo)")
    what = command.add_mutually_exclusive_group()
    what.add_argument("--task", help="A task of the demo world (default: swap)")
    what.add_argument("--data", metavar="FILE", help="A text file, or JSONL with text, prompt/completion or messages")
    what.add_argument("--resume", metavar="RUN", help="Resume a run from its last checkpoint; takes no other options")
    command.add_argument("--out", metavar="RUN", help="Folder of the run (default: a new one among the app's runs)")
    command.add_argument(
        "--on-top",
        metavar="ADAPTER",
        nargs="+",
        help="Add these adapters to the base first; HiP-LoRA gets what they leave of each layer's budget",
    )
    command.add_argument(
        "--reallocate",
        metavar="RUN",
        help="Take each layer's epsilon from a run, re-allocated by its shadow prices under the same total",
    )
    add_settings(command)

    command = add("export-lora", export_lora, "Write a HiP-LoRA adapter as an ordinary LoRA adapter")
    command.add_argument(
        "adapter", metavar="ADAPTER", help="A HiP-LoRA folder, a run, or one of the demo's adapters by name"
    )
    command.add_argument("out", metavar="OUT", type=Path, help="The folder to write")

    command = add("demo", demo_build, "Rebuild the demo world: train its base and adapters from seeds")
    command.add_argument(
        "action", choices=["build"], help="The action build: train everything (about 20 minutes on a laptop)"
    )
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="The folder to write (default: assets/demo of the app)"
    )
    command.add_argument("--seed", type=int, default=0, help="Seed of everything (default: 0)")

    command = add("app", app, "Open the app in the browser; further options go to streamlit")
    command.add_argument("--port", type=typed(PORT), help="Port to serve on (default: 8501)")

    add(
        "mcp",
        mcp,
        "Let an assistant list, describe, analyze and compare adapters: a read-only server of the Model Context "
        "Protocol on stdin and stdout",
    )

    command = add("cache", cache, "Show where spectra are cached and how much space they take")
    command.add_argument("--clear", action="store_true", help="Remove them")
    return parser
