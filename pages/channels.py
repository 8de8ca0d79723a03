"""The two channels per layer, and the four blocks."""

from functools import partial

import streamlit as st

from hiplora import figures
from hiplora.ui import cards, loading, shell

ALL = "all kinds together"
BLOCKS = r"""\begin{aligned}
PP &= \lVert U_k^\top \Delta W V_k\rVert_F^2, & PR &= \lVert U_k^\top \Delta W (I - V_k V_k^\top)\rVert_F^2,\\
RP &= \lVert (I - U_k U_k^\top) \Delta W V_k\rVert_F^2, & RR &= \lVert\Delta W\rVert_F^2 - PP - PR - RP
\end{aligned}"""

session = shell.require()
study = loading.load(session)
st.title("Principal and residual channel")
loading.require_adapters(study)
study = loading.measured(study)

layers = study.layers()
numbered = layers[layers["layer"].notna()]
if numbered.empty:
    st.info("None of the changed modules is in a numbered layer, so only their sum is shown.")
else:
    chosen = st.selectbox(
        "Modules in the first figure", [ALL, *dict.fromkeys(numbered["kind"])], key="kind", bind="query-params",
        persist_state="session",
    )  # fmt: skip
    kind = None if chosen == ALL else chosen
    cards.figure_card(figures.channel_norms, partial(study.channels, kind), kind, name="channel-norms", formula=BLOCKS)

cards.figure_card(figures.channel_blocks, partial(study.summary), name="channel-blocks", formula=BLOCKS)
st.caption(
    "HiP-LoRA (paper) trains two channels: one inside the leading singular subspace on both sides (PP), one in the "
    "complement of both (RR). A plain LoRA also fills the two mixed blocks. The split at k is a choice; Spectrum shows "
    "it for every k."
)
