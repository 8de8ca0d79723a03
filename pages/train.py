"""Training runs: watched while they go on, stopped, resumed, and started."""

from functools import partial

import pandas as pd
import streamlit as st

from hiplora import figures
from hiplora.errors import HiploraError
from hiplora.figures import curves
from hiplora.measures import MEASURES, meaning_of
from hiplora.printable import for_spreadsheet
from hiplora.training import Run, drift_history, layer_history
from hiplora.training.prices import last_prices, price_table
from hiplora.ui import cards, drift, edit_run, new_run, reallocation, runs, shell
from hiplora.ui.session import names_of
from hiplora.ui.text import plain

SHOWN, TO_SHOW, FORM = "runs", "runs-to-show", "new-run"
TICK, SLOW_TICK, IDLE_TICK = 0.7, 4.0, 3.0
NORMS = r"\sqrt{\textstyle\sum_{l} \lVert PP_l\rVert_F^2}, \quad \text{and so for } PR + RP \text{ and } RR"
STATES = {
    "new": "Never started.",
    "stopped": "Stopped.",
    "killed": "Killed while running.",
    "failed": "Failed.",
    "finished": "Finished.",
}
COLUMNS = {
    "run": "Run",
    "method": "Method",
    "task": "Trained on",
    "state": "State",
    "step": "Step",
    "steps": "Of",
    "note": "Note",
}

session = shell.require()
everything = runs.found()
seen = runs.stamp(everything)
going = any(runs.phase(run) for run in everything)
if not going:
    # While a run trains, another process that loads torch would only slow it down.
    runs.launcher().warm_up(runs.MOST)
by_name = {run.name: run for run in everything}
if TO_SHOW in st.session_state:
    st.session_state[SHOWN] = st.session_state.pop(TO_SHOW)
    st.session_state[FORM] = False
st.title("Training")

with st.expander("New run", expanded=not everything, icon=":material/add:", key=FORM, on_change="rerun"):
    try:
        if started := new_run.form(session):
            st.session_state[TO_SHOW] = [run.name for run in started]
            st.rerun()
    except HiploraError as error:
        shell.show_error(error)


def add_to_adapters(base: str, names: list[str]) -> None:
    """Choose runs in the sidebar, on their base."""
    if base != session.base:
        st.session_state["base"], st.session_state["adapters"] = base, []
    chosen = st.session_state.get("adapters", [])
    st.session_state["adapters"] = [*chosen, *(name for name in names if name not in chosen)]


def controls(shown: list[Run]) -> None:
    """Draw the buttons to stop, resume, compare and edit runs, and to use their adapters."""
    going = [run for run in shown if runs.phase(run)]
    resumable = [run for run in shown if run not in going and run.resumable]
    done = [run for run in shown if run.adapter is not None]
    with st.container(horizontal=True, vertical_alignment="center"):
        if going:
            asked = all(run.stop_requested for run in going)
            # A run that has not begun would miss the request.
            deaf = any(run.status.state != "running" for run in going)
            if st.button("Stopping…" if asked else "Stop", icon=":material/stop:", disabled=asked or deaf,
                         help="Ends after the current step, with a checkpoint."):  # fmt: skip
                for run in going:
                    run.request_stop()
                st.rerun()
        if resumable and st.button("Resume", icon=":material/resume:", type="primary",
                                   help="Continues from the last checkpoint, as if never interrupted."):  # fmt: skip
            try:
                runs.launcher().resume(resumable)
            except HiploraError as error:
                shell.show_error(error)
            else:
                st.rerun()
        if done:
            together = [run for run in done if runs.same_base(run.config.base, done[0].config.base)]
            base = session.base if runs.same_base(done[0].config.base, session.base) else done[0].config.base
            names = names_of(base, together)
            chosen = base == session.base and set(names) <= set(st.session_state.get("adapters", []))
            st.button("In the adapters" if chosen else "Add to the adapters", icon=":material/add_circle:",
                      disabled=chosen, on_click=add_to_adapters, args=(base, names),
                      help="Select it in the sidebar, for every page.")  # fmt: skip
            shell.link("compare", "Compare", disabled=len(together) < 2, base=base, adapters=names,
                       tooltip="Compares the runs in view, in place of the adapters in the sidebar: two of one base, "
                       "each with a checkpoint.")  # fmt: skip
        edit_run.offer(shown, SHOWN)


