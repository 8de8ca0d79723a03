"""The base and its adapters, and the finding in one sentence with its figure."""

from functools import partial

import streamlit as st

from hiplora import figures
from hiplora.measures import MEASURES, module_table
from hiplora.printable import for_spreadsheet
from hiplora.ui import cards, loading, report, shell
from hiplora.ui.text import plain

COLUMNS = {
    "adapter": "Adapter",
    "method": "Method",
    "task_score": "Task score",
    "retention": "Base skills kept",
    "relative_norm": "Relative norm",
    "pp": "Principal share",
    "pp_null": "By chance",
    "enrichment": "Enrichment",
    "max_tightness": "Highest tightness",
    "mean_stable_rank": "Mean stable rank",
    "modules": "Modules",
}

session = shell.require()
study = loading.load(session)
base = study.base
st.title("Where does this adapter change the base?")
loading.show_problems(study)

if study.updates:
    study = loading.measured(study)
    cards.figure_card(
        figures.principal_share,
        partial(study.summary),
        session.k,
        name="principal-share",
        measures=(MEASURES["pp"], MEASURES["enrichment"]),
    )
    for name, judged in study.judgements().items():
        words, next_page, why = st.columns([6, 1.2, 1], vertical_alignment="center")
        words.markdown(f"**{plain(name)}.** {plain(judged.verdict)} {plain(judged.advice)}")
        with next_page:
            shell.link(judged.page)
        with why.popover("Why", icon=":material/help:"):
            st.markdown(plain(judged.reason))
elif not study.strangers:
    st.info("Choose an adapter in the sidebar to see what it does to this base.", icon=":material/arrow_back:")

st.subheader("This base and these adapters")
maps = [base.weights[name] for name in base.linear_maps]
with st.container(horizontal=True):
    st.metric("Base model", base.name, border=True)
    st.metric("Linear maps", f"{len(maps):,}", border=True)
    st.metric("Weights in them", f"{sum(w.shape[0] * w.shape[1] for w in maps) / 1e6:,.2f} M", border=True)
    st.metric("Principal rank k", session.k, border=True)

if study.updates:
    scored = study.summary().dropna(axis="columns", how="all")
    shown = {column: title for column, title in COLUMNS.items() if column in scored}
    if study.calibration is not None:
        shown["relative_norm"] = "Relative effect"
    st.dataframe(
        for_spreadsheet(scored[list(shown)].rename(columns=shown)),
        hide_index=True,
        column_config={
            title: st.column_config.NumberColumn(format="%.3g")
            for column, title in shown.items()
            if column not in ("adapter", "method", "modules")
        },
    )
    st.caption(
        "Norms, shares and tightness describe geometry. Whether geometry or size alone predicts forgetting is "
        "contested; only a drop in test scores proves forgetting. Adapters trained with hiplora also show their test "
        "scores here."
    )
    for name, caveats in study.caveats.items():
        for caveat in caveats:
            st.warning(plain(f"{name}: {caveat}"), icon=":material/info:")
    report.offer(study)

for update, reason in study.strangers:
    st.subheader(plain(f"{update.name}, without its base"))
    st.warning(plain(reason), icon=":material/link_off:")
    st.caption("Ranks and norms need no base model; the position of the energy does.")
    table = module_table(update).drop(columns=["adapter", "method"])
    st.dataframe(for_spreadsheet(table.dropna(axis="columns", how="all")), hide_index=True)
