"""What each block of an adapter causes, beside its control, and an edit of one's own to score and take away."""

import io
import shlex
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from hiplora import figures
from hiplora.adapters import Gains, place, save_lora
from hiplora.demo.ablation import AS_TRAINED, edits, indicator_table, removals
from hiplora.demo.repair import BLOCKS as BLOCKED
from hiplora.demo.repair import count
from hiplora.paths import demo_base
from hiplora.study import REPAIR_BUDGETS, Study
from hiplora.ui import cards, loading, shell
from hiplora.ui.text import plain

EDIT = "your edit"
INDICATORS = {
    "energy_share": "Share of the update's energy",
    "principal_share": "Share of its principal energy",
    "relative_norm": "Norm relative to its weights",
    "enrichment": "Enrichment",
    "tightness": "Highest tightness",
}
BLOCKS = {
    "pp": "PP: principal to principal",
    "pr": "PR: residual inputs, principal outputs",
    "rp": "RP: principal inputs, residual outputs",
    "rr": "RR: the rest",
}
FORMULA = (
    r"\Delta W' = g_{pp}\,P\,\Delta W\,Q + g_{pr}\,P\,\Delta W\,(I-Q) + g_{rp}\,(I-P)\,\Delta W\,Q"
    r" + g_{rr}\,(I-P)\,\Delta W\,(I-Q), \quad P = U_k U_k^\top,\; Q = V_k V_k^\top"
)


def scored(study: Study, name: str, size: int, chosen: dict[str, Gains], label: str) -> pd.DataFrame | None:
    """Return the scores of edits, computed in the background once they are asked for; None before that."""
    return loading.background_table(
        ("ablation", study.base.identity, study[name].identity, study.k, study.seen_as, size, tuple(chosen.items())),
        partial(study.ablate, name, size, chosen=chosen),
        lambda: len(chosen),
        label,
    )


def show_scores(
    table: pd.DataFrame | None,
    draw: Callable[[pd.DataFrame], go.Figure],
    made_by: "partial[pd.DataFrame]",
    *,
    name: str,
) -> None:
    """Show the figure of scores once they are there.

    Args:
        table: of scores; None before they are computed.
        draw: the figure.
        made_by: the call that computes the table again.
        name: of the figure.
    """
    if table is not None:
        cards.figure_card(draw, made_by, name=name, formula=FORMULA, compute=lambda _: table)


def saved(study: Study, name: str, gains: Gains) -> bytes:
    """Return an edit as a zip of an ordinary LoRA folder."""
    content = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(content, "w") as packed:
        out = Path(folder) / "edited"
        save_lora(place(study.base, study.edit(name, gains)), out)
        for file in sorted(out.iterdir()):
            packed.write(file, f"{name.replace('/', '-')}-edited/{file.name}")
    return content.getvalue()


def set_sliders(gains: dict[str, float]) -> None:
    """Put the sliders below to the gains of an edit."""
    for block in BLOCKS:
        st.session_state[f"gain-{block}"] = round(gains[block], 2)


session = shell.require()
study = loading.load(session)
st.title("What each block causes")
loading.require_adapters(study)
study = loading.measured(study)
name = st.selectbox("Adapter", study.names, key="effect-adapter")
exact = study.base.path.resolve() == demo_base().resolve()

if not exact:
    st.info(
        "Exact scores belong to the demo world. On this base an edit can be saved below, and scored by your own "
        "evaluation.",
        icon=":material/info:",
    )
