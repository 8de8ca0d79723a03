"""Commands that look: analyze, report, ledger, ablate, inspect, calibrate, svd, cache."""

import argparse
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiplora.cli.console import (
    INTERRUPTED,
    asked_to_stop,
    peak_memory,
    rank_of_process,
    say,
    say_once,
    say_result,
    show_progress,
    size_of,
)
from hiplora.cli.options import opened, scores
from hiplora.cli.tables import lines_of
from hiplora.errors import HiploraError
from hiplora.printable import for_spreadsheet

if TYPE_CHECKING:
    import pandas as pd

    from hiplora.geometry import Calibration
    from hiplora.sources import Weight
    from hiplora.spectrum.prepare import BaseSpectra
    from hiplora.study import Study


def analyze(args: argparse.Namespace) -> int:
    """`hiplora analyze`: measure adapters on their base."""
    save = table_writer(args.out)
    optional = ["intruders", "intruder_scale"] if args.intruders else []
    found = _measured(args, optional)
    if found is None:
        return 2
    study, cost = found
    say_result(*_lines_on(study, optional, args.worst))
    if save:
        layers = study.layers(optional=optional)
        save(layers)
        say_result(f"{len(layers)} rows in {args.out}")
    say(f"{cost}{peak_memory()}")
    return 0


def report(args: argparse.Namespace) -> int:
    """`hiplora report`: write a study as one HTML page."""
    if args.out.is_dir():
        raise HiploraError(f"{args.out} is a folder: name a file in it.")
    found = _measured(args, [])
    if found is None:
        return 2
    study, cost = found
    size = len(study.to_html(args.out).encode())
    say_result(f"{args.out} holds the report on {', '.join(study.names)} ({size / 1e6:.1f} MB): open it in a browser")
    say(f"{cost}{peak_memory()}")
    return 0


def _measured(args: argparse.Namespace, optional: Sequence[str]) -> "tuple[Study, str] | None":
    """Return the study of a command without its unusable adapters, measured, and what that took; None without any."""
    study = opened(args, strict=False)
    for refusal in study.refusals:
        say(f"hiplora: {refusal}")
    if not study.updates:
        return None
    computed, total, spectra_seconds = spectra_of(study, None if optional else study.k)
    start = time.monotonic()
    left = study.measurable(optional=optional)
    for problem in left.problems[len(study.problems) :]:
        say(f"hiplora: {problem}")
    if not left.updates:
        return None
    left.layers(optional=optional)
    seconds = time.monotonic() - start
    cached = f"{total} maps, spectra {spectra_seconds:.1f} s ({total - computed} from cache)"
    return left, f"{cached}, measures {seconds:.1f} s"


def _lines_on(study: "Study", optional: Sequence[str], worst: int) -> list[str]:
    """Return the tables of a study, with what they say of each adapter and its caveats below them."""
    from hiplora.measures import summary_words, worst_words

    lines = lines_of(summary_words(study.summary(optional=optional), study.geometry))
    lines += ["", "95 % of random: where 95 % of random updates of the same size and rank lie, as times chance."]
    for name, judged in study.judgements().items():
        lines += ["", f"{name}: {judged.verdict} {judged.advice}", *(f"  {each}" for each in study.caveats[name])]
    modules = worst_words(study.layers(optional=optional), worst, study.geometry)
    if len(modules):
        lines += ["", "Highest tightness (1 = budget spent):", "", *lines_of(modules)]
    return lines


def ledger(args: argparse.Namespace) -> int:
    """`hiplora ledger`: what adapters spend of a shared budget, one on top of another."""
    save = table_writer(args.out)
    from hiplora.measures import ledger_summary

    study = opened(args)
    spectra_of(study, study.k)
    table = study.ledger()
    for row in ledger_summary(table).to_dict("records"):
        top = "" if row["position"] == 1 else "on top: "
        spent, together, left = (f"{row[column]:.0%}" for column in ("spent", "together", "least_left"))
        say_result(
            f"{top}{row['adapter']}: spends {spent} of the budget, together {together} (medians of {row['modules']} "
            f"maps); {row['over']} over it; least is left in {row['module']}, {left}"
        )
    if save:
        save(table)
        say_result(f"{len(table)} rows in {args.out}")
    return 0


def ablate(args: argparse.Namespace) -> int:
    """`hiplora ablate`: score an adapter without its parts."""
    save = table_writer(args.out)
    from tqdm import tqdm

    from hiplora.effects import edits, indicator_table, removals

    how = scores(args)
    study = opened(args)
    [name] = study.names
    blocks = args.by == "block"
    spectra_of(study, study.k)
    total = len(edits() if blocks else removals(study.layers(), args.by))
    table = None
    with asked_to_stop("this edit") as asked, tqdm(total=total, desc="edits", disable=None) as bar:
        for table in study.ablate(name, how) if blocks else study.ablate_parts(name, args.by, how):
            bar.update(len(table) - bar.n)
            if asked():
                break
    assert table is not None
    say_result(*map(_ablation_line, table.to_dict("records")))
    if not blocks and len(table) == total:
        for row in indicator_table(table).to_dict("records"):
            say_result(
                f"{row['indicator']}: rank correlation {row['rank_correlation']:.2f} with what the removal gives back "
                f"({row['low']:.2f} to {row['high']:.2f}, {row['parts']} parts)"
            )
    if "caveat" in table and table["caveat"].iloc[0]:
        say(f"hiplora: {table['caveat'].iloc[0]}")
    if save:
        save(table)
        say_result(f"{len(table)} rows in {args.out}")
    if len(table) < total:
        say(f"hiplora: stopped after {len(table)} of {total} edits.")
        return INTERRUPTED
    return 0


