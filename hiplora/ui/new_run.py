"""The form for new runs, with the size of each method."""

import dataclasses
from typing import Any, cast

import pandas as pd
import streamlit as st

from hiplora import demo
from hiplora.errors import HiploraError
from hiplora.measures import meaning_of
from hiplora.settings import HipLoraSettings
from hiplora.sources import BaseModel
from hiplora.training import METHODS, Run, RunConfig
from hiplora.training.config import default_words
from hiplora.training.train import check, match_on
from hiplora.ui import loading, reallocation, runs, shell
from hiplora.ui.session import Session
from hiplora.ui.text import plain

_TASK, _FILE = "Demo task", "My own text"
_UPLOAD_PROBLEM = "new-upload-problem"


def form(session: Session) -> list[Run]:
    """Draw the form; return the runs that it has just started, usually none.

    Raises:
        HiploraError: the base cannot be opened.
    """
    study = loading.load(session)
    base = study.base
    st.markdown(
        f"On the base **{plain(base.name)}**, with ε = {session.epsilon:g}; both come from the sidebar."
    )  # fmt: skip
    left, middle, right = st.columns([5, 4, 4], gap="large")
    with left:
        methods = st.multiselect(
            "Methods, trained side by side on the same data",
            list(METHODS),
            default=list(demo.SHIPPED_METHODS),
            format_func=lambda key: METHODS[key].title,
            max_selections=runs.MOST,
            key="new-methods",
            persist_state="session",
            help="  \n".join(f"{method.title}: {method.summary} ({method.source})." for method in METHODS.values()),
        )
        goal = _goal(session)
        below = st.multiselect(
            "On top of",
            [name for name in study.names if study[name].source],
            key="new-on-top",
            persist_state="session",
            placeholder="The base alone",
            help="Adapters of the sidebar that are added to the base first. The run's own adapter is still one of the "
            "base: all together are their sum. HiP-LoRA gets what they leave of each layer's budget.",
        )
    with middle:
        sizes = _sizes(session)
    with right:
        own = _own_settings()
    fields: dict[str, Any] = {"base": session.base, "epsilon": session.epsilon} | goal | sizes | own
    if below:
        fields["on_top"] = tuple(study[name].source for name in below)
    if own["geometry"] == "inputs":
        fields["text"] = session.text or None
    # A container of its own, so that Start stays in place when the content above it changes.
    above = st.container()
    with st.container(horizontal=True, vertical_alignment="center"):
        pressed = st.button("Start", type="primary", icon=":material/play_arrow:")
        st.caption("Trains on CUDA if available, else on the CPU, in a separate process.")
    with above:
        found = reallocation.kept()
        if found is not None:
            fields |= _reallocated(found, session)
        if not pressed and not (methods and (fields.get("task") or fields.get("data"))):
            return []
        try:
            if not methods:
                raise HiploraError("Choose at least one method.")
            if not (fields.get("task") or fields.get("data")):
                raise HiploraError("Enter the path of a training file, or upload one.")
            # In the order of the list, not of the picks: colors follow it.
            configs = [RunConfig(method=method, **fields) for method in METHODS if method in methods]
            _show_match(base, configs)
            if not pressed:
                return []
            for config in configs:
                check(base, config)
            started = runs.launcher().start(configs)
            if any(METHODS[method].has_core for method in methods):
                # For the next run only.
                reallocation.drop()
            return started
        except HiploraError as error:
            shell.show_error(error)
    return []


def _goal(session: Session) -> dict[str, Any]:
    """Draw the choice of training data: a task of the demo world on its base, or a file. Return the settings."""
    kinds = [_TASK, _FILE] if runs.same_base(session.base, "demo") else [_FILE]
    kind = st.segmented_control("Train on", kinds, default=kinds[0], key=f"new-kind-{len(kinds)}", required=True,
                                persist_state="session")  # fmt: skip
    if kind == _TASK:
        task = st.selectbox(
            "Task",
            list(demo.TASKS),
            key="new-task",
            persist_state="session",
            format_func=lambda name: f"{name}: {demo.TASKS[name].summary}",
        )
        return {"task": task}
    path = st.text_input(
        "Training file",
        key="new-data",
        persist_state="session",
        placeholder="Path of a .txt or .jsonl file",
        help="Plain text; or JSONL with `text`, with `prompt` and `completion`, or with `messages` in each line.",
    )
    probe = st.text_input(
        "Forgetting check (optional)",
        key="new-probe",
        persist_state="session",
        placeholder="Text the base should still handle well",
    )
    with st.popover("Upload", icon=":material/upload:"):
        for key, label in (("new-data", "Training file"), ("new-probe", "Forgetting check")):
            st.file_uploader(label, type=["txt", "jsonl"], key=f"{key}-upload", on_change=_keep_upload, args=(key,))
    if problem := st.session_state.pop(_UPLOAD_PROBLEM, None):
        st.error(plain(problem))
    return {"data": path.strip() or None, "probe": probe.strip() or None}


