"""The two channels per layer, and the four blocks."""

import streamlit as st

from hiplora import figures
from hiplora.measures import channel_table, summary_table
from hiplora.ui import cards, data, shell

ALL = "all kinds together"
BLOCKS = r"""\begin{aligned}
PP &= \lVert U_k^\top \Delta W V_k\rVert_F^2, & PR &= \lVert U_k^\top \Delta W (I - V_k V_k^\top)\rVert_F^2,\\
RP &= \lVert (I - U_k U_k^\top) \Delta W V_k\rVert_F^2, & RR &= \lVert\Delta W\rVert_F^2 - PP - PR - RP
\end{aligned}"""

session = shell.require()
loaded = data.load(session)
st.title("Principal and residual channel")
data.require_adapters(loaded)

layers = data.layers(loaded)
numbered = layers[layers["layer"].notna()]
if numbered.empty:
    st.info("None of the changed modules stands in a numbered layer: only their sum is shown.")
else:
    chosen = st.selectbox(
        "Modules in the first figure", [ALL, *dict.fromkeys(numbered["kind"])], key="kind", bind="query-params",
        persist_state="session",
    )  # fmt: skip
    kind = None if chosen == ALL else chosen
    norms = channel_table(layers, kind)
    cards.figure_card(
        figures.channel_norms(norms, kind),
        name="channel-norms",
        table=norms,
        formula=BLOCKS,
        python=cards.snippet(loaded, f"channel_norms(measures.channel_table(table, {kind!r}), {kind!r})"),
    )

summary = summary_table(layers)
cards.figure_card(
    figures.channel_blocks(summary),
    name="channel-blocks",
    table=summary,
    formula=BLOCKS,
    python=cards.snippet(loaded, "channel_blocks(measures.summary_table(table))"),
)
st.caption(
    "HiP-LoRA (paper) trains two channels: one inside the leading singular subspace on both sides (PP), one in the "
    "complement of both (RR). A plain LoRA also fills the two mixed blocks. The split at k is a choice; Spectrum shows "
    "it for every k."
)
