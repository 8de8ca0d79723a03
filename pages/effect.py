"""What each block of an adapter causes, beside its control, and an edit of one's own to score and take away."""

import shlex
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from hiplora import figures
from hiplora.adapters import Gains, place, save_lora
from hiplora.effects import AS_TRAINED, Scores, count, edits, indicator_table, removals
from hiplora.effects import BLOCKS as BLOCKED
from hiplora.errors import HiploraError
from hiplora.study import REPAIR_BUDGETS, Study
from hiplora.ui import cards, loading, scoring, shell, tables
from hiplora.ui.archive import zip_of
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


def ask_for_scores(study: Study) -> Scores | None:
    """Ask how edits are scored: exactly on the demo world, else by loss on two texts; None before there is one."""
    if scoring.is_exact(study):
        return scoring.ask_exact("effect-size", 200)
    left, middle, right = st.columns([2, 2, 1])
    task = scoring.ask_task_text(left, "Text of the task", "task-text", "query-params")
    kept = scoring.ask_kept_text(middle)
    tokens = scoring.ask_tokens(right, "effect-tokens", 2048)
    if not task:
        st.info(
            "Name a text file of the task, and edits are scored by their loss on it, and on a text of what should be "
            "kept.",
            icon=":material/text_snippet:",
        )
        return None
    try:
        return loading.text_losses(task, kept, tokens)
    except HiploraError as error:
        st.error(plain(str(error)), icon=":material/error:")
        return None


def key_of(study: Study, name: str, scores: Scores) -> tuple[Hashable, ...]:
    """Return a key of what is scored, and how."""
    return study.base.identity, study[name].identity, study.k, study.seen_as, scores.identity


