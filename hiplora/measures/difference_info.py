"""The columns of the difference table: two updates A and B, module by module."""

from hiplora.measure_info import OURS, PAPER, STANDARD, MeasureInfo

_PAIR = r"\Delta W = \Delta W_A - \Delta W_B"

_ALL = (
    MeasureInfo(
        "relative_norm",
        "Relative difference",
        "1 = as large as the weight",
        r"\lVert\Delta W_A - \Delta W_B\rVert_F \,/\, \lVert W_0\rVert_F",
        "How much the two updates differ, relative to the weight.",
        "log",
        OURS,
    ),
    MeasureInfo(
        "norm",
        "Difference",
        "Frobenius norm",
        r"\lVert\Delta W_A - \Delta W_B\rVert_F",
        "How much the two updates differ.",
        "log",
        STANDARD,
    ),
    MeasureInfo(
        "share",
        "Share of the difference",
        "over all modules",
        r"\lVert\Delta W\rVert_F^2 \,/\, \textstyle\sum_{\text{modules}} \lVert\Delta W\rVert_F^2,\quad " + _PAIR,
        "One module's share of the squared difference over all modules.",
        "share",
        OURS,
    ),
    *(
        MeasureInfo(
            column,
            f"{name} part",
            "of the module's squared difference",
            rf"{part} \,/\, \lVert\Delta W\rVert_F^2,\quad {_PAIR}",
            f"The part of the difference {where}.",
            "share",
            OURS,
            null=null,
        )
        for column, name, part, where, null in (
            (
                "pp",
                "Principal",
                r"\lVert U_k^\top \Delta W V_k\rVert_F^2",
                "inside the leading singular directions on both sides",
                "k^2/(mn)",
            ),
            (
                "mixed",
                "Mixed",
                r"\bigl(\lVert U_k^\top \Delta W\rVert_F^2 + \lVert\Delta W V_k\rVert_F^2"
                r" - 2\,\lVert U_k^\top \Delta W V_k\rVert_F^2\bigr)",
                "inside the leading singular directions on one side only",
                "k/m + k/n - 2k^2/(mn)",
            ),
            (
                "rr",
                "Residual",
                r"\lVert (I - U_k U_k^\top) \Delta W (I - V_k V_k^\top)\rVert_F^2",
                "outside the leading singular directions on both sides",
                "(1 - k/m)(1 - k/n)",
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
            STANDARD,
            null="0",
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
                "Whether they push the same way inside the leading singular directions; empty if one has no part.",
            ),
            (
                "cosine_rr",
                "Cosine, residual channel",
                "R_A",
                "R_B",
                r",\quad R = (I - U_k U_k^\top) \Delta W (I - V_k V_k^\top)",
                "Whether they push the same way outside the leading singular directions; empty if one has no part.",
            ),
        )
    ),
    *(
        MeasureInfo(
            f"overlap_{side}",
            f"Overlap, {side}",
            "0 = apart, 1 = one holds the other",
            r"\lVert Q_A^\top Q_B\rVert_F^2 \,/\, \min(r_A, r_B),\quad Q\text{: a basis of the " + space + " space}",
            f"How much the spaces overlap that the two updates {verb}.",
            "share",
            OURS,
            null=rf"\max(r_A, r_B) / {size}",
        )
        for side, space, verb, size in (("left", "column", "write into", "m"), ("right", "row", "read from", "n"))
    ),
    MeasureInfo(
        "joint_tightness",
        "Joint tightness",
        "of the sum of both, 1 = budget spent",
        r"\sqrt{\mathrm{cost}(C_A + C_B)} \,/\, \varepsilon",
        "How much of the stability budget the sum of both updates would spend.",
        "budget",
        PAPER,
    ),
)

DIFFERENCES: dict[str, MeasureInfo] = {info.column: info for info in _ALL}
"""`{column of the difference table: its description}`."""
