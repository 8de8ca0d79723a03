"""The command line: one function for each command of `hiplora`, see `hiplora --help`.

Numpy and heavier packages are imported by the commands that need them, so that `--help` is quick.
"""

import argparse
import dataclasses
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiplora import __version__
from hiplora.errors import HiploraError
from hiplora.printable import for_spreadsheet, printable
from hiplora.settings import COUNT, DEFAULT_TOKENS, NOT_NEGATIVE, POSITIVE, HipLoraSettings, Rule

if TYPE_CHECKING:
    import pandas as pd

    from hiplora.adapters import EditedUpdate
    from hiplora.geometry import Calibration
    from hiplora.sources import Weight
    from hiplora.spectrum.prepare import BaseSpectra, Progress
    from hiplora.study import Study
    from hiplora.training.events import Event

_BASE_HELP = (
    "a transformers folder, a known name (demo, SmolLM2-135M-Instruct, all-MiniLM-L6-v2) or a hub name (owner/model)"
)
_BLOCKS = {
    "pp": "the principal block",
    "pr": "principal outputs from residual inputs",
    "rp": "residual outputs from principal inputs",
    "rr": "the rest",
}
_INTERRUPTED = 130
_PORT = Rule("a port from 1 to 65535", (int,), lambda value: 1 <= value <= 65535)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        Exit code: 0; 2 if none of the input can be used (one sentence on stderr); 130 if stopped on request.
    """
    parser = _parser()
    args, extra = parser.parse_known_args(argv)
    if extra and args.run is not _app:
        parser.error(f"unrecognized arguments: {' '.join(extra)}")
    args.extra = extra
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return int(args.run(args) or 0)
        except KeyboardInterrupt:
            _say("hiplora: stopped.")
            return _INTERRUPTED
        except BrokenPipeError:
            # The reader, such as `head`, has closed the pipe: Python must not write to it at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except (HiploraError, OSError) as error:
            _say(f"hiplora: {error}")
            return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("hiplora", description="Budgeted spectral plasticity for low-rank adapters.")
    parser.add_argument("--version", action="version", version=f"hiplora {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int | None], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.set_defaults(run=run)
        return command

    def add_base(command: argparse.ArgumentParser) -> None:
        command.add_argument("base", metavar="BASE", help=_BASE_HELP)
        command.add_argument("--download", action="store_true", help="allow downloading a model by its hub name")
        command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute SVDs")

    def add_text(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--text", metavar="FILE", help="text to observe the inputs on (default: the base's own, else English)"
        )
        command.add_argument(
            "--tokens", type=_typed(COUNT), default=DEFAULT_TOKENS, help="of the text, at most (default: %(default)s)"
        )

    def add_geometry(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--geometry",
            choices=("weights", "inputs"),
            default="weights",
            help="what is measured: the update, or what it does on the inputs of a text (default: %(default)s)",
        )
        add_text(command)

    command = add("analyze", _analyze, "measure adapters against the spectrum of their base")
    add_base(command)
    command.add_argument(
        "adapters", metavar="ADAPTER", nargs="+", help="adapter folder, run, or one of the demo's adapters by name"
    )
    command.add_argument(
        "--k", type=_typed(COUNT), default=HipLoraSettings.principal_rank, help="principal rank (default: %(default)s)"
    )
    command.add_argument(
        "--epsilon",
        type=_typed(POSITIVE),
        help=f"budget for all adapters (default: each adapter's own, else {HipLoraSettings.epsilon:g})",
    )
    command.add_argument(
        "--power",
        type=_typed(NOT_NEGATIVE),
        default=HipLoraSettings.budget_power,
        help="p of the budget's weights (s_i/s_1)^p (default: %(default)g)",
    )
    command.add_argument("--out", type=Path, metavar="FILE", help="write the layer table: .csv, .json or .parquet")
    command.add_argument("--intruders", action="store_true", help="count intruder dimensions too (needs complete SVDs)")
    add_geometry(command)

    command = add(
        "inspect", _inspect, "say what is read of an adapter: tensors, scaling, ranks, and whether it fits a base"
    )
    command.add_argument(
        "adapter", metavar="ADAPTER", help="an adapter, one file, a run, or the folder of a whole model"
    )
    command.add_argument("--base", metavar="BASE", help=_BASE_HELP)
    command.add_argument("--download", action="store_true", help="allow downloading a model by its hub name")
    command.add_argument("--json", action="store_true", help="everything, as JSON")

    command = add(
        "convert",
        _convert,
        "write a pickle of tensors (.bin, .pt) as safetensors, running no code of it; with --base, give a LoRA of "
        "kohya or ComfyUI the names that a model of diffusers has",
    )
    command.add_argument(
        "file", metavar="FILE", help="a file that torch.save wrote, or with --base a .safetensors file"
    )
    command.add_argument("out", metavar="OUT", nargs="?", help="file to write (default: beside it, .safetensors)")
    command.add_argument("--base", metavar="BASE", help="folder of a model of diffusers: unet/ or transformer/")

    def add_edit(command: argparse.ArgumentParser) -> None:
        command.add_argument("adapter", metavar="ADAPTER", help="adapter folder, run, or one of the demo's by name")
        command.add_argument("--base", metavar="BASE", required=True, help=_BASE_HELP)
        command.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder to write")
        command.add_argument("--download", action="store_true", help="allow downloading a model by its hub name")
        command.add_argument(
            "--k",
            type=_typed(COUNT),
            default=HipLoraSettings.principal_rank,
            help="principal rank (default: %(default)s)",
        )
        command.add_argument("--rank", type=_typed(COUNT), help="cut each module back to this rank (default: exact)")
        add_geometry(command)

    command = add("edit", _edit, "change the four blocks of an adapter, and save it as an ordinary LoRA")
    add_edit(command)
    for block, meaning in _BLOCKS.items():
        command.add_argument(f"--{block}", type=float, default=1.0, help=f"gain of {meaning} (default: 1)")

    command = add(
        "repair",
        _repair,
        "find the edit that keeps the task and most of the base, on the demo world, and save it as an ordinary LoRA",
    )
    add_edit(command)
    command.add_argument(
        "--size", type=_typed(COUNT), default=200, help="examples per skill; half of them choose (default: %(default)s)"
    )

    command = add("rebudget", _rebudget, "scale an adapter's principal block down to a budget, and save it as a LoRA")
    add_edit(command)
    command.add_argument("--epsilon", type=_typed(POSITIVE), help="the budget (default: the adapter's own, else 0.05)")
    command.add_argument(
        "--power",
        type=_typed(NOT_NEGATIVE),
        default=HipLoraSettings.budget_power,
        help="p of the budget's weights (default: %(default)g)",
    )

    command = add(
        "calibrate", _calibrate, "observe what reaches each map of a base on a text, for the geometry of the inputs"
    )
    add_base(command)
    add_text(command)

    command = add("svd", _svd, "fill the cache with the spectra of a base, so that later work starts at once")
    add_base(command)
    command.add_argument(
        "--k", type=_typed(COUNT), default=64, help="leading singular directions of each weight (default: %(default)s)"
    )
    command.add_argument("--full", action="store_true", help="all singular directions")

    command = add("train", _train, "train an adapter, as a run that can be stopped, resumed, analyzed and compared")
    command.add_argument("--base", metavar="BASE", help=f"{_BASE_HELP} (default: demo)")
    what = command.add_mutually_exclusive_group()
    what.add_argument("--task", help="a task of the demo world (default: swap)")
    what.add_argument("--data", metavar="FILE", help="a text file, or JSONL with text, prompt/completion or messages")
    what.add_argument("--resume", metavar="RUN", help="resume a run from its last checkpoint; takes no other options")
    command.add_argument("--out", metavar="RUN", help="folder of the run (default: a new one among the app's runs)")
    command.add_argument(
        "--reallocate",
        metavar="RUN",
        help="take each layer's epsilon from a run, re-allocated by its shadow prices under the same total",
    )
    _add_settings(command)

    command = add("export-lora", _export_lora, "write a HiP-LoRA adapter as an ordinary LoRA adapter")
    command.add_argument("adapter", metavar="ADAPTER", help="HiP-LoRA folder, run, or one of the demo's by name")
    command.add_argument("out", metavar="OUT", type=Path, help="folder to write")

    command = add("demo", _demo_build, "rebuild the demo world: train its base and adapters from seeds")
    command.add_argument("action", choices=["build"], help="build: train everything (about 20 minutes on a laptop)")
    command.add_argument("--out", type=Path, metavar="DIR", help="folder to write (default: assets/demo of the app)")
    command.add_argument("--seed", type=int, default=0, help="seed of everything (default: 0)")

    command = add("app", _app, "open the app in the browser; further options go to streamlit")
    command.add_argument("--port", type=_typed(_PORT), help="port to serve on (default: 8501)")

    command = add("cache", _cache, "show where spectra are cached and how much space they take")
    command.add_argument("--clear", action="store_true", help="remove them")
    return parser


def _typed(rule: Rule) -> Callable[[str], Any]:
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


_SHORT_OPTIONS = {"principal_rank": "--k", "budget_power": "--power", "budget_lambda": "--lambda"}


def _run_settings() -> "list[dataclasses.Field[Any]]":
    """Return the fields of `RunConfig` that have their own option."""
    from hiplora.training.config import RunConfig

    return [
        each for each in dataclasses.fields(RunConfig) if each.name not in ("base", "task", "data", "epsilon_pattern")
    ]


def _add_settings(command: argparse.ArgumentParser) -> None:
    """Add one option for each setting of a run, with its own default, check and help."""
    from hiplora.training.config import default_words
    from hiplora.training.methods import METHODS

    for each in _run_settings():
        rule, text = each.metadata["rule"], each.metadata["help"].rstrip(".")
        if each.name == "method":
            text = ", ".join(METHODS)
        if words := default_words(each.name):
            text += f" (default: {words})"
        command.add_argument(
            _SHORT_OPTIONS.get(each.name, f"--{each.name.replace('_', '-')}"),
            dest=each.name,
            type=str if rule.choices else _typed(rule),
            choices=rule.choices or None,
            default=argparse.SUPPRESS,
            help=(text[0].lower() + text[1:]).replace("%", "%%"),
        )


def _analyze(args: argparse.Namespace) -> int:
    save = _table_writer(args.out)
    from hiplora.study import open_study

    study = open_study(
        args.base,
        args.adapters,
        args.k,
        epsilon=args.epsilon,
        power=args.power,
        **_geometry(args),
        download=args.download,
        device=args.device,
        strict=False,
    )
    for refusal in study.refusals:
        _say(f"hiplora: {refusal}")
    if not study.updates:
        return 2
    optional, weights = ["intruders"] if args.intruders else [], study.weights
    if study.calibration is not None:
        _observe(study.calibration)
        weights = [weight for weight in weights if weight.module in study.calibration]
    computed, spectra_seconds = _prepare(study.spectra, weights, None if optional else study.k)
    start = time.monotonic()
    left = study.measurable(optional=optional)
    for problem in left.problems[len(study.problems) :]:
        _say(f"hiplora: {problem}")
    if not left.updates:
        return 2
    layers = left.layers(optional=optional)
    seconds = time.monotonic() - start
    _print(*left.findings(optional=optional))
    if save:
        save(layers)
        _print(f"{len(layers)} rows in {args.out}")
    _say(
        f"{len(weights)} maps, spectra {spectra_seconds:.1f} s ({len(weights) - computed} from cache), "
        f"measures {seconds:.1f} s{_peak_memory()}"
    )
    return 0


def _geometry(args: argparse.Namespace) -> dict[str, Any]:
    """Return the choices of `open_study` that belong to the geometry."""
    return {"geometry": args.geometry, "text": args.text, "tokens": args.tokens}


def _calibrate(args: argparse.Namespace) -> None:
    from hiplora.geometry import Calibration, read_text
    from hiplora.sources import open_base
    from hiplora.spectrum import BaseSpectra

    spectra = BaseSpectra(open_base(args.base, download=args.download), device=args.device)
    calibration = Calibration(spectra, None if args.text is None else read_text(args.text), args.tokens)
    start, known = time.monotonic(), calibration.ready
    _observe(calibration)
    for note in calibration.notes:
        _say(f"hiplora: {note}")
    maps, inputs = (len(calibration.index[part]) for part in ("maps", "inputs"))
    size = sum(file.stat().st_size for file in calibration.folder.iterdir())
    _print(
        f"{maps} maps of {spectra.base.name} with {inputs} inputs on {calibration.name}: "
        f"{'found' if known else 'kept'} in {calibration.folder} ({_bytes(size)})"
    )
    _say(f"inputs {time.monotonic() - start:.1f} s{_peak_memory()}")


def _observe(calibration: "Calibration") -> None:
    """Observe the inputs under a progress bar, if that is still to be done.

    Raises:
        SystemExit: stopped on request, after printing what is kept.
    """
    with _asked_to_stop("this map") as asked:
        done = _show_progress("inputs", calibration.run(asked))
    if asked() and not calibration.ready:
        _say_once(
            f"hiplora: stopped; the inputs of {done} maps are done and kept in {calibration.folder}: run the same "
            "command again to continue."
        )
        raise SystemExit(_INTERRUPTED)


def _show_progress(what: str, work: "Iterable[Progress]") -> int:
    """Show a progress bar of work on maps, and return how many were done."""
    from tqdm import tqdm

    done, shown = 0, what + " {percentage:3.0f}%|{bar:30}| {desc}"
    with tqdm(total=1.0, bar_format=shown, disable=_rank_of_process() > 0 or None) as bar:
        for progress in work:
            done = progress.done
            left = "" if progress.remaining is None else f", {_duration(progress.remaining)} left"
            bar.set_description_str(f"{done} of {progress.total} maps{left}", refresh=False)
            bar.update(progress.share - bar.n)
    return done


def _table_writer(path: Path | None) -> "Callable[[pd.DataFrame], None] | None":
    """Return a function that writes a table to `path`, in the format of its suffix.

    Raises:
        HiploraError: the suffix is unknown, or `path` is a folder.
    """
    if path is None:
        return None
    writers: dict[str, Callable[[pd.DataFrame, Path], object]] = {
        ".csv": lambda table, draft: for_spreadsheet(table).to_csv(draft, index=False),
        ".json": lambda table, draft: table.to_json(draft, orient="records", indent=2),
        ".parquet": lambda table, draft: table.to_parquet(draft, index=False),
    }
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise HiploraError(f"{path} has an unknown suffix: use one of {', '.join(writers)}.")
    if path.is_dir():
        raise HiploraError(f"{path} is a folder: name a file in it.")

    def save(table: "pd.DataFrame") -> None:
        from hiplora.files import atomic_path

        with atomic_path(path) as draft:
            writer(table, draft)

    return save


def _svd(args: argparse.Namespace) -> None:
    from hiplora.sources import open_base
    from hiplora.spectrum.prepare import BaseSpectra

    base = open_base(args.base, download=args.download)
    weights = [base.weights[module] for module in base.linear_maps]
    spectra = BaseSpectra(base, device=args.device)
    computed, seconds = _prepare(spectra, weights, None if args.full else args.k)
    if _rank_of_process():
        return
    _print(
        f"{len(weights)} maps of {base.name}: {len(weights) - computed} from cache, {computed} computed; "
        f"{spectra.cache.folder} takes {_bytes(spectra.cache.size())}"
    )
    _say(f"spectra {seconds:.1f} s{_peak_memory()}")


def _prepare(spectra: "BaseSpectra", weights: "Sequence[Weight]", k: int | None) -> tuple[int, float]:
    """Compute missing spectra under a progress bar; return their number and the seconds.

    Raises:
        SystemExit: stopped on request, after printing what is kept.
    """
    start = time.monotonic()
    with _asked_to_stop("this map") as asked:
        done = _show_progress("spectra", spectra.prepare(weights, k, asked))
    if asked():
        kept = len(weights) - len(spectra.missing(weights, k))
        _say_once(
            f"hiplora: stopped; {kept} of {len(weights)} spectra are done and kept in {spectra.cache.folder}: run the "
            "same command again to continue."
        )
        raise SystemExit(_INTERRUPTED)
    return done, time.monotonic() - start


@contextmanager
def _asked_to_stop(after: str) -> Iterator[Callable[[], bool]]:
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
        _say_once(f"hiplora: stopping after {after}; once more to stop at once.")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _train(args: argparse.Namespace) -> int | None:
    from hiplora.sources import open_base
    from hiplora.training import Run, RunConfig
    from hiplora.training.events import Step, in_words
    from hiplora.training.train import check, train

    chosen = {each.name: getattr(args, each.name) for each in _run_settings() if hasattr(args, each.name)}
    if args.resume:
        if chosen or args.out or args.base or args.reallocate:
            raise HiploraError("--resume continues a run with its own settings: leave out the other options.")
        run = Run(args.resume)
        if run.status.state == "finished":
            _print(f"{run.path} is finished: there is nothing to resume")
            return None
    else:
        if args.reallocate:
            from hiplora.training.prices import reallocated

            chosen["epsilon_pattern"] = reallocated(Run(args.reallocate))
        task = args.task or (None if args.data else "swap")
        config = RunConfig(base=args.base or "demo", task=task, data=args.data, **chosen)
        # Before a folder is created: settings that do not fit leave none behind.
        check(open_base(config.base), config)
        run = Run.create(args.out, config) if args.out else Run.create_in(None, config)
    # Warnings of PEFT and transformers meant for their developers.
    warnings.simplefilter("ignore", FutureWarning)
    with _asked_to_stop("this step, with a checkpoint") as asked, _shown(run.config.steps) as report:
        train(run, asked, report)
    status = run.status
    if status.state == "stopped":
        _say(f"hiplora: {status.message} `hiplora train --resume {run.path}` continues it.")
        return _INTERRUPTED
    card = run.card
    _print(
        f"{run.path}: {in_words(card)}; relative norm {card.relative_norm:.2g}; "
        f"{card.trainable_parameters:,} trained parameters"
    )
    last = next(event for event in reversed(run.events()) if isinstance(event, Step))
    _say(
        f"{last.step} steps in {_duration(last.seconds)} on {status.device}, "
        f"{last.tokens / last.seconds:,.0f} tokens per second{_peak_memory()}"
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


def _rank_of_process() -> int:
    """Return the rank of this process under `torchrun`, 0 without it. Only the first one prints."""
    return int(os.environ.get("RANK", "0"))


def _inspect(args: argparse.Namespace) -> int:
    import json

    from hiplora.adapters import read_adapter
    from hiplora.measures import inspect
    from hiplora.sources import open_base

    base = open_base(args.base, download=args.download) if args.base else None
    inspection = inspect(read_adapter(args.adapter), base)
    if args.json:
        print(json.dumps(inspection.to_dict(), indent=1))
    else:
        _print(*inspection.lines)
    return 2 if inspection.problem else 0


def _edit(args: argparse.Namespace) -> None:
    from hiplora.study import open_study

    study = open_study(args.base, [args.adapter], args.k, **_geometry(args), download=args.download)
    [name] = study.names
    _save_edited(study.edit(name, **{block: getattr(args, block) for block in _BLOCKS}), study, args)


def _rebudget(args: argparse.Namespace) -> None:
    from hiplora.study import open_study

    study = open_study(args.base, [args.adapter], args.k, power=args.power, **_geometry(args), download=args.download)
    [name] = study.names
    _save_edited(study.rebudget(name, args.epsilon), study, args)


def _repair(args: argparse.Namespace) -> int | None:
    from tqdm import tqdm

    from hiplora.adapters import Gains
    from hiplora.demo.repair import BLOCKS, count
    from hiplora.study import REPAIR_BUDGETS, open_study

    study = open_study(args.base, [args.adapter], args.k, **_geometry(args), download=args.download)
    [name] = study.names
    with tqdm(total=count(study.placements[0], len(REPAIR_BUDGETS)), desc="edits", disable=None) as bar:
        for table in study.search_repair(name, args.size):
            bar.update(len(table) - bar.n)
    chosen = table[table["chosen"]]
    for _, row in chosen.iterrows():
        task = f"task {row['task_score']:.3f}, " if row["task_score"] >= 0 else ""
        beside = "" if row["gain"] != row["gain"] else f" ({100 * row['gain']:+.1f} points beside scaled)"
        _print(f"{row['way']}, {row['edit']}: {task}base skills kept {row['retention']:.3f}{beside}")
    best = chosen[chosen["way"] == BLOCKS]
    if best.empty:
        _say(f"hiplora: no edit by block keeps the task of {name} on the examples that choose: nothing is written.")
        return 2
    gains = Gains(**{block: float(best[block].iloc[0]) for block in _BLOCKS})
    _save_edited(study.edit(name, gains), study, args)
    return None


def _save_edited(update: "EditedUpdate", study: "Study", args: argparse.Namespace) -> None:
    """Write an edited update, and say what became of its size."""
    from tqdm import tqdm

    from hiplora.adapters import place, save_lora

    placement = place(study.base, update)
    with tqdm(total=len(placement.weights), desc="modules", disable=None) as bar:
        table = save_lora(placement, args.out, args.rank, lambda done, _: bar.update(done - bar.n))
    before, after = (sum(delta.energy for _, delta in each) for each in (update.placement, placement))
    size = f"norm {(after / before) ** 0.5:.3g} of what it was" if before else "norm 0, as before"
    ranks = sorted(table["rank"])
    rank = f"{ranks[0]}" if ranks[0] == ranks[-1] else f"{ranks[0]} to {ranks[-1]}"
    cut = (
        f"; cutting the rank loses up to {table['error'].max():.2g} of a module's norm" if table["error"].any() else ""
    )
    for caveat in update.caveats:
        _say(f"hiplora: {caveat}")
    _print(f"{args.out} holds {update.name} at k = {study.k} as a LoRA of rank {rank}: {size}{cut}")


def _convert(args: argparse.Namespace) -> None:
    from hiplora.convert import convert, rename
    from hiplora.sources import open_base

    written = rename(args.file, open_base(args.base), args.out) if args.base else convert(args.file, args.out)
    _print(f"{written} holds the tensors of {args.file}")


def _export_lora(args: argparse.Namespace) -> None:
    from hiplora.adapters.locate import locate
    from hiplora.tuner.export import export_lora

    export_lora(locate(args.adapter)[0], args.out)
    _print(f"{args.out} holds the same update as an ordinary LoRA adapter")


def _demo_build(args: argparse.Namespace) -> None:
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
    _print(f"{out} holds the demo world")


def _app(args: argparse.Namespace) -> None:
    from hiplora.paths import cache_root, site_root

    command = [sys.executable, "-m", "streamlit", "run", "app.py"]
    if args.port is not None:
        command += ["--server.port", str(args.port)]
    # The app runs from its own folder, where streamlit looks for its settings: a relative path would change meaning.
    environment = os.environ | {"HIPLORA_CACHE": str(cache_root().absolute())}
    os.chdir(site_root())
    # Replace this process, so that stopping it stops the server.
    os.execve(sys.executable, [*command, *args.extra], environment)


def _cache(args: argparse.Namespace) -> None:
    from hiplora.spectrum import default_cache

    cache = default_cache()
    size = cache.size()
    if args.clear:
        cache.clear()
        _print(f"{cache.folder}: {_bytes(size)} of spectra and inputs removed")
    else:
        _print(f"{cache.folder}: {_bytes(size)} of spectra and inputs; spectra may take {_bytes(cache.limit)}")


def _peak_memory() -> str:
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
    return f", peak memory {_bytes(peak)}"


def _bytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _say(f"hiplora: {message}")


def _say_once(text: str) -> None:
    """Print one line on stderr, from the first of several processes only."""
    if not _rank_of_process():
        _say(text)


def _say(text: str) -> None:
    """Print one line on stderr."""
    print(printable(" ".join(text.split())), file=sys.stderr)


def _print(*lines: str) -> None:
    """Print lines on stdout."""
    print("\n".join(map(printable, lines)))
