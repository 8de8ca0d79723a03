"""What the numbers of an update say in plain words: a verdict, what it rests on, and what to do next."""

from dataclasses import dataclass

import pandas as pd

from hiplora.measures.experts import split_expert
from hiplora.measures.summary import beside_band
from hiplora.sources import layer_and_kind

SMALL = 0.02
"""Relative norm below which an update is called small: our choice."""
_KEEPS = 0.98


@dataclass(frozen=True)
class Judgement:
    """What a summary says of an update in plain words.

    Attributes:
        verdict: one sentence, without the update's name.
        advice: what to do next, one sentence.
        page: of the app that shows it.
        facts: `{what is judged: its number in words}`: concentration, size, and what was measured of forgetting.
        module: furthest above chance; empty where none is above the band of random updates.
        where: this module and its enrichment in words; empty without.
    """

    verdict: str
    advice: str
    page: str
    facts: dict[str, str]
    module: str = ""
    where: str = ""

    @property
    def reason(self) -> str:
        """The numbers behind it, in one line."""
        return "; ".join(f"{name.lower()}: {value}" for name, value in self.facts.items()).capitalize() + "."


def judgement(row: pd.Series, geometry: str = "weights") -> Judgement:
    """Judge an update by its size, its place beside chance, and what was measured of forgetting, if anything was.

    Geometry alone is never called forgetting. "Small" is a relative norm (or effect) below `SMALL`: our choice.

    Args:
        row: of `Study.summary`.
        geometry: of that table.
    """
    size, above = float(row["relative_norm"]), bool(row["pp"] > row["pp_null_high"])
    enrichment, low, high = beside_band(row)
    kept = float(row["retention"]) if pd.notna(row.get("retention")) else None
    facts = {
        "Concentration": f"{enrichment} times that of a random update (95\N{NO-BREAK SPACE}% of those: {low} to {high})"
        if size
        else "nothing to compare with chance",
        "Size": f"{_percent(size)} {'of the weights' if geometry == 'weights' else 'of the outputs on its inputs'}",
        "Base skills kept": "not measured" if kept is None else f"{_percent(kept)}, as measured",
    }
    module, where = str(row["top_module"]), ""
    if module:
        parameter, expert = split_expert(module)
        layer, kind = layer_and_kind(parameter)
        place = kind if layer is None else f"layer {layer} {kind}"
        place += "" if expert is None else f", expert {expert}"
        where = f"{place}, {row['top_enrichment']:.2g} times chance"

    def judged(verdict: str, advice: str, page: str) -> Judgement:
        return Judgement(verdict, advice, page, facts, module, where)

    if size == 0:
        return judged("It changes nothing.", "Check that the right file was saved.", "read")
    if size > 1:
        return judged(
            "It is larger than the base itself, as if it belonged to another.", "Check how it was read.", "read"
        )
    if kept is not None and kept >= _KEEPS:
        return judged("It keeps the base, as measured.", "There is nothing to mend.", "compare")
    lost = "" if kept is None else f", and has lost {_percent(1 - kept)} of the base's skills"
    if above:
        start = "It is small, but leans" if size < SMALL else "It leans"
        return judged(
            f"{start} on the leading directions{lost}.",
            "See what its principal block causes, and what an edit gives back.",
            "effect",
        )
    if size < SMALL and kept is None:
        return judged("It is small and spread out like a random update.", "There is nothing to mend.", "spectrum")
    return judged(
        f"It is spread out like a random update{', and large' if size >= SMALL else ''}{lost}.",
        "Its size is what to look at: see what scaling it down gives back.",
        "effect",
    )


def _percent(share: float) -> str:
    digits = f"{100 * share:.2g}" if share < 0.1 else f"{100 * share:.0f}"
    return f"{digits}\N{NO-BREAK SPACE}%"
