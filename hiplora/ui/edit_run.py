"""Rename, note and delete runs on a page; the choices of the visitor follow."""

from collections.abc import Sequence

import streamlit as st

from hiplora.errors import HiploraError
from hiplora.training import Run
from hiplora.training.run import NOTE_LENGTH
from hiplora.ui import reallocation, runs
from hiplora.ui.text import plain

_PROBLEM, _ASKED = "edit-run-problem", "edit-run-asked"


def offer(shown: Sequence[Run], key: str) -> None:
    """Draw a menu with the name and the note of each run, and a button to delete it.

    Args:
        shown: the runs.
        key: of the widget that holds the names of the runs in view.
    """
    with st.popover("Edit", icon=":material/edit:", key="edit-runs"):
        if problem := st.session_state.pop(_PROBLEM, None):
            st.error(plain(problem), icon=":material/error:")
        for run in shown:
            busy = bool(runs.phase(run))
            st.text_input("Name", run.name, key=_key("name", run), disabled=busy,
                          help="Fixed while the run trains." if busy else None)  # fmt: skip
            st.text_input("Note", run.note, key=_key("note", run), max_chars=NOTE_LENGTH,
                          placeholder="A line for yourself")  # fmt: skip
            with st.container(horizontal=True):
                st.button("Save", icon=":material/check:", key=_key("save", run), on_click=_save, args=(run, key))
                st.button("Delete…", icon=":material/delete:", key=_key("delete", run), disabled=busy,
                          on_click=_ask, args=(run,), help="Stop the run first." if busy else None)  # fmt: skip
            if st.session_state.get(_ASKED) == run.name and not busy:
                _confirm(run, key)


def _ask(run: Run) -> None:
    st.session_state[_ASKED] = run.name


def _confirm(run: Run, key: str) -> None:
    """Say what goes with a run, and draw the button that deletes it."""
    count = len(run.checkpoints)
    words = f"{plain(str(run.path))} goes for good, with {count} checkpoint{'s' * (count != 1)}."
    if above := run.based_on_it():
        names = plain(", ".join(each.name for each in above))
        words += f" Trained on top of it, and neither complete nor resumable without it: {names}."
    st.warning(words, icon=":material/warning:")
    with st.container(horizontal=True):
        st.button(f"Delete {plain(run.name)}", type="primary", key=_key("delete-now", run),
                  on_click=_delete, args=(run, key))  # fmt: skip
        st.button("Keep it", key=_key("keep", run), on_click=_forget)


def _forget() -> None:
    st.session_state.pop(_ASKED, None)


def _save(run: Run, key: str) -> None:
    try:
        found = run.rename(st.session_state[_key("name", run)].strip()) if not runs.phase(run) else run
        if found is not run:
            _follow(run, found, key)
        found.write_note(st.session_state[_key("note", run)])
    except HiploraError as error:
        st.session_state[_PROBLEM] = str(error)


def _delete(run: Run, key: str) -> None:
    _forget()
    try:
        if runs.phase(run):
            raise HiploraError(f"{run.name} has been started: stop it before you delete it.")
        run.delete()
    except HiploraError as error:
        st.session_state[_PROBLEM] = str(error)
    if not run.path.exists():
        _follow(run, None, key)


def _follow(old: Run, new: Run | None, key: str) -> None:
    """Give the new name of a run to the choices that hold its old one, or drop it from them."""
    names = {old.name: new.name, str(old.path): str(new.path)} if new else {}
    for choice in (key, "adapters"):
        kept = st.session_state.get(choice, [])
        gone = () if new else (old.name, str(old.path))
        st.session_state[choice] = [names.get(name, name) for name in kept if name not in gone]
    if not st.session_state[key] and (left := runs.found()):
        st.session_state[key] = [run.name for run in runs.latest_group(left)]
    reallocation.follow(old, new)


def _key(what: str, run: Run) -> str:
    return f"{what}-of-{run.name}"
