"""Commands that merge adapters, and look at what was merged: merge, verify."""

import argparse
import shlex
from typing import TYPE_CHECKING

from hiplora.cli.console import INTERRUPTED, asked_to_stop, peak_memory, say, say_result, show_progress
from hiplora.cli.measuring import table_writer
from hiplora.cli.options import opened
from hiplora.settings import DEFAULT_TOKENS

if TYPE_CHECKING:
    import pandas as pd

    from hiplora.merging import MergedUpdate
    from hiplora.study import Study


def merge(args: argparse.Namespace) -> int | None:
    """`hiplora merge`: merge adapters of one base, and save the merge."""
    from tqdm import tqdm

    from hiplora.merging import require_new, save_merge

    require_new(args.out)
    study = opened(args)
    merged = study.merged(args.how, args.weights, density=args.density, seed=args.seed)
    for caveat in merged.caveats:
        say(f"hiplora: {caveat}")
    with asked_to_stop("this module") as asked:

        def report(done: int, total: int) -> None:
            bar.update(done - bar.n)
            if asked():
                raise KeyboardInterrupt

        if merged.way.needs_spectrum:
            show_progress("spectra", study.prepare(asked))
            if asked():
                return INTERRUPTED
        conflicts = _conflicts(study, args.weights)
        with tqdm(total=len(merged.modules), desc="modules", disable=None) as bar:
            table = save_merge(
                merged, study.base, args.out, args.rank, model=args.save_model, conflicts=conflicts, progress=report
            )
    say_result(f"{args.out} holds {merged.name} as {_form(merged, table, args)}")
    if conflicts is not None:
        say_result(*_meetings(conflicts))
    count = len(study.updates)
    say(f"{len(table)} maps of {count} adapter{'s' * (count > 1)}{peak_memory()}")
    return None


def _conflicts(study: "Study", weights: "list[float] | None") -> "pd.DataFrame | None":
    """Return the conflicts of the weighted adapters; None for one alone, and where spectra would be computed first."""
    if len(study.updates) < 2:
        return None
    if missing := len(study.missing()):
        say(f"hiplora: the report leaves the conflicts out, which need {missing} spectra: {_how_to_prepare(study)}.")
        return None
    return study.conflicts(weights)


def _how_to_prepare(study: "Study") -> str:
    """Return which commands compute the spectra that are missing, as a clause."""
    calibration = study.calibration
    if calibration is None:
        return f"`hiplora svd {study.source}` computes them once"
    text = f" --text {shlex.quote(calibration.text.path)}" if calibration.text.path else ""
    text += "" if calibration.tokens == DEFAULT_TOKENS else f" --tokens {calibration.tokens}"
    observe = "" if calibration.ready else f"`hiplora calibrate {study.source}{text}` observes the inputs, and "
    return f"{observe}`hiplora analyze` with the same adapters and `--geometry inputs{text}` computes them once"


def _meetings(conflicts: "pd.DataFrame") -> list[str]:
    """Return one line per pair: how the two meet as a whole, and in their principal blocks."""
    from hiplora.merging import conflict_summary

    if conflicts.empty:
        return ["No two of the adapters change the same map."]
    lines = []
    for (first, second), rows in conflict_summary(conflicts).groupby(["first", "second"], sort=False):
        by = rows.set_index("block")
        whole, core = by.loc["all"], by.loc["pp"]
        lines.append(
            f"{first} and {second}: cosine {whole['cosine']:+.3f} (independent: 0 ± {whole['null_sd']:.2g}), "
            f"{whole['reinforcing']} of {whole['modules']} maps reinforce and {whole['cancelling']} cancel; principal "
            f"blocks {core['cosine']:+.3f} (0 ± {core['null_sd']:.2g}), joint tightness up to "
            f"{core['joint_tightness']:.2g}"
        )
    return lines


def _form(merged: "MergedUpdate", table: "pd.DataFrame", args: argparse.Namespace) -> str:
    """Return what was written, and what it costs."""
    from hiplora.merging import total_error

    error = total_error(table)
    if args.save_model:
        return f"a whole model: rounding to its dtype changes {error:.2g} of the norm of the update"
    ranks = sorted(table["rank"])
    rank = f"{ranks[0]}" if ranks[0] == ranks[-1] else f"{ranks[0]} to {ranks[-1]}"
    if error:
        return f"a LoRA of rank {rank}: cutting the rank loses {error:.2g} of the norm of the update"
    shapes = [merged.shape(module) for module in table["module"]]
    factors = sum(rank * (m + n) for rank, (m, n) in zip(table["rank"], shapes, strict=True))
    large = (
        " and larger than the weights themselves: --rank cuts it, and --save-model writes a model of the base's size"
        if factors > sum(m * n for m, n in shapes)
        else ""
    )
    return f"a LoRA of rank {rank}, exact to float32{large}"


def verify(args: argparse.Namespace) -> int:
    """`hiplora verify`: compare a checkpoint with a base and an adapter."""
    from tqdm import tqdm

    from hiplora.adapters import place, read_adapter
    from hiplora.files import user_path
    from hiplora.merging import verify
    from hiplora.sources import BaseModel, open_base

    save = table_writer(args.out)
    base, checkpoint = open_base(args.base, download=args.download), BaseModel(user_path(args.merged))
    placement = place(base, read_adapter(args.adapter))
    with tqdm(desc="maps", disable=None) as bar:

        def report(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        found = verify(placement, checkpoint, report)
    if save:
        save(found.table)
    say_result(found.finding)
    return 0 if found.agrees else 1