def say_where(run: Run) -> None:
    """Draw one line for a run: its present work, progress and speed."""
    doing, status, at = runs.phase(run), run.status, runs.pace(run)
    words = [f"**{plain(run.name)}**: {doing}" if doing else f"**{plain(run.name)}**"]
    if at.step or doing == "Training":
        words.append(f"step {at.step} of {at.steps}")
    if doing and at.tokens_per_second is not None:
        words.append(f"{at.tokens_per_second:,.0f} tokens per second")
    if doing and at.remaining is not None:
        words.append(f"about {at.remaining:.0f} s left")
    if status.device:
        words.append("on CUDA" if status.device == "cuda" else f"on the {status.device.upper()}")
    if doing or at.step < at.steps:
        st.progress(min(at.step / at.steps, 1.0), ", ".join(words))
    else:
        st.markdown(", ".join(words))
    if not doing and status.state != "finished":
        box = st.error if status.state == "failed" else st.warning
        box(plain(status.message or STATES[status.state]), icon=":material/info:")


def progress(shown: list[Run], seen: tuple[object, ...]) -> None:
    """Draw one line for each run, and the whole page again when one starts or ends."""
    if runs.stamp(runs.found()) != seen:
        # Update the sidebar and the buttons too.
        st.rerun()
    for run in shown:
        say_where(run)


def drifts(shown: list[Run]) -> None:
    """Draw the drift of all runs against their nulls: what one trains here for."""
    drift.show(partial(drift_history, shown), {run.name: run for run in shown}, lambda call: runs.drift(*call.args))


def live_curves(shown: list[Run]) -> None:
    """Draw the curves that update while runs train."""
    steps, scores = runs.steps(shown), runs.scores(shown)
    if scores.empty and steps.empty:
        return
    longest, shares = max(run.config.steps for run in shown), all(run.config.task for run in shown)
    left, right = st.columns(2, gap="large")
    with left:
        st.markdown(f"#### {plain(curves.loss_finding(steps))}")
        st.caption(about_losses(shown))
        weight = st.slider("Smoothing of the loss", 0.0, 0.99, 0.6, key="smoothing", persist_state="session",
                           help="Weight of the past in the running mean, as in TensorBoard; the losses as recorded "
                           "stay behind it. 0: only these.")  # fmt: skip
        st.altair_chart(curves.loss_curves(steps, longest, weight), key="live-loss")
    if scores.empty:
        right.caption("No held-out loss has been recorded: it comes with each evaluation of your script.")
        return
    with right:
        st.markdown(f"#### {plain(curves.score_finding(scores))}")
        st.caption(about_scores(shown))
        st.altair_chart(curves.score_curves(scores, longest, shares=shares), key="live-scores")


def about_losses(shown: list[Run]) -> str:
    """Return the definition of the losses."""
    whose = "Per step, on the current batch, without the budget penalty."
    return whose + " Of your own script: as often as it logs." if any(run.watched for run in shown) else whose


def about_scores(shown: list[Run]) -> str:
    """Return the definition of the scores."""
    if all(run.config.task for run in shown):
        return "Share of exact answers to the task, and share of the base's skills that is kept."
    return (
        "Mean probability of the next token on held-out text; and, with a forgetting check, the base's perplexity on "
        "its text over the present one."
    )


def take_away(shown: list[Run]) -> None:
    """Draw downloads of the tables behind the curves."""
    with st.container(horizontal=True, gap="small"):
        for label, table in (("CSV of the steps", runs.steps), ("CSV of the scores", runs.scores)):
            st.download_button(label, lambda table=table: for_spreadsheet(table(shown)).to_csv(index=False),
                               f"{table.__name__}.csv", "text/csv", icon=":material/table:",
                               on_click="ignore")  # fmt: skip


