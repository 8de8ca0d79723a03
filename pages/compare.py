"""Adapters side by side: what they scored, where they differ, and how one of them came about."""

import pandas as pd
import streamlit as st

from hiplora import figures
from hiplora.errors import HiploraError
from hiplora.measure_info import DIFFERENCES
from hiplora.measures import direction_table, skill_table
from hiplora.training.methods import TOLERANCE
from hiplora.ui import cards, data, explore, shell
from hiplora.ui.text import plain

COLUMNS = {
    "adapter": "Adapter",
    "method": "Method",
    "task": "Task",
    "task_score": "Task score",
    "retention": "Base skills kept",
    "relative_norm": "Relative norm",
    "trainable_parameters": "Trainable parameters",
    "parameter_difference": "Against the first",
    "budget": "Budget",
    "steps": "Steps",
    "seed": "Seed",
}
PERCENT = ("task_score", "retention", "parameter_difference")
WHOLE = ("trainable_parameters", "steps", "seed")

session = shell.require()
loaded = data.load(session)
st.title("Adapters side by side")
data.require_adapters(loaded)
if len(loaded.adapters) < 2:
    st.info(
        "Choose at least two adapters of this base in the sidebar: shipped ones, folders, runs or checkpoints.",
        icon=":material/arrow_back:",
    )
    st.stop()

layers = data.layers(loaded)
if len(loaded.adapters) < 2:
    st.stop()
k = session.k
modules = list(dict.fromkeys(layers["module"]))
names = [adapter.name for adapter in loaded.adapters]
by_name = {adapter.name: adapter for adapter in loaded.adapters}
homes = [str(adapter.home) for adapter in loaded.adapters]


def show_scores() -> None:
    """What the cards say: skills, the frontier of one task, and the table with the number of parameters."""
    made = data.read_cards(loaded)
    chosen = data.cards(loaded, made)
    left, right = st.columns(2, gap="large")
    with left:
        skills = skill_table(loaded.base, loaded.adapters, made)
        if len(skills):
            cards.figure_card(
                figures.skill_scores(skills),
                name="skills",
                table=skills,
                formula=r"\text{kept} = \text{mean over skills of } \text{score after} \,/\, \text{score of the base}",
                python="from hiplora import figures, measures\n"
                "from hiplora.adapters import read_adapters\n"
                "from hiplora.sources import open_base\n"
                f"table = measures.skill_table(open_base({session.base!r}), read_adapters({homes!r}))\n"
                "figures.skill_scores(table).show()",
            )
        else:
            st.info(
                "None of the chosen adapters has scores: they stand in a card.json beside the adapter, which training "
                "with hiplora writes.",
                icon=":material/info:",
            )
    with right:
        show_frontier(chosen)
    st.subheader("What is compared")
    known = chosen.replace({"budget": {"": None}}).dropna(axis="columns", how="all")
    shown = {column: title for column, title in COLUMNS.items() if column in known}
    st.dataframe(
        known[list(shown)].rename(columns=shown),
        hide_index=True,
        column_config={
            title: st.column_config.NumberColumn(
                format="percent" if column in PERCENT else "localized" if column in WHOLE else "%.3g"
            )
            for column, title in shown.items()
            if column in (*PERCENT, *WHOLE, "relative_norm")
        },
    )
    apart = chosen["parameter_difference"].abs()
    if apart.notna().all():
        far = plain(", ".join(chosen.loc[apart > TOLERANCE, "adapter"]))
        st.caption(
            f"More than {TOLERANCE:.0%} away from {plain(names[0])} in trainable parameters: {far}. What differs may "
            "be the size alone."
            if far
            else f"All train as many parameters as {plain(names[0])} within {TOLERANCE:.0%}, so size is not what "
            "tells them apart."
        )
    else:
        st.caption("How many parameters each trained is known only where a card says it.")


def show_frontier(chosen: pd.DataFrame) -> None:
    """Task score against what is kept, for all that is at hand; only adapters of one task can be compared."""
    table, folders = data.scored(loaded, chosen)
    if table.empty:
        st.info("No adapter at hand has both a task score and a retention to compare.", icon=":material/info:")
        return
    tasks = list(dict.fromkeys(table["task"]))
    first = next((task for task in chosen["task"] if task in tasks), tasks[0])
    chart = st.container()
    task = st.selectbox(
        "Task", tasks, index=tasks.index(first), key="task", help="Only scores on one task can be compared."
    )
    one = table[table["task"] == task].reset_index(drop=True)
    with chart:
        cards.figure_card(
            figures.frontier(one, names),
            name="frontier",
            table=one,
            formula=r"\text{not beaten: nothing is} \ge \text{in both scores and} > \text{in one}",
            python="from hiplora import figures, measures\n"
            "from hiplora.adapters import read_adapters\n"
            f"cards = measures.card_table(read_adapters({[str(path) for path in folders]!r}))\n"
            f'table = measures.frontier_table(cards).query("task == {task!r}")\n'
            f"figures.frontier(table, {names!r}).show()",
        )


