"""What the words over the numbers mean: those of the measures, from their registry, and the others."""

import re
from functools import cache

from hiplora.measure_info import MeasureInfo, Term
from hiplora.measures.difference_info import DIFFERENCES
from hiplora.measures.registry import MEASURES

TERMS = (
    Term(
        "Singular direction",
        "A weight reads its input along right singular directions and writes its output along "
        "left ones; the singular value says how strongly. The leading ones come first.",
        words=("singular direction", "singular directions", "leading directions", "top directions", "directions"),
    ),
    Term("Principal rank k", "How many leading singular directions of each weight count as principal: a choice.", "k"),
    Term("Energy", "The squared Frobenius norm of an update; its parts on orthogonal directions add up to the whole."),
    Term(
        "By chance",
        "What a random update of the same size and rank has, whose directions do not depend on the weight.",
        "pp_null",
        words=("by chance", "chance", "random update", "random updates"),
    ),
    Term(
        "Band of chance",
        "95 % of random updates lie in this band: a value inside is what a random update would show too.",
        "band",
        words=("band of chance", "95 % band"),
    ),
    Term(
        "Principal block",
        "The part of an update that reads leading directions and writes leading directions.",
        words=("principal block", "principal channel", "PP"),
    ),
    Term(
        "Mixed blocks",
        "The parts of an update that touch leading directions on one side only; HiP-LoRA has none.",
        words=("mixed blocks", "PR", "RP"),
    ),
    Term(
        "Residual block",
        "The part of an update outside the leading directions on both sides.",
        words=("residual block", "residual channel", "RR"),
    ),
    Term("Core", "The small k x k matrix with which HiP-LoRA changes the principal block."),
    Term(
        "Stability budget",
        "How far an update may change the leading directions of a weight, weighted by their "
        "singular values: epsilon = 0.05 allows 5 % of their weighted size.",
        "epsilon",
        words=("budget",),
    ),
    Term(
        "Shadow price",
        "How fast the task's loss would fall if a module might spend more of the budget.",
        "shadow_price",
        words=("shadow price", "shadow prices"),
    ),
    Term(
        "Gain", "The first-order relative change of one singular value of the weight.", words=("gains", "largest gain")
    ),
    Term(
        "Octave",
        "A run of directions twice as long as the one before: 1, 2, 3 to 4, 5 to 8, and so on.",
        words=("octave", "octaves"),
    ),
    Term(
        "Geometry of the inputs",
        "Measures what an update does to the outputs while the base reads a text, in place "
        "of where it lies in the weights.",
        words=("base's inputs", "geometry of the inputs"),
    ),
    Term(
        "Concentration",
        "How many times a random update's share lies in the principal block: enrichment, over all modules together.",
        words=(),
    ),
    Term("Size", "The norm of the update relative to the weights it changes, all modules together.", words=()),
    Term(
        "Base skills kept",
        "Test score on what the base could do, relative to the base, as measured: the only proof "
        "of forgetting, or of its absence.",
        "retention",
    ),
    Term("Task score", "Test score on the adapter's own task, as measured.", "task_score"),
    Term("Pareto-optimal", "No other adapter is at least as good in both scores and better in one."),
)
"""The words that are not measures."""

_HEADERS = {
    "adapter": "The update, by the name of its folder.",
    "method": "How it was trained.",
    "task": "What it was trained for.",
    "max_tightness": "Tightness of the module that spends most of its budget; above 1 a hard budget would cut it.",
    "mean_stable_rank": "How many directions the update really uses, on average over its modules.",
    "modules": "How many linear maps of the base it changes.",
    "module": "The linear map, by its name in the model.",
    "layer": "Number of the layer in the network.",
    "kind": "Which linear map of a layer it is.",
    "expert": "Number of the expert, in a mixture of experts.",
    "rows": "Rows of the weight.",
    "cols": "Columns of the weight.",
    "rank": "Number of columns of the low-rank factors.",
    "scale": "Factor before the product of the low-rank factors, such as lora_alpha / r.",
    "norm": "Frobenius norm of the update.",
    "spectral_norm": "Largest singular value of the update.",
    "reason": "Why this module is not measured.",
    "tensor": "Name in the adapter's file.",
    "shape": "Its dimensions.",
    "part": "What the tensor belongs to.",
    "trainable_parameters": "How many numbers training could change.",
    "parameter_difference": "Trainable parameters, compared with the first adapter chosen.",
    "budget": "How HiP-LoRA was held back while it trained: hard, soft, or not at all.",
    "run": "A training, by the name of its folder.",
    "shown": "Whether the figures of the page show the run.",
    "state": "Whether it waits, trains, has finished, was stopped or failed.",
    "step": "Optimizer steps taken so far.",
    "steps": "Optimizer steps of its training.",
    "when": "When the run last wrote something.",
    "seed": "Of the random numbers of its training.",
    "note": "What you wrote about the run on the page Train.",
    "indicator": "A measure that might tell in advance what a part causes.",
    "over_budget": "How many modules have a tightness above 1.",
    "outcome": "An adapter alone, or a way to merge.",
    "rank_correlation": "Spearman's: 1 when the indicator puts the parts in the right order, 0 when it says nothing.",
    "low": "Lower end of the 95 % interval, resampled.",
    "high": "Upper end of the 95 % interval, resampled.",
    "parts": "How many parts were removed, one at a time.",
    "model": "The base alone, or with one adapter.",
    "answer": "What the model writes after the prompt.",
    "right_answer": "What the task or the skill asks for.",
    "correct": "Whether the answer has no wrong character.",
    "skill_score": "Test score on this skill of the base, as measured.",
}
"""`{column: what its header means}` where the header is a plain word."""
_MEANINGS = (
    _HEADERS
    | {term.column: term.meaning for term in TERMS if term.column}
    | {column: info.meaning for column, info in MEASURES.items()}
)


def glossary() -> list[Term | MeasureInfo]:
    """Return every measure and every other word once, in alphabetical order; a measure goes before a word."""
    words: dict[str, Term | MeasureInfo] = {term.name: term for term in TERMS}
    words |= {info.name: info for info in (*DIFFERENCES.values(), *MEASURES.values())}
    return sorted(words.values(), key=lambda each: each.name.lower())


def meaning_of(column: str) -> str:
    """Return what a column of a table means.

    Raises:
        KeyError: nothing explains it.
    """
    return _MEANINGS[column]


def words_in(text: str) -> list[Term | MeasureInfo]:
    """Return the measures and other words that a text uses, in the order in which it does."""
    places = {name: found.start() for name, pattern in _patterns().items() if (found := pattern.search(text))}
    by_name: dict[str, Term | MeasureInfo] = {term.name: term for term in TERMS}
    by_name |= {info.name: info for info in MEASURES.values()}
    return [by_name[name] for name in sorted(places, key=lambda name: places[name])]


@cache
def _patterns() -> dict[str, re.Pattern[str]]:
    forms: dict[str, tuple[str, ...]] = {info.name: (info.name,) for info in MEASURES.values()}
    forms |= {term.name: (term.name,) if term.words is None else term.words for term in TERMS}
    return {
        name: re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b", re.IGNORECASE)
        for name, words in forms.items()
        if words
    }
