"""What each column of the layer table means: its name, formula and scale, in one place."""

from dataclasses import dataclass
from typing import Literal

Scale = Literal["chance", "share", "log", "linear", "count", "budget", "signed"]


@dataclass(frozen=True)
class MeasureInfo:
    r"""A measure as people meet it.

    Attributes:
        column: its column in the layer table.
        name: what it is called.
        unit: what its numbers mean, empty when the name says it.
        formula: LaTeX.
        meaning: one sentence for those who do not read formulas.
        scale: `chance` (a ratio whose neutral value is 1), `share` (0 to 1), `log`, `linear` or `count` (from 0),
            `budget` (1 is the limit), `signed` (-1 to 1).
        source: the paper, or our choice.
    """

    column: str
    name: str
    unit: str
    formula: str
    meaning: str
    scale: Scale
    source: str

    @property
    def title(self) -> str:
        """Name and unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


_OURS, _PAPER = "our choice", "HiP-LoRA (arXiv 2604.17751); the formula is our choice"

_ALL = (
    MeasureInfo(
        "enrichment",
        "Enrichment",
        "principal block, 1 = chance",
        r"\frac{\lVert U_k^\top \Delta W V_k\rVert_F^2 / \lVert\Delta W\rVert_F^2}{k^2/(mn)}",
        "How many times its share by chance the update puts into the leading k x k singular directions.",
        "chance",
        _OURS,
    ),
    MeasureInfo(
        "pp",
        "Principal share",
        "of the energy",
        r"PP = \lVert U_k^\top \Delta W V_k\rVert_F^2 \,/\, \lVert\Delta W\rVert_F^2",
        "The part of the update inside the leading singular directions on both sides; chance puts k²/(mn) there.",
        "share",
        _PAPER,
    ),
    MeasureInfo(
        "left_share",
        "Left share",
        "of the energy, on leading output directions",
        r"\lVert U_k^\top \Delta W\rVert_F^2 \,/\, \lVert\Delta W\rVert_F^2",
        "The part of the update that writes into the leading left singular directions; chance puts k/m there.",
        "share",
        _OURS,
    ),
    MeasureInfo(
        "right_share",
        "Right share",
        "of the energy, on leading input directions",
        r"\lVert \Delta W V_k\rVert_F^2 \,/\, \lVert\Delta W\rVert_F^2",
        "The part of the update that reads from the leading right singular directions; chance puts k/n there.",
        "share",
        _OURS,
    ),
    MeasureInfo(
        "relative_norm",
        "Relative norm",
        "of the update, 1 = as large as the weight",
        r"\lVert\Delta W\rVert_F \,/\, \lVert W_0\rVert_F",
        "How large the update is beside the weight it changes.",
        "log",
        "standard",
    ),
    MeasureInfo(
        "tightness",
        "Tightness",
        "1 = budget spent",
        r"\frac{1}{\varepsilon}\sqrt{\frac{\sum_{ij} w_i w_j C_{ij}^2}{\sum_i (w_i s_i)^2}},\quad"
        r" w_i = (s_i/s_1)^p,\; C = U_k^\top \Delta W V_k",
        "How much of the stability budget the change of the principal core spends; above 1 it would have been cut.",
        "budget",
        _PAPER,
    ),
    MeasureInfo(
        "stable_rank",
        "Stable rank",
        "of the update",
        r"\lVert\Delta W\rVert_F^2 \,/\, \lVert\Delta W\rVert_2^2",
        "How many directions the update really uses: 1 when one direction carries it all.",
        "linear",
        "standard",
    ),
    MeasureInfo(
        "effective_rank",
        "Effective rank",
        "of the update",
        r"\exp\Bigl(-\sum_i p_i \log p_i\Bigr),\quad p_i = s_i(\Delta W)^2 / \lVert\Delta W\rVert_F^2",
        "The number of equally strong directions that would spread the energy as evenly.",
        "linear",
        "standard",
    ),
    MeasureInfo(
        "intruders",
        "Intruder dimensions",
        "among the top 10",
        r"\#\{j \le 10 : \max_i |\langle u'_j, u_i\rangle| < 0.5\},\quad u'_j \text{ of } W_0 + \Delta W",
        "Leading directions of the changed weight that resemble none of the original's.",
        "count",
        "Shuttleworth et al., arXiv 2410.21228",
    ),
)

MEASURES: dict[str, MeasureInfo] = {info.column: info for info in _ALL}

_PAIR = r"\Delta W = \Delta W_A - \Delta W_B"

_OF_A_DIFFERENCE = (
    MeasureInfo(
        "relative_norm",
        "Relative difference",
        "1 = as large as the weight",
        r"\lVert\Delta W_A - \Delta W_B\rVert_F \,/\, \lVert W_0\rVert_F",
        "How far apart the two adapters leave the weight, beside the weight itself.",
        "log",
        _OURS,
    ),
    MeasureInfo(
        "norm",
        "Difference",
        "Frobenius norm",
        r"\lVert\Delta W_A - \Delta W_B\rVert_F",
        "How far apart the two adapters leave the weight.",
        "log",
        "standard",
    ),
    MeasureInfo(
        "share",
        "Share of the difference",
        "over all modules",
        r"\lVert\Delta W\rVert_F^2 \,/\, \textstyle\sum_{\text{modules}} \lVert\Delta W\rVert_F^2,\quad " + _PAIR,
        "The part of the whole squared difference that one module holds.",
        "share",
        _OURS,
    ),
    *(
        MeasureInfo(
            column,
            f"{name} part",
            "of the module's squared difference",
            rf"{part} \,/\, \lVert\Delta W\rVert_F^2,\quad {_PAIR}",
            f"The part of the difference {where}.",
            "share",
            _OURS,
        )
        for column, name, part, where in (
            (
                "pp",
                "Principal",
                r"\lVert U_k^\top \Delta W V_k\rVert_F^2",
                "inside the leading singular directions on both sides",
            ),
            (
                "mixed",
                "Mixed",
                r"\bigl(\lVert U_k^\top \Delta W\rVert_F^2 + \lVert\Delta W V_k\rVert_F^2"
                r" - 2\,\lVert U_k^\top \Delta W V_k\rVert_F^2\bigr)",
                "inside the leading singular directions on one side only",
            ),
            (
                "rr",
                "Residual",
                r"\lVert (I - U_k U_k^\top) \Delta W (I - V_k V_k^\top)\rVert_F^2",
                "outside the leading singular directions on both sides",
            ),
        )
    ),
    *(
        MeasureInfo(
            column,
            name,
            "1 = same direction, 0 = unrelated, -1 = opposite",
            rf"\frac{{\langle {a}, {b}\rangle}}{{\lVert {a}\rVert_F \lVert {b}\rVert_F}}" + where,
            meaning,
            "signed",
            "standard",
        )
        for column, name, a, b, where, meaning in (
            (
                "cosine",
                "Cosine",
                r"\Delta W_A",
                r"\Delta W_B",
                "",
                "Whether the two updates push the weight the same way.",
            ),
            (
                "cosine_pp",
                "Cosine, principal channel",
                "C_A",
                "C_B",
                r",\quad C = U_k^\top \Delta W V_k",
                "Whether they push the same way inside the leading singular directions; empty where one has no part.",
            ),
            (
                "cosine_rr",
                "Cosine, residual channel",
                "R_A",
                "R_B",
                r",\quad R = (I - U_k U_k^\top) \Delta W (I - V_k V_k^\top)",
                "Whether they push the same way outside the leading singular directions; empty where one has no part.",
            ),
        )
    ),
    *(
        MeasureInfo(
            f"overlap_{side}",
            f"Overlap, {side}",
            "0 = apart, 1 = one holds the other",
            r"\lVert Q_A^\top Q_B\rVert_F^2 \,/\, \min(r_A, r_B),\quad Q\text{: a basis of the " + space + " space}",
            f"How much the two updates share of what they {verb}, whatever they do with it.",
            "share",
            _OURS,
        )
        for side, space, verb in (("left", "column", "write into"), ("right", "row", "read from"))
    ),
    MeasureInfo(
        "joint_tightness",
        "Joint tightness",
        "of the sum of both, 1 = budget spent",
        r"\sqrt{\mathrm{cost}(C_A + C_B)} \,/\, \varepsilon",
        "How much of the stability budget both together would spend, if they were added to one model.",
        "budget",
        _PAPER,
    ),
)

DIFFERENCES: dict[str, MeasureInfo] = {info.column: info for info in _OF_A_DIFFERENCE}
"""What the columns of the difference table mean: two adapters A and B, module by module."""