@shell.fragment
def explorer() -> None:
    """Two adapters, module by module, and the layer in view: a click repaints no more than this."""
    st.header("Where two of them differ")
    by_measure = {info.name: info for info in DIFFERENCES.values()}
    left, middle, right = st.columns(3, gap="large")
    first = left.selectbox("Adapter A", names, key="first", bind="query-params", persist_state="session")
    second = middle.selectbox("Adapter B", names, index=1, key="second", bind="query-params", persist_state="session")
    measure = by_measure[
        right.selectbox(
            "Measure of the map", list(by_measure), key="difference", bind="query-params", persist_state="session"
        )
    ]
    overview, detail = st.container(), st.container()
    with detail:
        table = None if first == second else data.differences(loaded, by_name[first], by_name[second])
        strongest = modules[0] if table is None else table["module"].iloc[int(table["share"].fillna(0).argmax())]
        st.header("Along the singular directions")
        module = explore.layer_in_view(modules, strongest, "Layer in view (or click a cell above)")
        show_layer(module)
    with overview:
        if table is None:
            st.info("Choose two different adapters as A and B.", icon=":material/arrow_upward:")
            return
        pair = [str(by_name[name].home) for name in (first, second)]
        source = f"table = compare({session.base!r}, {pair[0]!r}, {pair[1]!r}, k={k}, epsilon={session.epsilon!r})\n"
        bars, grid = st.columns(2, gap="large")
        with bars:
            cards.figure_card(
                figures.difference_shares(table),
                name="difference-shares",
                table=table,
                measures=tuple(DIFFERENCES[column] for column in ("share", "pp", "mixed", "rr")),
                python=f"from hiplora import compare, figures\n{source}figures.difference_shares(table).show()",
            )
        with grid:
            cards.figure_card(
                figures.layer_map(table, measure, module),
                name="difference-map",
                table=table,
                measures=(measure,),
                python=f"from hiplora import compare, figures, measures\n{source}"
                f"figures.layer_map(table, measures.DIFFERENCES[{measure.column!r}]).show()",
                on_select=explore.click_on("difference-map"),
                selection_mode="points",
            )


def show_layer(module: str) -> None:
    """All adapters along the singular directions of one weight beside all weights, and one run through its training."""
    directions = data.one_layer(loaded, module, direction_table)
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader(plain(module))
        cards.figure_card(
            figures.direction_energy(directions, k),
            name="direction-energy",
            table=directions,
            formula=r"e^L_i = \lVert u_i^\top \Delta W\rVert^2, \quad e^R_i = \lVert \Delta W v_i\rVert^2",
            python=cards.snippet(loaded, f"direction_energy(table, k={k})", source="directions", module=module),
        )
    with right:
        st.subheader("All modules together")
        octaves = data.octaves(loaded)
        cards.figure_card(
            figures.octave_energy(octaves),
            name="octaves",
            table=octaves,
            formula=r"\frac{\sum_{\text{modules}} \sum_{i \in \text{octave}} e_i}"
            r"{\sum_{\text{modules}} \lVert\Delta W\rVert_F^2 \; |\text{octave}| / m}"
            r" \quad \text{(right: } n \text{ for } m)",
            python=cards.snippet(loaded, "octave_energy(table)", source="octaves"),
        )
    st.header("Through training")
    show_training(module)


def show_training(module: str) -> None:
    """The layer at each checkpoint of a run."""
    runs = data.playable_runs(loaded)
    if not runs:
        st.info(
            "A run of this base with two checkpoints or more can be played here, step by step.",
            icon=":material/play_circle:",
        )
        return
    run = runs[st.selectbox("Run to play through its training", list(runs), key="run")]
    try:
        table = data.training(loaded, run, module)
    except HiploraError as error:
        shell.show_error(error)
        return
    steps = {checkpoint.step: str(checkpoint.path) for checkpoint in run.checkpoints}
    cards.figure_card(
        figures.training_spectrum(table, k),
        name="training",
        table=table,
        formula=r"e^L_i / \lVert W_0\rVert_F^2 = \lVert u_i^\top \Delta W\rVert^2 / \lVert W_0\rVert_F^2, \quad"
        r" e^R_i = \lVert \Delta W v_i\rVert^2",
        python=f"from hiplora import figures, playback\n"
        f"table = playback({session.base!r}, {steps!r}, {module!r}, k={k}, run={run.name!r})\n"
        f"figures.training_spectrum(table, k={k}).show()",
    )


show_scores()
explorer()
