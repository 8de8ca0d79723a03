"""Adapters merged in every way: how they meet before, what each way keeps after, and the merge to take away."""

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import streamlit as st

from hiplora import figures
from hiplora.effects import TaskScores
from hiplora.errors import HiploraError
from hiplora.measures import meaning_of
from hiplora.merging import ALL, WAYS, doubts, fail_table, outcome_rows, prediction_table, save_merge
from hiplora.study import BALANCES, Study, merge_groups
from hiplora.ui import cards, loading, scoring, shell, tables
from hiplora.ui.archive import zip_of
from hiplora.ui.text import plain

KEPT = r"\text{task kept} = \frac{\text{score of the merge}}{\text{score of the adapter alone}}, \quad "
KEPT += r"\text{control} = \frac{\lVert \Delta W \rVert}{\lVert \sum_t \tau_t \rVert} \sum_t \tau_t"
FAIL = r"\text{MergeFail} = \text{share of merges with } \min_t \text{task kept}_t < \theta"
FAIL += r" \;\text{ or }\; \text{kept}_{\text{worst single}} - \text{kept} > \delta"
COSINE = r"\cos = \frac{\langle \Delta W_1, \Delta W_2 \rangle}{\lVert \Delta W_1 \rVert\, \lVert \Delta W_2 \rVert}"
COSINE += r", \quad \text{of independent updates } 0 \pm 1/\sqrt{a b} \text{ in a block of } a \times b"

GEOMETRY = {
    "outcome": "Adapter or way",
    "relative_norm": "Relative norm",
    "pp": "Principal share",
    "pp_null": "By chance",
    "enrichment": "Enrichment",
    "max_tightness": "Highest tightness",
    "over_budget": "Over budget",
}

OF_TASK = "What is kept of the task of this adapter, whose own score is 100 %."
MEANINGS = {
    "tasks kept": "The mean over the tasks of what is kept of each adapter's own score.",
    "over control": "How much more than the plain sum, scaled to the same norm.",
    "base kept": "What is kept of what the base can do.",
    "base over control": "How much more of the base than the plain sum, scaled to the same norm.",
    "norm": "Over that of the plain sum.",
}


def weights_of(names: Sequence[str]) -> list[float]:
    """Ask for the weight of each adapter."""
    found = []
    columns = st.columns(min(len(names), 4))
    for place, name in enumerate(names):
        column = columns[place % len(columns)]
        found.append(column.slider(f"Weight of {plain(name)}", 0.0, 2.0, 1.0, 0.1, key=weight_key(name)))
    return found


def weight_key(name: str) -> str:
    """Return the key of an adapter's slider."""
    return f"merge-weight-{name}"


def set_weights(pair: Sequence[str], weights: Sequence[float]) -> None:
    """Put the sliders of two adapters to weights."""
    for name, weight in zip(pair, weights, strict=True):
        st.session_state[weight_key(name)] = weight


def pair_of(names: Sequence[str], key: str) -> tuple[str, str]:
    """Ask for two of the adapters where there are more."""
    if len(names) == 2:
        return names[0], names[1]
    pairs = [group for group in merge_groups(names) if len(group) == 2]
    first, second = st.selectbox("Pair", pairs, key=key, format_func=" and ".join)
    return first, second


def ask_for_scores(study: Study, names: Sequence[str]) -> TaskScores | None:
    """Ask how merges are scored: exactly on the demo world, else by loss on texts; None before there is one."""
    if scoring.is_exact(study):
        return scoring.ask_exact("merge-size", 100)
    columns = st.columns(min(len(names), 4))
    texts = {
        name: scoring.ask_task_text(
            columns[place % len(columns)], f"Text of {plain(name)}'s task", f"merge-text-{name}"
        )
        for place, name in enumerate(names)
    }
    left, right = st.columns([3, 1])
    kept = scoring.ask_kept_text(left)
    tokens = scoring.ask_tokens(right, "merge-tokens", 1024)
    given = {name: text for name, text in texts.items() if text}
    if not given:
        st.info(
            "Name a text file of each task, and each way to merge is scored by its loss on them, and on a text of "
            "what should be kept.",
            icon=":material/text_snippet:",
        )
        return None
    try:
        return loading.task_losses(given, kept, tokens)
    except HiploraError as error:
        st.error(plain(str(error)), icon=":material/error:")
        return None


