"""The edit that keeps an update's task and most of the base: chosen on half of the examples, judged on the other half.

Beside it stand its peers, each at its own best setting: the update scaled down, cut to a lower rank, held within a
budget, and PEFT's mitigation of intruder dimensions.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from hiplora.adapters import Adapter, Gains, LowRankDelta, Placement
from hiplora.demo.ablation import AS_TRAINED
from hiplora.demo.scored import Parts, Right, Scorer, interval, retention
from hiplora.demo.skills import SKILLS
from hiplora.errors import HiploraError
from hiplora.sources.transformers_models import load_causal_lm
from hiplora.spectrum import BaseSpectra

BLOCKS: Final = "blocks"
SCALED: Final = "scaled"
TASK_KEPT: Final = 0.01
"""What an edit may lose of the task on the validation half and still count as keeping it."""
_SCALES: Final = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
_RANKS: Final = (1, 2, 3, 4, 6)
_LAMBDAS: Final = (0.75, 0.5, 0.25, 0.0)
_Changes = Callable[[], Iterable[tuple[str, np.ndarray]]]


@dataclass(frozen=True)
class Candidate:
    """One setting of one way to mend an update.

    Attributes:
        way: `blocks`, `scaled`, `rank cut`, `within budget` or `intruders mitigated`.
        edit: the setting, in words.
        changes: gives the changes of the base's weights, module by module.
        gains: of an edit by blocks; None for any other.
    """

    way: str
    edit: str
    changes: _Changes
    gains: Gains | None = None


def grid() -> list[Gains]:
    """Return the edits by block that are tried: the principal block halved or gone, with all or less of the rest."""
    return [
        Gains(pp=pp * s, pr=s, rp=rp * s, rr=s) for s in (1.0, 0.8, 0.6) for rp in (1.0, 0.5, 0.0) for pp in (0.5, 0.0)
    ]


def repair(
    spectra: BaseSpectra,
    placement: Placement,
    k: int,
    size: int = 200,
    seed: int = 0,
    budgets: Mapping[float, Mapping[str, Gains]] | None = None,
) -> Iterator[pd.DataFrame]:
    """Score ways to mend an update of the demo's base, and yield the table as it grows; the last one says what is best.

    Every other example of each skill is for validation: of each way, the setting is chosen that keeps the most of the
    base there while the task loses at most `TASK_KEPT`. All other numbers are of the other half, which chose nothing.

    One row per setting, and the update as trained first. Columns: `adapter, way, edit, norm` (relative to the update as
    trained), `validation_task_score, validation_retention, task_score, retention, healed` (of the base's answers that
    the update broke, the share that is right again), `damaged` (of those that it left right, the share that is now
    wrong), `gain, gain_low, gain_high` (retention less that of the update scaled at its best, with the 95 % interval
    over examples; NaN until the last table), `chosen` (the best of its way), `pp, pr, rp, rr` (gains of an edit by
    blocks).

    Args:
        spectra: of the demo's base; their geometry tells the blocks.
        placement: the update on it.
        k: principal rank.
        size: examples per skill, at most: half of them for validation.
        seed: chooses the examples.
        budgets: `{epsilon: gains of each module}` that hold the update within a budget.

    Raises:
        HiploraError: the base is not the demo's, the update cannot be read, or `size` is below 2.
    """
    if size < 2:
        raise HiploraError(f"size must be at least 2, got {size}: half of the examples choose, the other half judges.")
    scorer, parts = Scorer(placement, size, seed), Parts(spectra, placement, k)
    whole = math.sqrt(sum(delta.energy for _, delta in placement))
    base = scorer.right((module, np.zeros(placement.places[module].shape)) for module in parts.modules)
    found: list[tuple[Candidate, Right]] = []
    rows: list[dict[str, Any]] = []
    for candidate in _candidates(parts, placement, budgets or {}):
        changes = list(candidate.changes())
        right = scorer.right(changes)
        found.append((candidate, right))
        trained = found[0][1]
        tested, before = (_half(each, 1) for each in (right, trained))
        norm = math.sqrt(sum(float(np.sum(change**2)) for _, change in changes))
        rows.append(
            {
                "adapter": placement.update.name,
                "way": candidate.way,
                "edit": candidate.edit,
                "norm": norm / whole if whole else 0.0,
                "validation_task_score": scorer.task_score(_half(right, 0)),
                "validation_retention": retention(_half(base, 0), _half(right, 0)),
                "task_score": scorer.task_score(tested),
                "retention": retention(_half(base, 1), tested),
                **_flips(_half(base, 1), before, tested),
                **dict.fromkeys(("gain", "gain_low", "gain_high"), math.nan),
                "chosen": candidate.way == AS_TRAINED,
                **(asdict(candidate.gains) if candidate.gains else dict.fromkeys(asdict(Gains()), math.nan)),
            }
        )
        yield pd.DataFrame(rows)
    best = _best(pd.DataFrame(rows))
    for place in best.values():
        rows[place]["chosen"] = True
    if SCALED in best:
        control = found[best[SCALED]][1]
        for row, (_, right) in zip(rows, found, strict=True):
            row["gain"] = row["retention"] - rows[best[SCALED]]["retention"]
            row["gain_low"], row["gain_high"] = interval(*(_half(each, 1) for each in (base, right, control)))
    yield pd.DataFrame(rows)


def count(placement: Placement, budgets: int) -> int:
    """Return the rows that the table of `repair` will have.

    Args:
        placement: the update.
        budgets: number of budgets tried.
    """
    return 1 + len(grid()) + len(_SCALES) + len(_ranks(placement)) + budgets + len(_LAMBDAS) * _is_plain_lora(placement)


def _candidates(
    parts: Parts, placement: Placement, budgets: Mapping[float, Mapping[str, Gains]]
) -> Iterator[Candidate]:
    def by_blocks(gains: Gains | Mapping[str, Gains]) -> _Changes:
        return lambda: parts.changes(gains)

    def cut(rank: int) -> Iterator[tuple[str, np.ndarray]]:
        for weight, delta in placement:
            left, s, right = delta.compact_svd
            yield weight.module, (left[:, :rank] * s[:rank]) @ right[:rank]

    yield Candidate(AS_TRAINED, AS_TRAINED, by_blocks(Gains()), Gains())
    for gains in grid():
        yield Candidate(BLOCKS, gains.words, by_blocks(gains), gains)
    for scale in _SCALES:
        yield Candidate(SCALED, f"x {scale:g}", by_blocks(Gains(scale, scale, scale, scale)))
    for rank in _ranks(placement):
        yield Candidate("rank cut", f"rank {rank}", lambda rank=rank: cut(rank))  # type: ignore[misc]
    for epsilon, of_modules in budgets.items():
        yield Candidate("within budget", f"ε = {epsilon:g}", by_blocks(of_modules))
    if _is_plain_lora(placement):
        for strength, changes in _mitigated(placement):
            yield Candidate("intruders mitigated", f"λ = {strength:g}", changes.items)


def _ranks(placement: Placement) -> list[int]:
    """Return the ranks to cut to: those below the update's own, where it has one."""
    largest = max((delta.rank for _, delta in placement if isinstance(delta, LowRankDelta)), default=0)
    return [rank for rank in _RANKS if rank < largest]


