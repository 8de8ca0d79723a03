"""The commands and their options."""

import argparse
from collections.abc import Callable
from pathlib import Path

from hiplora import __version__
from hiplora.cli.changing import convert, edit, export_lora, rebudget, repair
from hiplora.cli.measuring import ablate, analyze, cache, calibrate, inspect, ledger, svd
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


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; a command is its function in `run`."""
    parser = argparse.ArgumentParser("hiplora", description="Budgeted spectral plasticity for low-rank adapters.")
    parser.add_argument("--version", action="version", version=f"hiplora {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int | None], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.set_defaults(run=run)
        return command

    def add_base(command: argparse.ArgumentParser) -> None:
        command.add_argument("base", metavar="BASE", help=BASE_HELP)
        command.add_argument("--download", action="store_true", help="allow downloading a model by its hub name")
        command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute SVDs")

    def add_text(command: argparse.ArgumentParser, scored: bool = False) -> None:
        command.add_argument(
            "--text", metavar="FILE", help="text to observe the inputs on (default: the base's own, else English)"
        )
        command.add_argument(
            "--tokens",
            type=typed(COUNT),
            default=None if scored else DEFAULT_TOKENS,
            help=f"of each text, at most (default: {LOSS_TOKENS} of those that are scored, {DEFAULT_TOKENS} of --text)"
            if scored
            else "of the text, at most (default: %(default)s)",
        )

    def add_geometry(command: argparse.ArgumentParser, scored: bool = False) -> None:
        command.add_argument(
            "--geometry",
            choices=("weights", "inputs"),
            default="weights",
            help="what is measured: the update, or what it does on the inputs of a text (default: %(default)s)",
        )
        add_text(command, scored)

    def add_k(command: argparse.ArgumentParser, uses: str = "principal rank") -> None:
        default = HipLoraSettings.principal_rank
        command.add_argument("--k", type=typed(COUNT), default=default, help=f"{uses} (default: {default})")

    def add_budget(command: argparse.ArgumentParser, epsilon: str) -> None:
        command.add_argument("--epsilon", type=typed(POSITIVE), help=epsilon)
        command.add_argument(
            "--power",
            type=typed(NOT_NEGATIVE),
            default=HipLoraSettings.budget_power,
            help="p of the budget's weights (s_i/s_1)^p (default: %(default)g)",
        )

    def add_study(command: argparse.ArgumentParser, epsilon: str, k: str = "principal rank") -> None:
        add_base(command)
        command.add_argument(
            "adapters", metavar="ADAPTER", nargs="+", help="adapter folder, run, or one of the demo's adapters by name"
        )
        add_k(command, k)
        add_budget(command, epsilon)
        add_geometry(command)

    def add_table(command: argparse.ArgumentParser, table: str = "the table") -> None:
        command.add_argument("--out", type=Path, metavar="FILE", help=f"write {table}: .csv, .json or .parquet")

    command = add("analyze", analyze, "measure adapters against the spectrum of their base")
    add_study(command, f"budget for all adapters (default: each adapter's own, else {HipLoraSettings.epsilon:g})")
    add_table(command, "the layer table")
    command.add_argument(
        "--intruders",
        action="store_true",
        help="count intruder dimensions too, and the intruder scale (needs complete SVDs)",
    )

    command = add("ledger", ledger, "say what adapters, one put on top of another, spend of a budget that they share")
    add_study(command, f"the budget (default: the smallest own, else {HipLoraSettings.epsilon:g})")
    add_table(command)

    command = add(
        "inspect", inspect, "say what is read of an adapter: tensors, scaling, ranks, and whether it fits a base"
    )
    command.add_argument(
        "adapter", metavar="ADAPTER", help="an adapter, one file, a run, or the folder of a whole model"
    )
    command.add_argument("--base", metavar="BASE", help=BASE_HELP)
    command.add_argument("--download", action="store_true", help="allow downloading a model by its hub name")
    command.add_argument("--json", action="store_true", help="everything, as JSON")

    command = add(
        "convert",
        convert,
        "write a pickle of tensors (.bin, .pt) as safetensors, running no code of it; with --base, give a LoRA of "
        "kohya or ComfyUI the names that a model of diffusers has",
    )
    command.add_argument(
        "file", metavar="FILE", help="a file that torch.save wrote, or with --base a .safetensors file"
    )
    command.add_argument("out", metavar="OUT", nargs="?", help="file to write (default: beside it, .safetensors)")
    command.add_argument("--base", metavar="BASE", help="folder of a model of diffusers: unet/ or transformer/")

    def add_adapter(command: argparse.ArgumentParser, scored: bool = False) -> None:
        command.add_argument("adapter", metavar="ADAPTER", help="adapter folder, run, or one of the demo's by name")
        command.add_argument("--base", metavar="BASE", required=True, help=BASE_HELP)
        command.add_argument("--download", action="store_true", help="allow downloading a model by its hub name")
        add_k(command)
        add_geometry(command, scored)

    def add_edit(command: argparse.ArgumentParser, scored: bool = False) -> None:
        add_adapter(command, scored)
        command.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder to write")
        command.add_argument("--rank", type=typed(COUNT), help="cut each module back to this rank (default: exact)")

    command = add(
        "ablate",
        ablate,
        "score an adapter without each of its blocks and with each alone, beside the whole scaled to the same norm",
    )
    add_adapter(command, scored=True)
    add_scores(command)
    command.add_argument(
        "--by",
        choices=("block", "layer", "kind", "module"),
        default="block",
        help="remove blocks, or one part at a time beside what the indicators said of it (default: %(default)s)",
    )
    add_table(command)

    command = add("edit", edit, "change the four blocks of an adapter, and save it as an ordinary LoRA")
    add_edit(command)
    for block, meaning in GAIN_OPTIONS.items():
        command.add_argument(f"--{block}", type=float, default=1.0, help=f"gain of {meaning} (default: 1)")

    command = add(
        "repair",
        repair,
        "find the edit that keeps the task and most of the base, and save it as an ordinary LoRA",
    )
    add_edit(command, scored=True)
    add_scores(command)

    command = add(
        "merge",
        merge,
        "merge adapters of one base, and save the merge as an ordinary LoRA or as a whole model, with a report",
    )
    add_study(
        command, "joint budget of core (default: the smallest own)", "principal rank of core and of the conflicts"
    )
    command.add_argument("--how", choices=MERGE_WAYS, default="sum", help="the way to merge (default: %(default)s)")
    command.add_argument(
        "--weights", metavar="W", nargs="+", type=float, help="one for each adapter, which scales it (default: 1)"
    )
    command.add_argument("--density", type=typed(DENSITY), help="share of entries that a pruning way keeps")
    command.add_argument("--seed", type=typed(WHOLE), default=0, help="of a way that draws (default: 0)")
    command.add_argument("--rank", type=typed(COUNT), help="cut each module back to this rank (default: exact)")
    command.add_argument("--save-model", action="store_true", help="write the merged model in the place of a LoRA")
    command.add_argument("--out", metavar="DIR", type=Path, required=True, help="new folder to write")

    command = add(
        "verify", verify, "say whether a checkpoint is really a base with an adapter merged into it (exit code 0 or 1)"
    )
    command.add_argument("base", metavar="BASE", help=BASE_HELP)
    command.add_argument("adapter", metavar="ADAPTER", help="adapter folder, run, or one of the demo's by name")
    command.add_argument("merged", metavar="MERGED", help="folder of the checkpoint")
    command.add_argument("--download", action="store_true", help="allow downloading a model by its hub name")
    add_table(command, "one row per map")

    command = add("rebudget", rebudget, "scale an adapter's principal block down to a budget, and save it as a LoRA")
    add_edit(command)
    add_budget(command, f"the budget (default: the adapter's own, else {HipLoraSettings.epsilon:g})")

    command = add(
        "calibrate", calibrate, "observe what reaches each map of a base on a text, for the geometry of the inputs"
    )
    add_base(command)
    add_text(command)

    command = add("svd", svd, "fill the cache with the spectra of a base, so that later work starts at once")
    add_base(command)
    command.add_argument(
        "--k", type=typed(COUNT), default=64, help="leading singular directions of each weight (default: %(default)s)"
    )
    command.add_argument("--full", action="store_true", help="all singular directions")

    command = add("train", train, "train an adapter, as a run that can be stopped, resumed, analyzed and compared")
    command.add_argument("--base", metavar="BASE", help=f"{BASE_HELP} (default: demo)")
    what = command.add_mutually_exclusive_group()
    what.add_argument("--task", help="a task of the demo world (default: swap)")
    what.add_argument("--data", metavar="FILE", help="a text file, or JSONL with text, prompt/completion or messages")
    what.add_argument("--resume", metavar="RUN", help="resume a run from its last checkpoint; takes no other options")
    command.add_argument("--out", metavar="RUN", help="folder of the run (default: a new one among the app's runs)")
    command.add_argument(
        "--on-top",
        metavar="ADAPTER",
        nargs="+",
        help="add these adapters to the base first; HiP-LoRA gets what they leave of each layer's budget",
    )
    command.add_argument(
        "--reallocate",
        metavar="RUN",
        help="take each layer's epsilon from a run, re-allocated by its shadow prices under the same total",
    )
    add_settings(command)

    command = add("export-lora", export_lora, "write a HiP-LoRA adapter as an ordinary LoRA adapter")
    command.add_argument("adapter", metavar="ADAPTER", help="HiP-LoRA folder, run, or one of the demo's by name")
    command.add_argument("out", metavar="OUT", type=Path, help="folder to write")

    command = add("demo", demo_build, "rebuild the demo world: train its base and adapters from seeds")
    command.add_argument("action", choices=["build"], help="build: train everything (about 20 minutes on a laptop)")
    command.add_argument("--out", type=Path, metavar="DIR", help="folder to write (default: assets/demo of the app)")
    command.add_argument("--seed", type=int, default=0, help="seed of everything (default: 0)")

    command = add("app", app, "open the app in the browser; further options go to streamlit")
    command.add_argument("--port", type=typed(PORT), help="port to serve on (default: 8501)")

    command = add("cache", cache, "show where spectra are cached and how much space they take")
    command.add_argument("--clear", action="store_true", help="remove them")
    return parser