def show_outcomes(table: pd.DataFrame) -> None:
    """Show what each way keeps as a table: a column for each adapter's task."""
    # An adapter may have the name of a way.
    by = ["kind", "outcome"]
    together = table[table["adapter"] == ALL].set_index(by)
    apart = table[table["adapter"] != ALL].astype({"adapter": str})
    each = apart.pivot_table(index=by, columns="adapter", values="task_kept", sort=False)
    each = each.rename(columns=lambda name: f"task of {name}")
    shown = pd.DataFrame(
        {
            "tasks kept": together["task_kept"],
            "over control": together.get("task_gain"),
            "base kept": together["retention"],
            "base over control": together.get("gain"),
            "norm": together["norm"],
        }
    )
    shares = [*each.columns, *(name for name in shown if name != "norm")]
    formats = dict.fromkeys(shares, "{:.1%}") | {"norm": "{:.2f}"}
    titles = {name: name.capitalize() for name in (*shares, "norm", "outcome")}
    helps = MEANINGS | {"outcome": meaning_of("outcome")}
    rows = shown.join(each).reset_index("kind", drop=True).reset_index().rename(columns=titles)
    st.dataframe(
        rows.style.format({titles[name]: shape for name, shape in formats.items()}),
        hide_index=True,
        placeholder="–",
        column_config={title: st.column_config.Column(help=helps.get(name, OF_TASK)) for name, title in titles.items()},
    )


session = shell.require()
study = loading.load(session)
st.title("Merge adapters")
loading.require_adapters(study)
if len(study.names) < 2:
    st.info("Choose at least two adapters of this base in the sidebar: one alone is merged already.")
    st.stop()
study = loading.measured(study)
names = st.multiselect("Adapters to merge", study.names, study.names[:3], key="merge-adapters")
if len(names) < 2:
    st.info("Choose two adapters or more to merge.", icon=":material/merge:")
    st.stop()
weights = weights_of(names)
# What is merged is checked here: one given twice, or one that holds more than matrices.
for caveat in study.merged("sum", weights, names=names).caveats:
    st.caption(plain(caveat))

st.subheader("Before: do they conflict?")
first, second = pair_of(names, "merge-pair")
cards.figure_card(
    figures.merge_conflicts, partial(study.conflicts), first, second, name="merge-conflicts", formula=COSINE
)
st.caption(
    "Conflict between weights is a weak predictor of merges that collapse "
    "([arXiv 2603.09463](https://arxiv.org/abs/2603.09463)): what a merge keeps is measured, below."
)

st.subheader("After: what does each way keep?")
with st.expander("The ways", icon=":material/list:"):
    st.dataframe(
        pd.DataFrame([{"Way": key, "Name": way.title, "What it does": way.meaning, "Source": way.source}
                      for key, way in WAYS.items()]),
        hide_index=True,
    )  # fmt: skip
ways = st.multiselect("Ways to merge", list(WAYS), list(WAYS), key="merge-ways")
ways = [key for key in WAYS if key in ways] or list(WAYS)
how_measured = study.base.identity, tuple(study[name].identity for name in names), study.k, study.epsilon, study.seen_as
geometry = loading.background_table(
    ("merge-geometry", *how_measured, tuple(weights), tuple(ways)),
    partial(study.measure_merges, ways, weights, names=names),
    lambda: len(names) + len(ways),
    "Predict by geometry",
    "rows",
)
if geometry is not None:
    st.markdown("**Predicted by geometry**, before anything is scored:")
    tables.show(geometry, GEOMETRY)
