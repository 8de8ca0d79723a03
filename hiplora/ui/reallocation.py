"""Budgets moved by shadow prices: kept for the next run, shown, and dropped again."""

import math
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from hiplora import figures
from hiplora.adapters import Adapter
from hiplora.budget import reallocate
from hiplora.errors import HiploraError
from hiplora.measures import Measurement, layer_table
from hiplora.paths import RUN_FILE
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
    "Prices are our choice; they tell where the loss pulled when they were measured. Under a soft budget every price "
    "tends to λ / number of adapted modules as training comes to rest, so what they tell apart fades."
)


@dataclass(frozen=True)
class Reallocation:
    """Budgets for the next run.

    Attributes:
        source: the run or adapter whose prices moved them.
        base: that they belong to.
        table: `module, layer, kind, epsilon, new_epsilon`, among others.
        python: that makes the table and its figure anew.
    """

    source: str
    base: str
    table: pd.DataFrame
    python: str

    @property
    def pattern(self) -> dict[str, float]:
        """`{module: epsilon}`."""
        return dict(zip(self.table["module"], self.table["new_epsilon"]))


def kept() -> Reallocation | None:
    """Return what the next run is to use, if anything."""
    found: Reallocation | None = st.session_state.get(_KEY)
    return found


def price_rows(adapters: list[Adapter], measurements: list[Measurement]) -> pd.DataFrame:
    """Return the shadow prices that adapters have on their cards, in the order of their layers.

    Columns: those of the layer table under each adapter's own budget, and `shadow_price`.
    """
    parts = []
    for adapter in adapters:
        prices = _prices(adapter)
        if prices:
            power = float(adapter.config.get("budget_power", 1.0))
            rows = layer_table([m for m in measurements if m.adapter == adapter.name], power=power)
            parts.append(rows.assign(shadow_price=rows["module"].map(prices)).dropna(subset=["shadow_price"]))
    if not parts:
        return pd.DataFrame(columns=["adapter", "module", "layer", "kind", "tightness", "epsilon", "shadow_price"])
    # Adapters without prices keep their place among the colours.
    order = pd.CategoricalDtype([adapter.name for adapter in adapters])
    return pd.concat(parts, ignore_index=True).astype({"adapter": order})


def _prices(adapter: Adapter) -> dict[str, float]:
    try:
        found = adapter.card.get("shadow_prices")
    except HiploraError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        module: float(price)
        for module, price in found.items()
        if isinstance(price, (int, float)) and math.isfinite(price)
    }


def snippet(base: str, adapters: list[Adapter], k: int) -> str:
    """Return the Python that draws the prices of adapters anew."""
    power = adapters[0].config.get("budget_power", 1.0)
    return (
        "from hiplora import analyze, figures\n"
        "from hiplora.adapters import read_adapters\n"
        f"paths = {[str(adapter.home) for adapter in adapters]!r}\n"
        "cards = {adapter.name: adapter.card for adapter in read_adapters(paths)}\n"
        f"table = analyze({base!r}, paths, k={k}, power={power})\n"
        "rows = zip(table['adapter'], table['module'])\n"
        "table['shadow_price'] = [cards[name]['shadow_prices'].get(module) for name, module in rows]\n"
        "figures.prices_by_module(table).show()"
    )


def offer_run(run: Run) -> None:
    """Show the button that moves the budgets of a run by its prices."""
    python = (
        "from hiplora import figures\n"
        "from hiplora.training import Run\n"
        "from hiplora.training.prices import price_table\n"
        f"figures.reallocated_budgets(price_table(Run({str(run.path)!r}))).show()"
    )
    _offer(Reallocation(run.name, run.config.base, price_table(run), python))


def offer_adapter(adapter: Adapter, base: str, rows: pd.DataFrame, k: int) -> None:
    """Show the button that moves the budgets of an adapter by the prices on its card.

    Args:
        adapter: with prices.
        base: as the session has it.
        rows: of this adapter, from `price_rows`.
        k: that its tightness was measured at.
    """
    if (adapter.home / RUN_FILE).is_file():
        offer_run(Run(adapter.home))
        return
    own = {adapter.principal_rank(module) for module in rows["module"]}
    if own != {k}:
        ranks = ", ".join(str(rank) for rank in sorted(rank for rank in own if rank))
        st.caption(f"Set k to {ranks}, that of {plain(adapter.name)}, to move its budgets.")
        return
    by_module = rows.set_index("module")[["epsilon", "shadow_price", "tightness"]].to_dict()
    new = reallocate(by_module["epsilon"], by_module["shadow_price"], by_module["tightness"])
    python = (
        snippet(base, [adapter], k).rpartition("\n")[0] + "\n"
        "from hiplora.budget import reallocate\n"
        "columns = table.set_index('module')\n"
        "new = reallocate(columns['epsilon'], columns['shadow_price'], columns['tightness'])\n"
        "figures.reallocated_budgets(table.assign(new_epsilon=table['module'].map(new))).show()"
    )
    _offer(Reallocation(adapter.name, base, rows.assign(new_epsilon=rows["module"].map(new)), python))


def _offer(moved: Reallocation) -> None:
    found, source = kept(), moved.source
    used = found is not None and found.source == source
    if st.button(
        f"Re-allocate ε by the prices of {plain(source)}",
        icon=":material/balance:",
        key=f"reallocate-{source}",
        disabled=used,
        help="Move the budget towards the layers that would gain most from it, under the same total, for the next run.",
    ):
        st.session_state[_KEY] = moved
        st.rerun()


def show() -> None:
    """Show the budgets that the next run will use, old against new, with a way to drop them."""
    found = kept()
    if found is None:
        return
    cards.figure_card(
        figures.reallocated_budgets(found.table),
        name="reallocated",
        table=found.table,
        formula=_RULE,
        python=found.python,
    )
    st.caption(
        "Our choice: the split that lowers the loss most if the loss falls linearly with the size of each core; no "
        "budget more than doubles or halves at once. The next HiP-LoRA run on the Train page uses it, under New run."
    )
    shell.link("train", "Train")
    drop_button("drop-below")


def drop_button(key: str) -> None:
    """Show the button that forgets the moved budgets."""
    st.button("Drop it: one ε for all layers", key=key, icon=":material/undo:", on_click=drop)


def drop() -> None:
    """Forget the moved budgets."""
    st.session_state.pop(_KEY, None)