def _keep_upload(key: str) -> None:
    """Save an uploaded file, and put its path into the text field."""
    file = st.session_state.get(f"{key}-upload")
    if file is None:
        return
    try:
        st.session_state[key] = str(runs.keep_file(file.name, file.getvalue()))
    except HiploraError as error:
        st.session_state[_UPLOAD_PROBLEM] = str(error)


def _sizes(session: Session) -> dict[str, Any]:
    """Draw ranks, steps and seed, with the rarely changed settings behind one more click."""
    one, two = st.columns(2)
    r = one.number_input("Rank r", 1, None, RunConfig.r, key="new-r", persist_state="session",
                         help="All methods are matched to the parameter count of a LoRA with this rank.")  # fmt: skip
    k = two.number_input("Principal rank k", 1, None, None, key="new-k", persist_state="session",
                         placeholder=f"{session.k}", help="Empty: k of the sidebar.")  # fmt: skip
    one, two = st.columns(2)
    steps = one.number_input("Steps", 1, None, RunConfig.steps, key="new-steps", persist_state="session")
    seed = two.number_input("Seed", 0, 2**32 - 1, RunConfig.seed, key="new-seed", persist_state="session")
    with st.popover("More settings", icon=":material/tune:"):
        rate = st.number_input("Learning rate", 0.0, None, None, format="%g", key="new-rate", persist_state="session",
                               placeholder=default_words("learning_rate"))  # fmt: skip
        batch = st.number_input("Batch size", 1, None, None, key="new-batch", persist_state="session",
                                placeholder=default_words("batch_size"))  # fmt: skip
        examples = st.number_input("Examples to score", 1, None, RunConfig.evaluation_size, key="new-examples",
                                   persist_state="session",
                                   help="Of the task and of each skill, at the end: fewer are faster.")  # fmt: skip
    return {
        "r": int(r),
        "principal_rank": int(k or session.k),
        "steps": int(steps),
        "seed": int(seed),
        "learning_rate": rate,
        "batch_size": batch,
        "evaluation_size": int(examples),
    }


def _own_settings() -> dict[str, Any]:
    """Draw one widget for each setting of HiP-LoRA that has a label."""
    chosen: dict[str, Any] = {}
    st.caption("HiP-LoRA")
    for each in dataclasses.fields(HipLoraSettings):
        label, rule, text = each.metadata.get("label"), each.metadata["rule"], each.metadata["help"]
        key, default = f"new-{each.name.replace('_', '-')}", cast(Any, each.default)
        if label and rule.choices:
            chosen[each.name] = st.segmented_control(label, rule.choices, default=default, key=key, required=True,
                                                     persist_state="session", help=text)  # fmt: skip
            if chosen[each.name] == "inputs":
                st.caption("Inputs are observed on the sidebar's text, else on the base's own, or English.")
        elif label:
            idle = any(chosen[other] != value for other, value in each.metadata.get("needs", {}).items())
            chosen[each.name] = st.number_input(label, 0.0, None, float(default), key=key, persist_state="session",
                                                disabled=idle, help=text)  # fmt: skip
    return chosen


def _reallocated(found: reallocation.Reallocation, session: Session) -> dict[str, Any]:
    """Show that the next run uses re-allocated budgets, and return them."""
    if not runs.same_base(found.base, session.base):
        st.caption(f"The budgets re-allocated by {plain(found.source)} are not used: its base is another one.")
        return {}
    with st.container(horizontal=True, vertical_alignment="center"):
        values = found.pattern.values()
        st.info(
            f"HiP-LoRA will use an ε per layer, {min(values):.3g} to {max(values):.3g}, re-allocated by the prices of "
            f"{plain(found.source)}.",
            icon=":material/balance:",
        )
        reallocation.drop_button("drop-in-form")
    return {"epsilon_pattern": found.pattern}


def _show_match(base: BaseModel, configs: list[RunConfig]) -> None:
    """Show how many parameters each method would train, and how that compares with the LoRA of rank r.

    Raises:
        HiploraError: the base cannot be trained, or a rank does not fit it.
    """
    rows = []
    for config in configs:
        method, match = match_on(base, config)
        ranks = sorted(set(match.ranks.values()))
        rows.append(
            {
                "Method": method.title,
                "Rank": " to ".join(str(rank) for rank in dict.fromkeys((ranks[0], ranks[-1]))),
                "Trained parameters": f"{match.parameters:,}",
                "Compared to LoRA": f"{match.difference:+.1%}",
            }
        )
    meanings = {
        "Method": meaning_of("method"),
        "Rank": meaning_of("rank"),
        "Trained parameters": meaning_of("trainable_parameters"),
        "Compared to LoRA": "Trained parameters, relative to those of a LoRA of the chosen rank.",
    }
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        width="content",
        column_config={title: st.column_config.Column(help=meaning) for title, meaning in meanings.items()},
    )
    st.caption(f"All methods match the size of a LoRA of rank {configs[0].r} within 5 %.")
