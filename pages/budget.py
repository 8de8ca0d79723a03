"""The stability budget that each layer spends, and the energy that a hard budget would have cut."""

from functools import partial

import streamlit as st

from hiplora import figures
from hiplora.measures import MEASURES
from hiplora.ui import cards, loading, reallocation, shell
from hiplora.ui.session import EPSILONS
from hiplora.ui.text import plain

session = shell.require()
study = loading.load(session)
st.title("The stability budget")
loading.require_adapters(study)
study = loading.measured(study)
TOGETHER = (
    r"\sqrt{\mathrm{cost}\bigl(\textstyle\sum_{j \le i} C_j\bigr)} \,/\, \varepsilon, \quad"
    r" C_j = U_k^\top \Delta W_j V_k"
)


def set_epsilon() -> None:
    """The sidebar's epsilon and this page's are one."""
    st.session_state["epsilon"] = st.session_state["epsilon-here"]


chart, controls, cut, together, prices = (st.container() for _ in range(5))
with controls:
    left, right = st.columns(2, gap="large")
    st.session_state["epsilon-here"] = session.epsilon
    left.select_slider(
        "Budget ε",
        EPSILONS,
        key="epsilon-here",
        on_change=set_epsilon,
        help="How far an adapter may change the strong directions of a layer: 0.05 = 5 %.",
    )
    power = right.slider(
        "Power p of the weights",
        0.0,
        3.0,
        1.0,
        0.25,
        key="power",
        bind="query-params",
        persist_state="session",
        help="0: all principal directions cost the same; larger: leading ones cost more.",
    )

study = study.at(power=power)
with chart:
    cards.figure_card(
        figures.tightness_by_layer, partial(study.layers), name="tightness", measures=(MEASURES["tightness"],)
    )
with cut:
    cards.figure_card(
        figures.cut_by_layer,
        partial(study.cuts),
        name="cut",
        formula=r"C \mapsto C \cdot \min\bigl(1, \varepsilon / \sqrt{\mathrm{cost}(C)}\bigr), \quad"
        r" C = U_k^\top \Delta W V_k",
    )
    for adapter in study.updates:
        mode = adapter.config.get("budget_mode")
        if mode == "hard":
            budgets = sorted({e for module in adapter.modules if (e := adapter.epsilon(module)) is not None})
            words = f"was trained under a hard budget, ε = {', '.join(map(str, budgets))}."
        elif mode == "soft":
            penalty = adapter.config.get("budget_lambda")
            words = f"was trained with a soft budget (λ = {penalty}): spending costs loss, but is not capped."
        else:
            words = "was trained without a budget, so its tightness is counterfactual and may exceed 1."
        st.caption(f"{plain(adapter.name)} {words}")
with together:
    if len(study.names) > 1:
        cards.figure_card(figures.ledger, partial(study.ledger), name="ledger", formula=TOGETHER)
with prices:
    rows = study.prices()
    priced = [name for name in study.names if (rows["adapter"] == name).any()]
    if priced:
        cards.figure_card(figures.prices_by_module, partial(study.prices), name="prices", formula=reallocation.PRICE)
        st.caption(reallocation.LIMITS)
    if others := [plain(name) for name in study.names if name not in priced]:
        st.caption(
            f"No shadow prices of {', '.join(others)}: they belong to HiP-LoRA's core and are measured while it trains."
        )
    for name in priced:
        reallocation.offer_update(study, name)
    reallocation.show()
