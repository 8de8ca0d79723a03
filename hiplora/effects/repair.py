"""The edit that keeps an update's task and most of the base: chosen on half of the examples, judged on the other half.

Beside it stand its peers, each at its own best setting: the update scaled down, cut to a lower rank, cut at a
hard threshold of its singular values, held within a budget, and PEFT's mitigation of intruder dimensions.
"""

import math
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import pandas as pd

from hiplora.adapters import Adapter, Delta, DenseDelta, Gains, LowRankDelta, Placement
from hiplora.effects.ablation import AS_TRAINED
from hiplora.effects.bench import Bench, Chosen
from hiplora.effects.changed import Change
from hiplora.effects.scores import Outcome, Scores, half
from hiplora.errors import HiploraError
from hiplora.sources.transformers_models import load_causal_lm

BLOCKS: Final = "blocks"
SCALED: Final = "scaled"
_SCALES: Final = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
_RANKS: Final = (1, 2, 3, 4, 6)
_THRESHOLDS: Final = (1.0, 0.7, 0.5, 0.35)
_LAMBDAS: Final = (0.75, 0.5, 0.25, 0.0)
_FEWEST: Final = 2
_Score = Callable[[], tuple[Outcome, float]]


@dataclass(frozen=True)
class Candidate:
    """One setting of one way to mend an update.

    Attributes:
        way: `blocks`, `scaled`, `rank cut`, `hard threshold`, `within budget` or `intruders mitigated`.
        edit: the setting, in words.
        score: gives its outcome, and its norm over that of the update.
        gains: of an edit by blocks; None for any other.
    """

    way: str
    edit: str
    score: _Score
    gains: Gains | None = None


def grid() -> list[Gains]:
    """Return the edits by block that are tried: the principal block halved or gone, with all or less of the rest."""
    return [
        Gains(pp=pp * s, pr=s, rp=rp * s, rr=s) for s in (1.0, 0.8, 0.6) for rp in (1.0, 0.5, 0.0) for pp in (0.5, 0.0)
    ]


def repair(bench: Bench, budgets: Mapping[float, Mapping[str, Gains]] | None = None) -> Iterator[pd.DataFrame]:
    """Score ways to mend an update, and yield the table as it grows; the last one says what is best.

    Every other example or window is for validation: of each way, the setting is chosen that keeps the most of the base
    there while the task counts as kept (`Scores.allowance`: it may lose one point, or of losses 5 % of what the update
    learned). All other numbers are of the other half, which chose nothing.

    One row per setting, and the update as trained first. Columns: `adapter, way, edit, norm` (relative to the update as
    trained), the score on the task and what is kept of the base as in `ablation`, the same with `validation_` before
    it, `healed, damaged` (see `Scores.flips`), `gain, gain_low, gain_high` (how much better the base is kept than by
    the update scaled at its best, with the 95 % interval over examples or windows; NaN until the last table), `chosen`
    (the best of its way), `pp, pr, rp, rr` (gains of an edit by blocks). With losses also those of the base and the
    texts, as in `ablation`.

    Args:
        bench: the update, and the way to score.
        budgets: `{epsilon: gains of each module}` that hold the update within a budget.

    Raises:
        HiploraError: the base cannot be scored in this way, the update cannot be read, or there are too few examples.
    """
    scores, whole = bench.scores, bench.base
    if min(map(len, whole.values())) < _FEWEST:
        raise HiploraError(
            f"A search needs at least {_FEWEST} examples of each skill, or windows of each text: half of them choose, "
            "the other half judges. Raise the number of examples, or pass longer texts."
        )
    chooses, base = half(whole, 0), half(whole, 1)
    found: list[Outcome] = []
    rows: list[dict[str, Any]] = []
    for candidate in _candidates(bench, budgets or {}):
        outcome, norm = candidate.score()
        found.append(outcome)
        first, judged = half(outcome, 0), half(outcome, 1)
        rows.append(
            {
                "adapter": bench.placement.update.name,
                "way": candidate.way,
                "edit": candidate.edit,
                "norm": norm,
                f"validation_{scores.task}": scores.task_score(first),
                f"validation_{scores.kept}": scores.kept_score(chooses, first),
                scores.task: scores.task_score(judged),
                scores.kept: scores.kept_score(base, judged),
                **scores.flips(base, half(found[0], 1), judged),
                **dict.fromkeys(("gain", "gain_low", "gain_high"), math.nan),
                "chosen": candidate.way == AS_TRAINED,
                **(asdict(candidate.gains) if candidate.gains else dict.fromkeys(asdict(Gains()), math.nan)),
                **bench.beside,
            }
        )
        yield pd.DataFrame(rows)
    best = _best(pd.DataFrame(rows), scores, scores.allowance(chooses, half(found[0], 0)))
    for place in best.values():
        rows[place]["chosen"] = True
    if SCALED in best:
        control = half(found[best[SCALED]], 1)
        for row, outcome in zip(rows, found, strict=True):
            judged = half(outcome, 1)
            row["gain"] = scores.gain(base, judged, control)
            row["gain_low"], row["gain_high"] = scores.gain_interval(base, judged, control)
    yield pd.DataFrame(rows)


