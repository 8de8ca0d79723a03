"""The base and its adapters, and the finding in one sentence with its figure."""

from functools import partial

import streamlit as st

from hiplora import figures
from hiplora.measures import MEASURES, Judgement, beside_band, glossary, module_table
from hiplora.ui import cards, loading, report, shell, tables
from hiplora.ui.text import plain

COLUMNS = {
    "adapter": "Adapter",
    "method": "Method",
    "task_score": "Task score",
    "retention": "Base skills kept",
    "relative_norm": "Relative norm",
    "enrichment": "Enrichment",
    "band": "Band of chance",
    "pp": "Principal share",
    "max_tightness": "Highest tightness",
    "mean_stable_rank": "Mean stable rank",
    "modules": "Modules",
}

CARDS_IN_A_ROW = 3

session = shell.require()
study = loading.load(session)
st.title("What does this adapter change in its base?")
st.markdown(
    "hiplora shows how much a LoRA adapter changes the directions that its base model relies on most, where in the "
    "network, and what that costs."
)
shell.link("learn", "New here? Start with Learn")
shell.tour()
loading.show_problems(study)


def show_judgement(name: str, judged: Judgement) -> None:
    """Show the verdict on one adapter, what it rests on, and where to go next."""
    with st.container(border=True, height="stretch"):
        st.markdown(f"**{plain(name)}**")
        st.markdown(f"##### {plain(judged.verdict)}")
        st.markdown(
            "  \n".join(f"**{fact}:** {plain(value)}" for fact, value in judged.facts.items()),
            help=cards.meanings([each for each in glossary() if each.name in judged.facts]),
        )
        st.markdown(plain(judged.advice))
        shell.link(judged.page)
        if judged.module:
            shell.link("spectrum", f"Where? {plain(judged.where)}", module=judged.module)


if study.updates:
    study = loading.measured(study)
    judgements = list(study.judgements().items())
    for start in range(0, len(judgements), CARDS_IN_A_ROW):
        row = judgements[start : start + CARDS_IN_A_ROW]
        for column, (name, judged) in zip(st.columns(len(row) if start == 0 else CARDS_IN_A_ROW), row):
            with column:
                show_judgement(name, judged)
    cards.figure_card(
        figures.principal_share,
        partial(study.summary),
        session.k,
        name="principal-share",
        measures=(MEASURES["pp"], MEASURES["enrichment"]),
    )
elif not study.strangers:
    st.info("Choose an adapter in the sidebar to see what it does to this base.", icon=":material/arrow_back:")

if study.updates:
    scored = study.summary()
    scored["band"] = [" to ".join(beside_band(row)[1:]) for _, row in scored.iterrows()]
    scored = scored.dropna(axis="columns", how="all")
    shown = {column: title for column, title in COLUMNS.items() if column in scored}
    if study.calibration is not None:
        shown["relative_norm"] = "Relative effect"
    tables.show(scored, shown, "The numbers of each adapter.")
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
    known = table.dropna(axis="columns", how="all")
    tables.show(known, {column: column.replace("_", " ").capitalize() for column in known}, "Its modules.")