def spectra_of(study: "Study", k: int | None) -> tuple[int, int, float]:
    """Observe the inputs and compute the spectra that a study needs; return how many, of how many, and the seconds."""
    weights = study.weights
    if study.calibration is not None:
        _observe(study.calibration)
        weights = [weight for weight in weights if weight.module in study.calibration]
    computed, seconds = _prepare(study.spectra, weights, k)
    return computed, len(weights), seconds


def _ablation_line(row: dict[Hashable, Any]) -> str:
    """Return one edit in words; what it saves or keeps beside its control has its 95 % interval in brackets."""
    if "kept_loss" in row:
        found = f"loss on the task {row['task_loss']:.4f}, on what is kept {row['kept_loss']:.4f} nats per token"
        beside = f"saves {row['gain']:+.4f} beside its control ({row['gain_low']:+.4f} to {row['gain_high']:+.4f})"
    else:
        task = f"task {row['task_score']:.3f}, " if row["task_score"] >= 0 else ""
        found = f"{task}base skills kept {row['retention']:.3f}"
        beside = f"{100 * row['gain']:+.1f} points beside its control"
        beside += f" ({100 * row['gain_low']:+.1f} to {100 * row['gain_high']:+.1f})"
    return f"{row['edit']}, norm x {row['norm']:.2f}: {found}; {beside}"


def inspect(args: argparse.Namespace) -> int:
    """`hiplora inspect`: say what is read of an adapter."""
    import json

    from hiplora.adapters import read_adapter
    from hiplora.measures import inspect
    from hiplora.sources import open_base

    base = open_base(args.base, download=args.download) if args.base else None
    inspection = inspect(read_adapter(args.adapter), base)
    if args.json:
        print(json.dumps(inspection.to_dict(), indent=1))
    else:
        say_result(*inspection.lines)
    return 2 if inspection.problem else 0


def table_writer(path: Path | None) -> "Callable[[pd.DataFrame], None] | None":
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


def calibrate(args: argparse.Namespace) -> None:
    """`hiplora calibrate`: observe the inputs of a base."""
    from hiplora.geometry import Calibration, read_text
    from hiplora.sources import open_base
    from hiplora.spectrum import BaseSpectra

    spectra = BaseSpectra(open_base(args.base, download=args.download), device=args.device)
    calibration = Calibration(spectra, None if args.text is None else read_text(args.text), args.tokens)
    start, known = time.monotonic(), calibration.ready
    _observe(calibration)
    for note in calibration.notes:
        say(f"hiplora: {note}")
    maps, inputs = (len(calibration.index[part]) for part in ("maps", "inputs"))
    size = sum(file.stat().st_size for file in calibration.folder.iterdir())
    say_result(
        f"{maps} maps of {spectra.base.name} with {inputs} inputs on {calibration.name}: "
        f"{'found' if known else 'kept'} in {calibration.folder} ({size_of(size)})"
    )
    say(f"inputs {time.monotonic() - start:.1f} s{peak_memory()}")


def _observe(calibration: "Calibration") -> None:
    """Observe the inputs under a progress bar, if that is still to be done.

    Raises:
        SystemExit: stopped on request, after printing what is kept.
    """
    with asked_to_stop("this map") as asked:
        done = show_progress("inputs", calibration.run(asked))
    if asked() and not calibration.ready:
        say_once(
            f"hiplora: stopped; the inputs of {done} maps are done and kept in {calibration.folder}: run the same "
            "command again to continue."
        )
        raise SystemExit(INTERRUPTED)


def svd(args: argparse.Namespace) -> None:
    """`hiplora svd`: fill the cache with spectra."""
    from hiplora.sources import open_base
    from hiplora.spectrum.prepare import BaseSpectra

    base = open_base(args.base, download=args.download)
    weights = [base.weights[module] for module in base.linear_maps]
    spectra = BaseSpectra(base, device=args.device)
    computed, seconds = _prepare(spectra, weights, None if args.full else args.k)
    if rank_of_process():
        return
    say_result(
        f"{len(weights)} maps of {base.name}: {len(weights) - computed} from cache, {computed} computed; "
        f"{spectra.cache.folder} takes {size_of(spectra.cache.size())}"
    )
    say(f"spectra {seconds:.1f} s{peak_memory()}")


def _prepare(spectra: "BaseSpectra", weights: "Sequence[Weight]", k: int | None) -> tuple[int, float]:
    """Compute missing spectra under a progress bar; return their number and the seconds.

    Raises:
        SystemExit: stopped on request, after printing what is kept.
    """
    start = time.monotonic()
    with asked_to_stop("this map") as asked:
        done = show_progress("spectra", spectra.prepare(weights, k, asked))
    if asked():
        kept = len(weights) - len(spectra.missing(weights, k))
        say_once(
            f"hiplora: stopped; {kept} of {len(weights)} spectra are done and kept in {spectra.cache.folder}: run the "
            "same command again to continue."
        )
        raise SystemExit(INTERRUPTED)
    return done, time.monotonic() - start


def cache(args: argparse.Namespace) -> None:
    """`hiplora cache`: show or clear the cache."""
    from hiplora.spectrum import default_cache

    cache = default_cache()
    size = cache.size()
    if args.clear:
        cache.clear()
        say_result(f"{cache.folder}: {size_of(size)} of spectra and inputs removed")
    else:
        say_result(f"{cache.folder}: {size_of(size)} of spectra and inputs; spectra may take {size_of(cache.limit)}")
