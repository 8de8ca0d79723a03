"""The share of the stability budget that an update spends."""

from hiplora.budget import tightness
from hiplora.measure_info import PAPER
from hiplora.measures.measure import Measure

TIGHTNESS = Measure(
    "tightness",
    "Tightness",
    "1 = budget spent",
    r"\frac{1}{\varepsilon}\sqrt{\frac{\sum_{ij} w_i w_j C_{ij}^2}{\sum_i (w_i s_i)^2}},\quad"
    r" w_i = (s_i/s_1)^p,\; C = U_k^\top \Delta W V_k",
    "How much of the stability budget the change of the principal core spends; above 1 a hard budget would cut it.",
    "budget",
    PAPER,
    value=lambda m: tightness(m.cost, m.epsilon),
    beside={"cost": lambda m: m.cost, "epsilon": lambda m: m.epsilon},
)
