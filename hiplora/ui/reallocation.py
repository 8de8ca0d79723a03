"""Budgets moved by shadow prices: kept for the next run, shown and reset."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd
import streamlit as st

from hiplora import figures
from hiplora.errors import HiploraError
from hiplora.paths import RUN_FILE
from hiplora.study import Study
from hiplora.training import Run
from hiplora.training.prices import price_table
from hiplora.ui import cards, shell
from hiplora.ui.text import plain

_KEY = "reallocation"
PRICE = r"\text{price}_l = -\frac{\langle \partial L / \partial C_l,\, C_l\rangle}{2\,\mathrm{cost}(C_l)}"
"""METHOD.md section 3; our choice."""
_RULE = (
    r"\varepsilon_l' \propto \text{price}_l \cdot \text{tightness}_l \cdot \varepsilon_l, \quad "
    r"\textstyle\sum_l \varepsilon_l'^2 = \sum_l \varepsilon_l^2, \quad "
    r"\tfrac12 \le \varepsilon_l'/\varepsilon_l \le 2"
)
LIMITS = (
    "Shadow prices are this project's addition: they show where more budget would have lowered the loss when they were "
    "measured. Under a soft budget every price tends to λ / number of adapted modules as training comes to rest, so "
    "differences fade."
)


@dataclass(frozen=True)
class Reallocation:
    """Budgets for the next run.

    Attributes:
        source: the run or adapter whose prices moved them.
        base: the base they belong to.
        call: makes the table: `module, layer, kind, epsilon, new_epsilon`, among others.
        pattern: `{module: epsilon}`.
    """

    source: str
    base: str
    call: "partial[pd.DataFrame]"
    pattern: dict[str, float]


def kept() -> Reallocation | None:
    """Return the moved budgets for the next run, if any."""
    found: Reallocation | None = st.session_state.get(_KEY)
    return found


def offer_run(run: Run) -> None:
    """Show the button to move the budgets of a run by its prices.

    Raises:
        HiploraError: the run does not have prices.
    """
    _offer(run.name, run.config.base, partial(price_table, run))


def offer_update(study: Study, name: str) -> None:
    """Show the button to move the budgets of an update by the prices on its card.

    Args:
        study: with the update.
        name: of the update.
    """
    source = Path(study[name].source)
    try:
        if (source / RUN_FILE).is_file():
            offer_run(Run(source))
        else:
            _offer(name, study.source, partial(study.reallocated, name))
    except HiploraError as error:
        st.caption(plain(str(error)))


def _offer(source: str, base: str, call: "partial[pd.DataFrame]") -> None:
    table = call()
    found = kept()
    if st.button(
        f"Reallocate ε by the prices of {plain(source)}",
        icon=":material/balance:",
        key=f"reallocate-{source}",
        disabled=found is not None and found.source == source,
        help="Move the budget towards the layers that would gain most from it, under the same total, for the next run.",
    ):
        pattern = dict(zip(table["module"], table["new_epsilon"]))
        st.session_state[_KEY] = Reallocation(source, base, call, pattern)
        st.rerun()


def show() -> None:
    """Show the budgets of the next run, old against new, with a button to reset them."""
    found = kept()
    if found is None:
        return
    cards.figure_card(figures.reallocated_budgets, found.call, name="reallocated", formula=_RULE)
    st.caption(
        "Our choice: the split that lowers the loss most if the loss falls linearly with the size of each core; no "
        "budget more than doubles or halves at once. The next HiP-LoRA run on the Train page uses it, under New run."
    )
    shell.link("train", "Train")
    drop_button("drop-below")


def drop_button(key: str) -> None:
    """Show the button to forget the moved budgets."""
    st.button("Reset to a single ε", key=key, icon=":material/undo:", on_click=drop)


def follow(old: Run, new: Run | None) -> None:
    """Keep the moved budgets of a run that got another name; forget those of one that is gone."""
    found = kept()
    if found is None or found.source != old.name:
        return
    if new is None:
        drop()
    else:
        st.session_state[_KEY] = replace(found, source=new.name, call=partial(price_table, new))


def drop() -> None:
    """Forget the moved budgets."""
    st.session_state.pop(_KEY, None)
