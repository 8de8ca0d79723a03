"""Commands that look: analyze, inspect, calibrate, svd, cache."""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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
from hiplora.cli.options import geometry
from hiplora.errors import HiploraError
from hiplora.printable import for_spreadsheet

if TYPE_CHECKING:
    import pandas as pd

    from hiplora.geometry import Calibration
    from hiplora.sources import Weight
    from hiplora.spectrum.prepare import BaseSpectra


def analyze(args: argparse.Namespace) -> int:
    """`hiplora analyze`: measure adapters on their base."""
    save = _table_writer(args.out)
    from hiplora.study import open_study

    study = open_study(
        args.base,
        args.adapters,
        args.k,
        epsilon=args.epsilon,
        power=args.power,
        **geometry(args),
        download=args.download,
        device=args.device,
        strict=False,
    )
    for refusal in study.refusals:
        say(f"hiplora: {refusal}")
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
        say(f"hiplora: {problem}")
    if not left.updates:
        return 2
    layers = left.layers(optional=optional)
    seconds = time.monotonic() - start
    say_result(*left.findings(optional=optional))
    if save:
        save(layers)
        say_result(f"{len(layers)} rows in {args.out}")
    say(
        f"{len(weights)} maps, spectra {spectra_seconds:.1f} s ({len(weights) - computed} from cache), "
        f"measures {seconds:.1f} s{peak_memory()}"
    )
    return 0


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