def count(placement: Placement, budgets: int) -> int:
    """Return the rows that the table of `repair` will have.

    Args:
        placement: the update.
        budgets: number of budgets tried.
    """
    return (
        1
        + len(grid())
        + len(_SCALES)
        + len(_ranks(placement))
        + len(_THRESHOLDS)
        + budgets
        + len(_LAMBDAS) * _is_plain_lora(placement)
    )


def _candidates(bench: Bench, budgets: Mapping[float, Mapping[str, Gains]]) -> Iterator[Candidate]:
    placement = bench.placement

    def by_blocks(chosen: Chosen) -> _Score:
        return lambda: (bench.edit(chosen), bench.norm(chosen))

    def changed(key: Hashable, change: Change) -> _Score:
        return lambda: (bench.outcome(key, change), bench.norm_of(key, change))

    def cut(rank: int, module: str) -> Delta:
        left, s, right = placement.delta(module).compact_svd
        return LowRankDelta(left[:, :rank] * s[:rank], right[:rank])

    def thresholded(share: float, module: str) -> Delta:
        delta = placement.delta(module)
        left, s, right = delta.compact_svd
        kept = s >= share * noise_threshold(s, delta.shape)
        return LowRankDelta(left[:, kept] * s[kept], right[kept])

    yield Candidate(AS_TRAINED, AS_TRAINED, by_blocks(Gains()), Gains())
    for gains in grid():
        yield Candidate(BLOCKS, gains.words, by_blocks(gains), gains)
    for scale in _SCALES:
        yield Candidate(SCALED, f"x {scale:g}", by_blocks(Gains(scale, scale, scale, scale)))
    for rank in _ranks(placement):
        yield Candidate("rank cut", f"rank {rank}", changed(("rank", rank), partial(cut, rank)))
    for share in _THRESHOLDS:
        name = f"{share:g} of the threshold"
        yield Candidate("hard threshold", name, changed(("threshold", share), partial(thresholded, share)))
    for epsilon, of_modules in budgets.items():
        yield Candidate("within budget", f"ε = {epsilon:g}", by_blocks(of_modules))
    if _is_plain_lora(placement):
        for strength, change in _mitigated(placement):
            yield Candidate("intruders mitigated", f"λ = {strength:g}", changed(("intruders", strength), change))


def noise_threshold(s: np.ndarray, shape: tuple[int, int]) -> float:
    """Return the hard threshold of singular values for noise of unknown level (Gavish and Donoho, arXiv 1305.5870).

    It is `omega(b)` times their median, with the paper's `omega(b) = 0.56 b^3 - 0.95 b^2 + 1.82 b + 1.43` for an aspect
    ratio of `b`. An update of low rank has a median of zero: its threshold is that of the square core that holds all
    its singular values beyond rounding, `b = 1`, which is our choice. 0 for an update of zeros.

    Args:
        s: singular values, falling.
        shape: of the update, (m, n).
    """
    there = s[s > max(shape) * np.finfo(np.float64).eps * s.max(initial=0.0)]
    if not len(there):
        return 0.0
    aspect = 1.0 if len(there) < min(shape) else min(shape) / max(shape)
    return float((0.56 * aspect**3 - 0.95 * aspect**2 + 1.82 * aspect + 1.43) * np.median(there))


def _ranks(placement: Placement) -> list[int]:
    """Return the ranks to cut to: those below the update's own, where it has one."""
    largest = max((delta.rank for _, delta in placement if isinstance(delta, LowRankDelta)), default=0)
    return [rank for rank in _RANKS if rank < largest]


def _is_plain_lora(placement: Placement) -> bool:
    """Return whether PEFT itself can load the update as a LoRA and mitigate it."""
    update = placement.update
    # An edit names the folder of what it edits.
    saved = isinstance(update, Adapter) and (update.folder / "adapter_config.json").is_file()
    # PEFT 0.21.2 turns the new factors of a Conv1D around, and cannot use them.
    turned = any(weight.transposed for weight in placement.weights)
    return saved and update.method in ("LoRA", "rsLoRA") and not turned


def _mitigated(placement: Placement) -> Iterator[tuple[float, Change]]:
    """Yield each strength with the update after PEFT's `reduce_intruder_dimension`, which holds until the next one."""
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

        def change(module: str, name: str = name) -> Delta:
            layer: Any = layers[module]
            if name not in layer.lora_A:
                return DenseDelta(layer.get_delta_weight(name).detach().double().numpy())
            A, B = (part[name].weight.detach().double().numpy() for part in (layer.lora_A, layer.lora_B))
            return LowRankDelta(layer.scaling[name] * B, A)

        yield strength, change
        model.delete_adapter(name)


def _best(table: pd.DataFrame, scores: Scores, allowance: float) -> dict[str, int]:
    """Return `{way: row of its best setting}`, by the validation half; ways that always lose the task have none."""
    task, kept = (scores.better * table[f"validation_{column}"] for column in (scores.task, scores.kept))
    keeps = task.isna() | (task >= task.iloc[0] - allowance - 1e-9)
    fine = table[keeps & (table["way"] != AS_TRAINED)]
    return {str(way): int(kept[rows.index].idxmax()) for way, rows in fine.groupby("way", sort=False)}
