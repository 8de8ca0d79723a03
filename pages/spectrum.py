"""Layers x modules, then one layer, along the singular directions of its weight."""

import streamlit as st

from hiplora import figures
from hiplora.measure_info import MEASURES
from hiplora.measures import direction_table, sweep_table
from hiplora.ui import cards, data, explore, shell
from hiplora.ui.text import plain

session = shell.require()
loaded = data.load(session)
st.title("Layer by layer, direction by direction")
data.require_adapters(loaded)

by_name = {info.name: info for info in MEASURES.values()}
measure = by_name[st.selectbox("Measure", list(by_name), key="measure", bind="query-params", persist_state="session")]
layers = data.layers(loaded, intruders=measure.column == "intruders")
modules = list(dict.fromkeys(layers["module"]))


@shell.fragment
def explorer() -> None:
    """The map and the layer below it: a click repaints no more than this."""
    overview, detail = st.container(), st.container()
    with detail:
        strongest = layers["module"].iloc[int(layers["enrichment"].fillna(0).argmax())]
        module = explore.layer_in_view(modules, strongest, "Layer in view (or click a cell)")
        show_layer(module)
    with overview:
        cards.figure_card(
            figures.layer_map(layers, measure, module),
            name="layer-map",
            table=layers,
            measures=(measure,),
            python=cards.snippet(
                loaded,
                f"layer_map(table, measures.MEASURES[{measure.column!r}])",
                **({"intruders": True} if measure.column == "intruders" else {}),
            ),
            on_select=explore.click_on("layer-map"),
            selection_mode="points",
        )


def show_layer(module: str) -> None:
    """One weight: its singular values, and what each adapter adds along them."""
    weight, k = loaded.base.weights[module], session.k
    st.header(plain(module))
    spectrum = loaded.spectra.get(weight, k)
    st.caption(
        f"{weight.shape[0]} × {weight.shape[1]}, out × in. The principal {k} directions are shaded. Its "
        f"singular triplets leave a residual of {spectrum.residual:.0e} σ₁ ({spectrum.algorithm})."
    )
    directions = data.one_layer(loaded, module, direction_table)
    sweep = data.one_layer(loaded, module, sweep_table)
    plots = (
        (
            "direction_energy",
            directions,
            r"e^L_i = \lVert u_i^\top \Delta W\rVert^2, \quad e^R_i = \lVert \Delta W v_i\rVert^2",
        ),
        (
            "cumulative_energy",
            directions,
            r"\sum_{i \le k} e_i / \lVert\Delta W\rVert_F^2, \text{ by chance } \mathrm{Beta}(k/2, (m-k)/2)"
            r" \text{ per rank-one part}",
        ),
        ("singular_values", directions, r"W_0 = U S V^\top"),
        ("gains", directions, r"c_i = u_i^\top \Delta W v_i, \quad g_i = c_i / s_i"),
        ("sweep", sweep, r"\frac{\lVert U_k^\top \Delta W V_k\rVert^2 / \lVert\Delta W\rVert^2}{k^2/(mn)}"),
    )
    columns = st.columns(2, gap="large")
    for i, (name, table, formula) in enumerate(plots):
        source = "sweep" if name == "sweep" else "directions"
        with columns[i % 2]:
            cards.figure_card(
                getattr(figures, name)(table, k),
                name=name,
                table=table,
                formula=formula,
                python=cards.snippet(loaded, f"{name}(table, k={k})", source=source, module=module),
            )


explorer()
