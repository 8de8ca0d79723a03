"""The controls that ask how edits and merges are scored: on the demo world exactly, elsewhere by loss on texts."""

from typing import Literal

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from hiplora.demo.scored import ExactScores
from hiplora.paths import demo_base
from hiplora.study import Study


def is_exact(study: Study) -> bool:
    """Return whether the base is the demo's, which has exact scores."""
    return study.base.path.resolve() == demo_base().resolve()


def ask_exact(key: str, size: int) -> ExactScores:
    """Ask for the number of examples.

    Args:
        key: of the control.
        size: where nothing is chosen.
    """
    sizes = [40, 100, 200, 400]
    return ExactScores(
        st.select_slider("Examples per skill", sizes, size, key=key, help="More are surer, and take longer.")
    )


def ask_task_text(place: DeltaGenerator, label: str, key: str, bind: Literal["query-params"] | None = None) -> str:
    """Ask for the path of the text of a task; empty where none is given.

    Args:
        place: where the control stands.
        label: of the control.
        key: of the control.
        bind: where its state is kept besides.
    """
    found: str = place.text_input(
        label,
        key=key,
        bind=bind,
        persist_state="session",
        placeholder="path of a text file",
        help="Text like what the adapter was trained for, and best not the very text that it was trained on.",
    )
    return found.strip()


def ask_kept_text(place: DeltaGenerator) -> str:
    """Ask for the path of the text of what should be kept; empty for the default."""
    found: str = place.text_input(
        "Text of what should be kept",
        key="kept-text",
        bind="query-params",
        persist_state="session",
        placeholder="Python's documentation",
        help="Text like what the base is used for besides. Empty: English that comes with Python.",
    )
    return found.strip()


def ask_tokens(place: DeltaGenerator, key: str, tokens: int) -> int:
    """Ask how many tokens of each text are read.

    Args:
        place: where the control stands.
        key: of the control.
        tokens: where nothing is chosen.
    """
    found: int = place.select_slider(
        "Tokens of each",
        [512, 1024, 2048, 4096, 8192],
        tokens,
        key=key,
        persist_state="session",
        help="More are surer, and take longer.",
    )
    return found
