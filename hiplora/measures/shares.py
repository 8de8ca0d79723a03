"""Shares of an update's energy on the leading singular directions: on both sides, on the left, on the right."""

from hiplora.measure_info import OURS, PAPER
from hiplora.measures.measure import Measure

PRINCIPAL_SHARE = Measure(
    "pp",
    "Principal share",
    "of the energy",
    r"PP = \lVert U_k^\top \Delta W V_k\rVert_F^2 \,/\, \lVert\Delta W\rVert_F^2",
    "The part of the update inside the leading singular directions on both sides; chance puts k²/(mn) there.",
    "share",
    PAPER,
    null="k^2/(mn)",
    value=lambda m: m.channels.share("pp"),
    beside={
        "pr": lambda m: m.channels.share("pr"),
        "rp": lambda m: m.channels.share("rp"),
        "rr": lambda m: m.channels.share("rr"),
        "pp_null": lambda m: m.null.mean,
        "pp_null_sd": lambda m: m.null.sd,
        "pp_null_low": lambda m: m.null.low,
        "pp_null_high": lambda m: m.null.high,
    },
)

LEFT_SHARE = Measure(
    "left_share",
    "Left share",
    "of the energy, on leading output directions",
    r"\lVert U_k^\top \Delta W\rVert_F^2 \,/\, \lVert\Delta W\rVert_F^2",
    "The part of the update that writes into the leading left singular directions; chance puts k/m there.",
    "share",
    OURS,
    null="k/m",
    value=lambda m: m.channels.left_share,
)

RIGHT_SHARE = Measure(
    "right_share",
    "Right share",
    "of the energy, on leading input directions",
    r"\lVert \Delta W V_k\rVert_F^2 \,/\, \lVert\Delta W\rVert_F^2",
    "The part of the update that reads from the leading right singular directions; chance puts k/n there.",
    "share",
    OURS,
    null="k/n",
    value=lambda m: m.channels.right_share,
)