def _is_plain_lora(placement: Placement) -> bool:
    """Return whether PEFT itself can load the update as a LoRA, which its mitigation needs."""
    update = placement.update
    # An edit names the folder of what it edits.
    saved = isinstance(update, Adapter) and (update.folder / "adapter_config.json").is_file()
    return saved and update.method in ("LoRA", "rsLoRA")


def _mitigated(placement: Placement) -> Iterator[tuple[float, dict[str, np.ndarray]]]:
    """Yield each strength with the update after PEFT's `reduce_intruder_dimension`: `{module: (m, n)}`."""
    import peft
    from peft.tuners.lora import LoraLayer
    from peft.tuners.lora.intruders import reduce_intruder_dimension

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(load_causal_lm(placement.base.path), str(placement.update.folder))
    layers = {
        name.removeprefix("base_model.model."): layer
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    }
    for number, strength in enumerate(_LAMBDAS):
        name = f"mitigated-{number}"
        reduce_intruder_dimension(model, new_adapter_name=name, mitigation_lambda=strength, logging_sink=None)
        yield (
            strength,
            {m: layers[m].get_delta_weight(name).detach().double().numpy() for m in placement.places},
        )
        model.delete_adapter(name)


def _half(right: Right, which: int) -> Right:
    """Return every other example of each skill: 0 for validation, 1 for the test."""
    return {name: values[which::2] for name, values in right.items()}


def _flips(base: Right, trained: Right, now: Right) -> dict[str, float]:
    """Return the shares of the base's right answers that an edit heals and damages."""
    broken = healed = kept = damaged = 0
    for name in SKILLS:
        lost, left = base[name] & ~trained[name], base[name] & trained[name]
        broken, healed = broken + int(lost.sum()), healed + int((lost & now[name]).sum())
        kept, damaged = kept + int(left.sum()), damaged + int((left & ~now[name]).sum())
    return {"healed": healed / broken if broken else math.nan, "damaged": damaged / kept if kept else math.nan}


def _best(table: pd.DataFrame) -> dict[str, int]:
    """Return `{way: row of its best setting}`, by the validation half; ways that always lose the task have none."""
    least = table["validation_task_score"].iloc[0] - TASK_KEPT
    keeps = table["validation_task_score"].isna() | (table["validation_task_score"] >= least - 1e-9)
    fine = table[keeps & (table["way"] != AS_TRAINED)]
    return {str(way): int(rows["validation_retention"].idxmax()) for way, rows in fine.groupby("way", sort=False)}