else:
    size = st.select_slider(
        "Examples per skill", [40, 100, 200, 400], 200, key="effect-size", help="More are surer, and take longer."
    )
    show_scores(
        scored(study, name, size, edits(), "Score the four blocks"),
        figures.block_effects,
        partial(study.ablation, name, size),
        name="block-effects",
    )

    st.subheader("One part at a time")
    layers, parts = study.layers(), ["layer", "kind", "module"]
    by = st.segmented_control("Remove each", parts, default="kind", required=True, key="effect-parts")
    removed = loading.background_table(
        ("parts", study.base.identity, study[name].identity, study.k, study.seen_as, session.epsilon, size, by),
        partial(study.ablate_parts, name, by, size),
        lambda: len(removals(layers[layers["adapter"] == name], by)),
        f"Remove each {by}",
    )
    show_scores(removed, figures.block_effects, partial(study.part_ablation, name, by, size), name="part-effects")
    if removed is not None:
        st.markdown("**Was an indicator right?** Rank correlation of each with what removing the part gives back.")
        told = indicator_table(removed)
        st.dataframe(
            told.assign(indicator=told["indicator"].map(INDICATORS)).rename(
                columns={
                    "indicator": "Indicator",
                    "rank_correlation": "Rank correlation",
                    "low": "95 % from",
                    "high": "to",
                    "parts": "Parts",
                }
            ),
            hide_index=True,
            column_config={
                title: st.column_config.NumberColumn(format="%.2f") for title in ("Rank correlation", "95 % from", "to")
            },
        )

    st.subheader("Keep the task, save the base")
    st.caption(
        "Tries edits by block, and their peers: scaling, a lower rank, budgets, PEFT's mitigation of intruder "
        "dimensions. Half of the examples choose the best setting of each; the other half says what it is worth."
    )
    repairs = loading.background_table(
        ("repair", study.base.identity, study[name].identity, study.k, study.seen_as, size),
        partial(study.search_repair, name, size),
        lambda: count(next(each for each in study.placements if each.update.name == name), len(REPAIR_BUDGETS)),
        "Search the best edit",
    )
    show_scores(repairs, figures.repair_outcomes, partial(study.repair, name, size), name="repair-outcomes")
    if repairs is not None:
        best = repairs[repairs["chosen"] & (repairs["way"] == BLOCKED)]
        for row in best.to_dict("records"):
            with st.container(horizontal=True):
                st.metric("Healed", f"{row['healed']:.0%}", border=True, help="Of the base's answers that it broke.")
                st.metric("Base skills kept", f"{row['retention']:.1%}", border=True)
                st.metric(
                    "Damaged", f"{row['damaged']:.1%}", border=True, help="Of the base's answers it had left right."
                )
                st.metric("Task score", f"{row['task_score']:.1%}", border=True)
            st.button("Set the sliders to this edit", on_click=set_sliders, args=(row,), icon=":material/tune:")
        if best.empty:
            st.info("No edit by block keeps the task on the examples that choose.", icon=":material/info:")

st.subheader("Edit it")
st.caption(
    "A gain for each block: 1 leaves it, 0 takes it away. The edit is exact, and an ordinary LoRA of at most twice the "
    "rank."
)
columns = st.columns(4)
gains = Gains(
    **{
        block: column.slider(label, 0.0, 1.5, 0.0 if block == "pp" else 1.0, 0.05, key=f"gain-{block}")
        for column, (block, label) in zip(columns, BLOCKS.items(), strict=True)
    }
)
if exact and gains != Gains():
    table = scored(study, name, size, {AS_TRAINED: Gains(), EDIT: gains}, "Score this edit")
    if table is not None:
        trained, own = table.iloc[0], table.iloc[1]
        with st.container(horizontal=True):
            for title, value, control, before in (
                ("Base skills kept", "retention", "control_retention", trained["retention"]),
                ("Task score", "task_score", "control_task_score", trained["task_score"]),
            ):
                points = f"{100 * (own[value] - before):+.1f} points beside as trained"
                st.metric(title, f"{own[value]:.1%}", points, border=True)
                st.metric(f"{title}: control", f"{own[control]:.1%}", border=True)
            st.metric("Norm", f"{own['norm']:.2f} x", border=True)
        st.caption(
            "The control is the whole update scaled to the same norm. Beside it the edit keeps "
            f"{100 * own['gain']:+.1f} points of the base (95 % interval over examples: "
            f"{100 * own['gain_low']:+.1f} to {100 * own['gain_high']:+.1f})."
        )
for caveat in study.edit(name, gains).caveats:
    st.caption(plain(caveat))
st.download_button(
    "Save as LoRA",
    lambda: saved(study, name, gains),
    f"{name.replace('/', '-')}-edited.zip",
    "application/zip",
    icon=":material/download:",
    on_click="ignore",
    help="A zip of adapter_config.json and adapter_model.safetensors, which PEFT loads.",
)
options = " ".join(f"--{block} {value:g}" for block, value in vars(gains).items() if value != 1)
if session.geometry == "inputs":
    options += " --geometry inputs" + (f" --text {shlex.quote(session.text)}" if session.text else "")
which = f"{shlex.quote(study[name].source or name)} --base {shlex.quote(study.source)} --k {study.k}"
st.code(f"hiplora edit {which} {options} --out edited", language="bash")
