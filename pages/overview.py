"""What is loaded, and the finding in one sentence with the one plot that shows it."""

import pandas as pd
import streamlit as st

from hiplora import figures
from hiplora.measures import notes_on, summary_table
from hiplora.measures.alone import adapter_table
from hiplora.catalog import MEASURES
from hiplora.ui import cards, data, shell

session = shell.require()
loaded = data.load(session)
base = loaded.base

st.title("Where an adapter puts its energy")
data.show_problems(loaded)

if loaded.adapters:
    layers = data.layers(loaded)
    summary = summary_table(layers)
    cards.figure_card(
        figures.principal_share(summary, session.k),
        name="principal-share",
        table=summary,
        measures=(MEASURES["pp"], MEASURES["enrichment"]),
        python=cards.snippet(loaded, f"principal_share(measures.summary_table(table), k={session.k})"),
    )
elif not loaded.strangers:
    st.info("Choose an adapter in the sidebar to see what it does to this base.", icon=":material/arrow_back:")

st.subheader("What is loaded")
maps = [base.weights[name] for name in base.linear_maps]
with st.container(horizontal=True):
    st.metric("Base model", base.name, border=True)
    st.metric("Linear maps", f"{len(maps):,}", border=True)
    st.metric("Weights in them", f"{sum(w.shape[0] * w.shape[1] for w in maps) / 1e6:,.2f} M", border=True)
    st.metric("Principal rank k", session.k, border=True)

if loaded.adapters:
    st.dataframe(
        summary[
            [
                "adapter",
                "method",
                "modules",
                "relative_norm",
                "pp",
                "pp_null",
                "enrichment",
                "max_tightness",
                "mean_stable_rank",
            ]
        ],
        hide_index=True,
        column_config={
            "adapter": st.column_config.TextColumn("Adapter"),
            "method": st.column_config.TextColumn("Method"),
            "modules": st.column_config.NumberColumn("Modules"),
            "relative_norm": st.column_config.NumberColumn("Relative norm", format="%.3g"),
            "pp": st.column_config.NumberColumn("Principal share", format="%.3g"),
            "pp_null": st.column_config.NumberColumn("By chance", format="%.3g"),
            "enrichment": st.column_config.NumberColumn("Enrichment", format="%.3g"),
            "max_tightness": st.column_config.NumberColumn("Highest tightness", format="%.3g"),
            "mean_stable_rank": st.column_config.NumberColumn("Mean stable rank", format="%.3g"),
        },
    )
    st.caption(
        "These measures describe geometry. Whether geometry or mere size predicts forgetting is contested; only a "
        "measured score is forgetting."
    )
    for adapter in loaded.adapters:
        for note in notes_on(base, adapter, layers, session.k):
            st.warning(f"{adapter.name}: {note}", icon=":material/info:")

for adapter, reason in loaded.strangers:
    st.subheader(f"{adapter.name}, without its base")
    st.warning(reason, icon=":material/link_off:")
    st.caption("Its own ranks and norms need no base; where its energy lies along the weights' directions does.")
    alone: pd.DataFrame = adapter_table(adapter)
    st.dataframe(alone.drop(columns=["adapter"]), hide_index=True)