scores = ask_for_scores(study, names)
if scores is not None:
    how_scored = *how_measured, scores.identity
    tasks = sum(scores.task_of(study[name]) is not None for name in names)
    if not tasks:
        st.info("None of these adapters has a task of the demo world on its card: only the base is scored.")
    outcomes = loading.background_table(
        ("merges", *how_scored, tuple(weights), tuple(ways)),
        partial(study.score_merges, ways, weights, names=names, scores=scores),
        lambda: outcome_rows(len(names), tasks, len(ways)),
        "Score these ways",
        "rows",
    )
    if outcomes is not None:
        if tasks:
            cards.figure_card(
                figures.merge_outcomes,
                partial(study.merge_outcomes, ways, weights, names=names, scores=scores),
                name="merge-outcomes",
                formula=KEPT,
                compute=lambda _: outcomes,
            )
        show_outcomes(outcomes)
        for sentence in doubts(outcomes):
            st.warning(plain(sentence), icon=":material/info:")
        if geometry is not None:
            predicted = prediction_table(geometry, outcomes)
            cards.figure_card(
                figures.merge_predictions,
                partial(study.merge_predictions, ways, weights, names=names, scores=scores),
                name="merge-predictions",
                compute=lambda _: predicted,
            )

    if tasks:
        st.subheader("The balance of two")
        pair = pair_of(names, "merge-balance-pair")
        way = st.selectbox("Way", list(WAYS), key="merge-balance-way", format_func=lambda key: WAYS[key].title)
        place = st.select_slider(
            f"Weights of {plain(pair[0])} and {plain(pair[1])}",
            range(len(BALANCES)),
            2,
            key="merge-balance",
            format_func=lambda place: "{:g} : {:g}".format(*BALANCES[place]),
        )
        balance = loading.background_table(
            ("balance", *how_scored, pair, way),
            partial(study.score_balance, *pair, way, scores=scores),
            lambda: len(BALANCES) * (1 + sum(scores.task_of(study[name]) is not None for name in pair)),
            "Measure the balance",
            "rows",
        )
        if balance is not None:
            cards.figure_card(
                figures.merge_balance,
                partial(study.merge_balance, *pair, way, scores=scores),
                place,
                name="merge-balance-curve",
                formula=KEPT,
                compute=lambda _: balance,
            )
            chosen = BALANCES[place]
            st.button(
                f"Set the weights above to {chosen[0]:g} and {chosen[1]:g}",
                on_click=set_weights,
                args=(pair, chosen),
                icon=":material/tune:",
            )

        st.subheader("MergeFail: how many merges fail?")
        count = len(merge_groups(names))
        st.caption(
            f"All pairs and triples of the adapters above: {count} merge{'s' * (count > 1)} for each way, all adapters "
            "with the same weight."
        )
        weight = st.slider("Weight of every adapter", 0.1, 1.5, 1.0, 0.1, key="merge-fail-weight")
        sets = loading.background_table(
            ("sets", *how_scored, weight, tuple(ways)),
            partial(study.score_sets, ways, weight, names=names, scores=scores),
            lambda: count * len(ways),
            "Score all pairs and triples",
            "merges",
        )
        if sets is not None:
            cards.figure_card(
                figures.merge_fail,
                partial(study.merge_fail, ways, weight, names=names, scores=scores),
                name="merge-fail",
                formula=FAIL,
                compute=lambda _: fail_table(sets),
            )

st.subheader("Take it away")
how = st.selectbox("Merge by", list(WAYS), key="merge-way", format_func=lambda key: WAYS[key].title)
st.latex(WAYS[how].formula)
st.caption(f"{plain(WAYS[how].meaning)} Source: {plain(WAYS[how].source)}.")
merge = study.merged(how, weights, names=names)
r = st.number_input(
    "Cut to rank",
    1,
    None,
    None,
    key="merge-rank",
    placeholder="exact",
    help="Of each module, at most; the report says what that loses. Empty: exact. TIES, DARE and magnitude pruning "
    "have full rank, and their exact LoRA is larger than the weights themselves.",
)


def save(out: Path) -> None:
    """Write the merge, with the conflicts of what is merged in its report."""
    conflicts = study.conflicts(weights, names=names) if len(names) > 1 else None
    save_merge(merge, study.base, out, r, conflicts=conflicts)


st.download_button(
    "Save as LoRA",
    lambda: zip_of(save, f"{how}-merge"),
    f"{how}-merge.zip",
    "application/zip",
    icon=":material/download:",
    on_click="ignore",
    help="A zip of adapter_config.json, adapter_model.safetensors and merge.json, the report of how it was made.",
)
options = f"--how {how} --weights {' '.join(f'{weight:g}' for weight in weights)}" + (f" --rank {r}" if r else "")
if merge.way.needs_spectrum:
    options += f" --k {study.k} --epsilon {study.epsilon:g}"
    if session.geometry == "inputs":
        options += " --geometry inputs" + (f" --text {shlex.quote(session.text)}" if session.text else "")
adapters = " ".join(shlex.quote(study[name].source or name) for name in names)
st.code(f"hiplora merge {shlex.quote(study.source)} {adapters} {options} --out merged", language="bash")