def scored(study: Study, name: str, scores: Scores, chosen: dict[str, Gains], label: str) -> pd.DataFrame | None:
    """Return the scores of edits, computed in the background once they are asked for; None before that."""
    return loading.background_table(
        ("ablation", *key_of(study, name, scores), tuple(chosen.items())),
        partial(study.ablate, name, scores, chosen=chosen),
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
    edited = place(study.base, study.edit(name, gains))
    return zip_of(partial(save_lora, edited), f"{name}-edited")


def set_sliders(gains: dict[str, float]) -> None:
    """Put the sliders below to the gains of an edit."""
    for block in BLOCKS:
        st.session_state[f"gain-{block}"] = round(gains[block], 2)


def show_repaired(row: dict[Hashable, Any]) -> None:
    """Show what the best edit keeps, on the half that chose nothing."""
    losses = "kept_loss" in row
    with st.container(horizontal=True):
        if losses:
            st.metric(
                "Healed",
                f"{row['healed']:.0%}",
                border=True,
                help="Of the loss that it added to the kept text's windows.",
            )
            st.metric("Loss on what is kept", f"{row['kept_loss']:.3f} nats", border=True)
            st.metric(
                "Damaged",
                f"{row['damaged']:.4f} nats",
                border=True,
                help="A token: by how much windows are worse than with the base and with the adapter.",
            )
            st.metric("Loss on the task", f"{row['task_loss']:.3f} nats", border=True)
        else:
            st.metric("Healed", f"{row['healed']:.0%}", border=True, help="Of the base's answers that it broke.")
            st.metric("Base skills kept", f"{row['retention']:.1%}", border=True)
            st.metric("Damaged", f"{row['damaged']:.1%}", border=True, help="Of the base's answers it had left right.")
            st.metric("Task score", f"{row['task_score']:.1%}", border=True)


def show_edit(trained: "pd.Series[Any]", own: "pd.Series[Any]") -> None:
    """Show what an edit keeps, beside the update as trained and beside its control."""
    losses = "kept_loss" in own
    kept, task = ("kept_loss", "task_loss") if losses else ("retention", "task_score")
    titles = ("Loss on what is kept", "Loss on the task") if losses else ("Base skills kept", "Task score")

    def words(value: float) -> str:
        return f"{value:.3f} nats" if losses else f"{value:.1%}"

    def difference(value: float) -> str:
        return f"{value:+.4f} nats a token" if losses else f"{100 * value:+.1f} points"

    with st.container(horizontal=True):
        for title, value in zip(titles, (kept, task), strict=True):
            beside = f"{difference(own[value] - trained[value])} beside as trained"
            st.metric(title, words(own[value]), beside, border=True, delta_color="inverse" if losses else "normal")
            st.metric(f"{title}: control", words(own[f"control_{value}"]), border=True)
        st.metric("Norm", f"{own['norm']:.2f} x", border=True)
    low, high = difference(own["gain_low"]), difference(own["gain_high"])
    what = "saves the kept text" if losses else "keeps"
    of = "" if losses else " of the base"
    st.caption(
        f"The control is the whole update scaled to the same norm. Beside it the edit {what} {difference(own['gain'])}"
        f"{of} (95 % interval over {'windows' if losses else 'examples'}: {low} to {high})."
    )


session = shell.require()
study = loading.load(session)
st.title("What each block causes")
loading.require_adapters(study)
study = loading.measured(study)
name = st.selectbox("Adapter", study.names, key="effect-adapter")
scores = ask_for_scores(study)

if scores is not None:
    effects = scored(study, name, scores, edits(), "Score the four blocks")
    made_by = partial(study.ablation, name, scores)
    show_scores(effects, figures.block_effects, made_by, name="block-effects")
    show_scores(effects, figures.energy_damage, made_by, name="energy-damage")
    if effects is not None and "caveat" in effects and (caveat := effects["caveat"].iloc[0]):
        st.warning(plain(caveat), icon=":material/info:")

    st.subheader("One part at a time")
    layers, parts = study.layers(), ["layer", "kind", "module"]
    by = st.segmented_control("Remove each", parts, default="kind", required=True, key="effect-parts")
    removed = loading.background_table(
        ("parts", *key_of(study, name, scores), session.epsilon, by),
        partial(study.ablate_parts, name, by, scores),
        lambda: len(removals(layers[layers["adapter"] == name], by)),
        f"Remove each {by}",
    )
    show_scores(removed, figures.block_effects, partial(study.part_ablation, name, by, scores), name="part-effects")
    if removed is not None:
        st.markdown("**Was an indicator right?** Rank correlation of each with what removing the part gives back.")
        told = indicator_table(removed)
        titles = {
            "indicator": "Indicator",
            "rank_correlation": "Rank correlation",
            "low": "95 % from",
            "high": "95 % to",
        }
        tables.show(told.assign(indicator=told["indicator"].map(INDICATORS)), titles | {"parts": "Parts"})

    st.subheader("Keep the task, save the base")
    st.caption(
        "Tries edits by block, and their peers: scaling, a lower rank, a hard threshold, budgets, PEFT's mitigation of "
        "intruder dimensions. Half of the examples, or of the windows of each text, choose the best setting of each; "
        "the other half says what it is worth."
    )
    repairs = loading.background_table(
        ("repair", *key_of(study, name, scores)),
        partial(study.search_repair, name, scores),
        lambda: count(next(each for each in study.placements if each.update.name == name), len(REPAIR_BUDGETS)),
        "Search the best edit",
    )
    show_scores(repairs, figures.repair_outcomes, partial(study.repair, name, scores), name="repair-outcomes")
    if repairs is not None:
        best = repairs[repairs["chosen"] & (repairs["way"] == BLOCKED)]
        for row in best.to_dict("records"):
            show_repaired(row)
            st.button("Set the sliders to this edit", on_click=set_sliders, args=(row,), icon=":material/tune:")
        if best.empty:
            st.info("No edit by block keeps the task on the half that chooses.", icon=":material/info:")

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
if scores is not None and gains != Gains():
    table = scored(study, name, scores, {AS_TRAINED: Gains(), EDIT: gains}, "Score this edit")
    if table is not None:
        show_edit(table.iloc[0], table.iloc[1])
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
