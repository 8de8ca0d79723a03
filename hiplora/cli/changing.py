"""Commands that write an adapter: edit, rebudget, repair, convert, export-lora."""

import argparse
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from hiplora.cli.console import INTERRUPTED, asked_to_stop, say, say_result
from hiplora.cli.options import GAIN_OPTIONS, opened, scores

if TYPE_CHECKING:
    from hiplora.adapters import EditedUpdate
    from hiplora.study import Study


def edit(args: argparse.Namespace) -> None:
    """`hiplora edit`: change the blocks of an adapter, and save it as a LoRA."""
    study = opened(args)
    [name] = study.names
    _save_edited(study.edit(name, **{block: getattr(args, block) for block in GAIN_OPTIONS}), study, args)


def rebudget(args: argparse.Namespace) -> None:
    """`hiplora rebudget`: hold an adapter within a budget, and save it as a LoRA."""
    study = opened(args)
    [name] = study.names
    _save_edited(study.rebudget(name, args.epsilon), study, args)


def repair(args: argparse.Namespace) -> int | None:
    """`hiplora repair`: search the edit that keeps the task and the base, and save it."""
    from tqdm import tqdm

    from hiplora.adapters import Gains
    from hiplora.effects import BLOCKS, count
    from hiplora.study import REPAIR_BUDGETS

    how = scores(args)
    study = opened(args)
    [name] = study.names
    total, table = count(study.placements[0], len(REPAIR_BUDGETS)), None
    with asked_to_stop("this edit") as asked, tqdm(total=total, desc="edits", disable=None) as bar:
        for table in study.search_repair(name, how):
            bar.update(len(table) - bar.n)
            if asked():
                say("hiplora: stopped before all edits were compared: nothing is written.")
                return INTERRUPTED
    assert table is not None
    chosen = table[table["chosen"]]
    say_result(*(f"{row['way']}, {row['edit']}: {_repaired(row)}" for row in chosen.to_dict("records")))
    if "caveat" in table and table["caveat"].iloc[0]:
        say(f"hiplora: {table['caveat'].iloc[0]}")
    best = chosen[chosen["way"] == BLOCKS]
    if best.empty:
        say(f"hiplora: no edit by block keeps the task of {name} on the examples that choose: nothing is written.")
        return 2
    gains = Gains(**{block: float(best[block].iloc[0]) for block in GAIN_OPTIONS})
    _save_edited(study.edit(name, gains), study, args)
    return None


def _repaired(row: dict[Hashable, Any]) -> str:
    """Return in words what an edit keeps, on the half that chose nothing."""
    known = row["gain"] == row["gain"]
    if "kept_loss" in row:
        beside = f" (saves {row['gain']:+.4f} beside scaled)" if known else ""
        return f"loss on the task {row['task_loss']:.4f}, on what is kept {row['kept_loss']:.4f} nats per token{beside}"
    task = f"task {row['task_score']:.3f}, " if row["task_score"] >= 0 else ""
    beside = f" ({100 * row['gain']:+.1f} points beside scaled)" if known else ""
    return f"{task}base skills kept {row['retention']:.3f}{beside}"


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
        say(f"hiplora: {caveat}")
    say_result(f"{args.out} holds {update.name} at k = {study.k} as a LoRA of rank {rank}: {size}{cut}")


def convert(args: argparse.Namespace) -> None:
    """`hiplora convert`: write a pickle as safetensors, or a LoRA under the names of diffusers."""
    from hiplora.convert import convert, rename
    from hiplora.sources import open_base

    written = rename(args.file, open_base(args.base), args.out) if args.base else convert(args.file, args.out)
    say_result(f"{written} holds the tensors of {args.file}")


def export_lora(args: argparse.Namespace) -> None:
    """`hiplora export-lora`: write a HiP-LoRA adapter as an ordinary LoRA."""
    from hiplora.adapters.locate import locate
    from hiplora.tuner.export import export_lora

    export_lora(locate(args.adapter)[0], args.out)
    say_result(f"{args.out} holds the same update as an ordinary LoRA adapter")