def studied(shown: list[Run]) -> None:
    """Draw the figures of the measurements of the layers."""
    history = runs.layers(shown)
    if history.empty:
        return
    longest = max(run.config.steps for run in shown)
    for draw, measures, formula in (
        (figures.tightness_history, (MEASURES["tightness"],), ""),
        (figures.norm_history, (), NORMS),
    ):
        cards.figure_card(
            draw,
            partial(layer_history, shown),
            longest,
            name=draw.__name__.replace("_", "-"),
            measures=measures,
            formula=formula,
            compute=cached_history,
        )
    priced = [run for run in shown if history.loc[history["run"] == run.name, "shadow_price"].notna().any()]
    if not priced:
        st.caption("Shadow prices are measured while a HiP-LoRA core matrix trains. No run in view has one.")
        return
    cards.figure_card(figures.prices_by_module, partial(last_prices, shown), name="prices", formula=reallocation.PRICE)
    st.caption(reallocation.LIMITS)


def cached_history(call: "partial[pd.DataFrame]") -> pd.DataFrame:
    """Make the layer history of a call, read again only after new events."""
    return runs.layers(*call.args)


def offer_reallocation(shown: list[Run]) -> None:
    """Draw one button for each run with prices that is not running."""
    for run in shown:
        if not runs.phase(run):
            try:
                price_table(run)
            except HiploraError:
                continue
            reallocation.offer_run(run)


def show_table(shown: list[Run]) -> None:
    """Draw the table of all runs; a click on one shows it."""
    table = runs.overview(everything)
    table.insert(0, "shown", table["run"].isin([run.name for run in shown]))

    def choose() -> None:
        rows = st.session_state[key].selection.rows
        if rows:
            st.session_state[SHOWN] = [table["run"].iloc[rows[0]]]

    if st.session_state.get(SHOWN) != [run.name for run in shown]:
        # A click here repaints this part alone, and the runs in view are above it.
        st.rerun()
    # The runs in view are part of the key, so that the table forgets a click once it has taken effect.
    key = f"table-of-runs-{hash(tuple(run.name for run in shown))}"
    st.dataframe(
        for_spreadsheet(table),
        hide_index=True,
        placeholder="–",
        key=key,
        on_select=choose,
        selection_mode="single-row",
        column_config={
            "shown": st.column_config.CheckboxColumn("In view", help=meaning_of("shown")),
            **{name: st.column_config.Column(title, help=meaning_of(name)) for name, title in COLUMNS.items()},
            "task_score": st.column_config.NumberColumn("Task score", format="percent", help=meaning_of("task_score")),
            "retention": st.column_config.NumberColumn("Base kept", format="percent", help=meaning_of("retention")),
            "when": st.column_config.DatetimeColumn("Last change", format="distance", help=meaning_of("when")),
        },
    )
    st.caption(
        f"Kept in {plain(str(runs.launcher().root))}; `hiplora train` on the command line puts its runs there too."
    )


def watch(seen: tuple[object, ...]) -> None:
    """Redraw when a run is started elsewhere, here or on the command line."""
    if runs.stamp(runs.found()) != seen:
        st.rerun()


if not everything:
    st.info("No run yet. Start one above, or with `hiplora train` on the command line.", icon=":material/arrow_upward:")
else:
    if SHOWN not in st.session_state and not set(st.query_params.get_all(SHOWN)) & set(by_name):
        # Not as the widget's default, which would not appear in the URL and would later mean other runs.
        st.query_params[SHOWN] = st.session_state[SHOWN] = [run.name for run in runs.latest_group(everything)]
    elif any(name not in by_name for name in st.session_state.get(SHOWN, [])):
        st.session_state[SHOWN] = [name for name in st.session_state[SHOWN] if name in by_name]
    chosen = st.multiselect(
        "Runs in view",
        list(by_name),
        max_selections=runs.MOST,
        key=SHOWN,
        bind="query-params",
        persist_state="session",
    )
    shown = [by_name[name] for name in chosen]
    if shown:
        controls(shown)
        shell.fragment(lambda: progress(shown, seen), run_every=TICK if going else None)()
        shell.fragment(lambda: drifts(shown), run_every=SLOW_TICK if going else None)()
        shell.fragment(lambda: live_curves(shown), run_every=TICK if going else None)()
        take_away(shown)
        shell.fragment(lambda: studied(shown), run_every=SLOW_TICK if going else None)()
        offer_reallocation(shown)
        reallocation.show()
    else:
        st.info("Choose a run to view.", icon=":material/arrow_upward:")
    st.subheader("All runs")
    shell.fragment(lambda: show_table(shown), run_every=TICK if going else None)()
if not (going and everything and shown):
    shell.fragment(lambda: watch(seen), run_every=IDLE_TICK)()
