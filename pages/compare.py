"""Adapters side by side: their scores, their differences, and one of them through its training."""

from functools import partial

import streamlit as st

from hiplora import figures
from hiplora.errors import HiploraError
from hiplora.measures import DIFFERENCES, split_expert
from hiplora.training.methods import TOLERANCE
from hiplora.ui import cards, drift, explore, loading, shell, tables
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
    "note": "Note",
}

session = shell.require()
study = loading.load(session)
st.title("Adapters side by side")
loading.require_adapters(study)


def require_two() -> None:
    """Stop the page here unless there are two adapters to compare."""
    if len(study.updates) < 2:
        st.info(
            "Choose at least two adapters of this base in the sidebar: shipped ones, folders, runs or checkpoints.",
            icon=":material/arrow_back:",
        )
        st.stop()


require_two()
study = loading.measured(study)
require_two()
loading.show_damaged_cards(study)
names = study.names
modules = list(dict.fromkeys(study.layers()["module"]))


def show_scores() -> None:
    """Show the cards: skills, the frontier of one task, and the table with the number of parameters."""
    chosen = study.cards()
    left, right = st.columns(2, gap="large")
    with left:
        if len(study.skills()):
            cards.figure_card(
                figures.skill_scores,
                partial(study.skills),
                name="skills",
                formula=r"\text{kept} = \text{mean over skills of score after} \,/\, \text{score of the base}",
            )
        else:
            st.info(
                "None of the chosen adapters has scores. Training with hiplora writes them to card.json.",
                icon=":material/info:",
            )
    with right:
        show_frontier(list(chosen["task"]))
    st.subheader("What is compared")
    chosen["note"] = chosen["adapter"].map({name: run.note for name, run in study.runs.items()}).astype("object")
    known = chosen.replace({"budget": {"": None}, "note": {"": None}}).dropna(axis="columns", how="all")
    shown = {column: title for column, title in COLUMNS.items() if column in known}
    tables.show(known, shown, "How each adapter was trained, and what it scored.")
    apart = chosen["parameter_difference"].abs()
    if apart.notna().all():
        far = plain(", ".join(chosen.loc[apart > TOLERANCE, "adapter"]))
        st.caption(
            f"These differ by more than {TOLERANCE:.0%} from {plain(names[0])} in trainable parameters: {far}. The "
            "difference may come from size alone."
            if far
            else f"All train as many parameters as {plain(names[0])}, within {TOLERANCE:.0%}, so size does not "
            "explain the differences."
        )
    else:
        st.caption("The number of trained parameters is known only from cards.")


def show_frontier(own: list[str]) -> None:
    """Show task score against retention for all adapters found; only those of one task can be compared."""
    beside = [str(path) for path in loading.at_hand(study)]
    tasks = list(dict.fromkeys(study.frontier(beside=beside)["task"]))
    if not tasks:
        st.info("None of the adapters found has both a task score and a retention.", icon=":material/info:")
        return
    first = next((task for task in own if task in tasks), tasks[0])
    chart = st.container()
    task = st.selectbox(
        "Task", tasks, index=tasks.index(first), key="task", help="Only scores on one task can be compared."
    )
    with chart:
        cards.figure_card(
            figures.frontier,
            partial(study.frontier, task, beside=beside),
            names,
            name="frontier",
            formula=r"\text{Pareto-optimal: no other is} \ge \text{in both scores and} > \text{in one}",
        )


@shell.fragment
def explorer() -> None:
    """Show two adapters, module by module, and the layer in view: a click repaints only this part."""
    st.header("Where do two adapters differ?")
    by_measure = {info.name: info for info in DIFFERENCES.values()}
    left, middle, right = st.columns(3, gap="large")
    first = left.selectbox("Adapter A", names, key="first", bind="query-params", persist_state="session")
    second = middle.selectbox("Adapter B", names, index=1, key="second", bind="query-params", persist_state="session")
    measure = by_measure[
        right.selectbox(
            "Measure of the map",
            list(by_measure),
            key="difference",
            bind="query-params",
            persist_state="session",
            help=cards.meanings(by_measure.values()),
        )
    ]
    overview, detail = st.container(), st.container()
    with detail:
        table = None if first == second else study.compare(first, second)
        strongest = modules[0] if table is None else table["module"].iloc[int(table["share"].fillna(0).argmax())]
        st.header("Along the singular directions")
        module = explore.layer_in_view(modules, strongest, "Layer in view (or click a cell above)")
        show_layer(module)
    with overview:
        if table is None:
            st.info("Choose two different adapters as A and B.", icon=":material/arrow_upward:")
            return
        experts = explore.strongest_experts(table, "share")
        apart = partial(study.compare, first, second, **({"sum_experts": True} if experts else {}))
        bars, grid = st.columns(2, gap="large")
        with bars:
            cards.figure_card(
                figures.difference_shares,
                apart,
                name="difference-shares",
                measures=tuple(DIFFERENCES[column] for column in ("share", "pp", "mixed", "rr")),
            )
        with grid:
            cards.figure_card(
                figures.layer_map,
                apart,
                measure,
                split_expert(module)[0],
                name="difference-map",
                measures=(measure,),
                on_select=explore.click_on("difference-map", experts),
                selection_mode="points",
            )


def show_layer(module: str) -> None:
    """Show all adapters along the singular directions of one weight and of all, and one run through its training."""
    k = study.principal_rank(module)
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader(plain(module))
        cards.figure_card(
            figures.direction_energy,
            partial(study.directions, module),
            k,
            name="direction-energy",
            formula=r"e^L_i = \lVert u_i^\top \Delta W\rVert^2, \quad e^R_i = \lVert \Delta W v_i\rVert^2",
        )
    with right:
        st.subheader("All modules together")
        with st.spinner("Adding up all modules…"):
            study.octaves()
        cards.figure_card(
            figures.octave_energy,
            partial(study.octaves),
            name="octaves",
            formula=r"\frac{\sum_{\text{modules}} \sum_{i \in \text{octave}} e_i}"
            r"{\sum_{\text{modules}} \lVert\Delta W\rVert_F^2 \; |\text{octave}| / m}"
            r" \quad \text{(right: } n \text{ for } m)",
        )
    st.header("Through training")
    show_training(module)


def show_training(module: str) -> None:
    """Show the layer at each checkpoint of a run."""
    runs = loading.playable_runs(study)
    if not runs:
        st.info(
            "A run of this base with two checkpoints or more can be played here, step by step.",
            icon=":material/play_circle:",
        )
        return
    name = st.selectbox("Run to play back", list(runs), key="run")
    try:
        cards.figure_card(
            figures.training_spectrum,
            partial(study.playback, runs[name], module, name=name),
            study.principal_rank(module),
            name="training",
            formula=r"e^L_i / \lVert W_0\rVert_F^2 = \lVert u_i^\top \Delta W\rVert^2 / \lVert W_0\rVert_F^2, \quad"
            r" e^R_i = \lVert \Delta W v_i\rVert^2",
        )
    except HiploraError as error:
        shell.show_error(error)


def show_drift() -> None:
    """Show the principal share of the chosen runs over the steps of their training."""
    if study.runs:
        st.subheader("All modules, step by step")
        drift.show(partial(study.drift), study.runs)


show_scores()
explorer()
show_drift()
