"""Layers x modules, then one layer, along the singular directions of its weight."""

from functools import partial

import streamlit as st

from hiplora import figures
from hiplora.measures import MEASURES, split_expert
from hiplora.ui import cards, explore, loading, shell
from hiplora.ui.text import plain

session = shell.require()
study = loading.load(session)
st.title("Layer by layer, direction by direction")
loading.require_adapters(study)

by_name = {info.name: info for info in MEASURES.values()}
chosen = st.selectbox(
    "Measure",
    list(by_name),
    key="measure",
    bind="query-params",
    persist_state="session",
    help=cards.meanings(by_name.values()),
)
measure = by_name[chosen]
optional = [measure.column] if measure.optional else []
study = loading.measured(study, optional=optional)
layers = study.layers(optional=optional)
modules = list(dict.fromkeys(layers["module"]))
experts = explore.strongest_experts(layers, "norm")
# Without experts the program below the map stays the shorter one.
choices = ({"optional": optional} if optional else {}) | ({"sum_experts": True} if experts else {})


@shell.fragment
def explorer() -> None:
    """Show the map and the layer below it: a click repaints only this part."""
    overview, detail = st.container(), st.container()
    with detail:
        strongest = layers["module"].iloc[int(layers["enrichment"].fillna(0).argmax())]
        module = explore.layer_in_view(modules, strongest, "Layer in view (or click a cell)")
        show_layer(module)
    with overview:
        cards.figure_card(
            figures.layer_map,
            partial(study.layers, **choices),
            measure,
            split_expert(module)[0],
            name="layer-map",
            measures=(measure,),
            on_select=explore.click_on("layer-map", experts),
            selection_mode="points",
        )


def show_layer(module: str) -> None:
    """Show one weight: its singular values, and each adapter's update along them."""
    st.header(plain(module))
    spectrum, k = study.spectrum(module), study.principal_rank(module)
    st.caption(
        f"{spectrum.shape[0]} × {spectrum.shape[1]}, out × in. The principal {k} directions are shaded.",
        help=f"The SVD is accurate to {spectrum.residual:.0e} of σ₁ ({spectrum.algorithm}).",
    )
    directions, sweep = partial(study.directions, module), partial(study.sweep, module)
    plots = (
        (
            figures.direction_energy,
            directions,
            r"e^L_i = \lVert u_i^\top \Delta W\rVert^2, \quad e^R_i = \lVert \Delta W v_i\rVert^2",
        ),
        (
            figures.cumulative_energy,
            directions,
            r"\sum_{i \le k} e_i / \lVert\Delta W\rVert_F^2, \text{ by chance } \mathrm{Beta}(k/2, (m-k)/2)"
            r" \text{ per rank-one part}",
        ),
        (figures.singular_values, directions, r"W_0 = U S V^\top"),
        (figures.gains, directions, r"c_i = u_i^\top \Delta W v_i, \quad g_i = c_i / s_i"),
        (
            figures.sweep,
            sweep,
            r"\frac{\lVert U_k^\top \Delta W V_k\rVert^2 / \lVert\Delta W\rVert^2}{k^2/(mn)}",
        ),
    )
    columns = st.columns(2, gap="large")
    for i, (draw, table, formula) in enumerate(plots):
        with columns[i % 2]:
            cards.figure_card(draw, table, k, name=draw.__name__, formula=formula)


explorer()
