"""The frame around every page: navigation, sidebar, and one sentence in place of a page that cannot be shown."""

import gc
import sys
from collections.abc import Callable
from contextvars import ContextVar
from functools import cache, wraps
from itertools import groupby
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from hiplora.errors import HiploraError
from hiplora.paths import site_root
from hiplora.ui.session import Session, sidebar
from hiplora.ui.text import plain


class Page(NamedTuple):
    """A page of the app, and where it leads.

    Attributes:
        section: of the navigation.
        name: of its file, and in its address.
        title: in the navigation.
        icon: in the navigation and on links.
        question: that it answers.
        next: name of the page whose question comes next.
    """

    section: str
    name: str
    title: str
    icon: str
    question: str
    next: str


PAGES = {
    page.name: page
    for page in (
        Page("Look", "overview", "Overview", ":material/flare:",
             "What does an adapter change in its base?", "spectrum"),
        Page("Look", "read", "What was read", ":material/fact_check:",
             "Which tensors count, how are they scaled, and what does not fit?", "overview"),
        Page("Look", "spectrum", "Spectrum", ":material/grid_on:",
             "Where in the network, and along which directions?", "channels"),
        Page("Look", "channels", "Channels", ":material/call_split:",
             "How does the update divide between strong directions and the rest?", "budget"),
        Page("Look", "budget", "Budget", ":material/speed:",
             "Would a stability budget have allowed this, layer by layer?", "effect"),
        Page("Act", "effect", "Effect", ":material/healing:",
             "What does each part of the update cause, and what if it went?", "compare"),
        Page("Act", "merge", "Merge", ":material/merge:",
             "Do two adapters conflict, and what is left of each after a merge?", "train"),
        Page("Train", "train", "Train", ":material/model_training:", "What happens while an adapter learns?", "learn"),
        Page("Train", "compare", "Compare", ":material/compare_arrows:",
             "What do two adapters do differently, and at what cost?", "merge"),
        Page("Learn", "learn", "Learn", ":material/school:", "What is spectral interference?", "overview"),
    )
}  # fmt: skip
"""The pages in the order of the navigation. A new page is its file and a line here."""
_SESSION, _TOUR_CLOSED = "_session", "_tour_closed"
_TOUR = ("overview", "spectrum", "budget", "effect", "compare")
# Not in the session's state, from which nothing can be removed once a page has stopped its run.
_IN_FRAME = ContextVar("in_frame", default=False)


def run() -> None:
    """Run the app: called by `app.py` and nothing else."""
    freeze_imports()
    page = _navigation()
    inside = _IN_FRAME.set(True)
    try:
        st.session_state[_SESSION] = sidebar()
        page.run()
        _lead_on(PAGES[page.url_path or "overview"])
    except HiploraError as error:
        show_error(error)
    finally:
        # A flag that outlives the run would let a page run without its frame.
        _IN_FRAME.reset(inside)


def require() -> Session:
    """Return the choices in the sidebar; every page calls this first.

    On a fresh server the first visit to `/spectrum` runs the page file without `app.py`: the navigation is then
    registered and the run starts again, with the frame.
    """
    if not _IN_FRAME.get():
        _navigation()
        st.rerun()
    session: Session = st.session_state[_SESSION]
    return session


def fragment(part: Callable[[], None], run_every: float | None = None) -> Callable[[], None]:
    """Make a part of a page repaint alone. It then runs outside of `run`, so it shows its errors itself.

    Args:
        part: of the page.
        run_every: seconds after which it repaints by itself.
    """

    @wraps(part)
    def guarded() -> None:
        try:
            part()
        except HiploraError as error:
            show_error(error)

    return st.fragment(guarded, run_every=run_every)


def link(
    name: str, label: str = "", *, disabled: bool = False, tooltip: str | None = None, **query: str | list[str]
) -> None:
    """Show a link to a page; base, adapters, k and the other shared choices go along.

    Args:
        name: of its file.
        label: of the link; the page's title by default.
        disabled: whether it leads nowhere yet.
        tooltip: shown on hover.
        query: choices on that page, such as `module`, which replace the present ones; a list for several.
    """
    page = PAGES[name]
    st.page_link(
        _file(name),
        label=label or page.title,
        icon=page.icon,
        disabled=disabled,
        help=tooltip,
        query_params=query or None,
    )


def tour() -> None:
    """Show the five steps through the app in a row, each with its question on hover, until they are closed."""
    if st.session_state.get(_TOUR_CLOSED, False):
        return
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        st.markdown("**Five steps:**", width="content")
        for number, name in enumerate(_TOUR, start=1):
            link(name, f"{number}. {PAGES[name].title}", tooltip=PAGES[name].question)
        st.button("Close", icon=":material/close:", key="close-tour", type="tertiary", on_click=_close_tour)


def _close_tour() -> None:
    st.session_state[_TOUR_CLOSED] = True


def _file(name: str) -> Path:
    return site_root() / "pages" / f"{name}.py"


def _lead_on(page: Page) -> None:
    """Show the question that comes after a page's own, as a link to the page that answers it."""
    following = PAGES[page.next]
    st.divider()
    link(following.name, f"Next: **{following.question}** {following.title}")


def presented() -> bool:
    """Return whether the page is presented: `?embed=true` in its address gives large type and no sidebar."""
    return bool(st.context.is_embedded)


def present_link() -> None:
    """Show a link that presents what is on the screen, or one that leads back; either opens a new tab.

    Call it after all controls: the link carries their state.
    """
    state = {name: st.query_params.get_all(name) for name in st.query_params}
    if presented():
        st.link_button(
            "Open in the app", f"?{urlencode(state, doseq=True)}", icon=":material/open_in_new:", type="tertiary"
        )
    else:
        st.link_button(
            "Present",
            f"?{urlencode({**state, 'embed': 'true'}, doseq=True)}",
            icon=":material/present_to_all:",
            type="tertiary",
            help="Large type and no sidebar, as it is now. The address of the new tab can be shared, or embedded in "
            "another page.",
        )


def show_error(error: HiploraError) -> None:
    """Show the sentence of an error, as plain text."""
    st.error(plain(str(error)), icon=":material/error:")


def freeze_imports() -> None:
    """Exclude the modules imported so far from every later garbage collection, once for each that is new."""
    _freeze_imports(len(sys.modules))


@cache
def _freeze_imports(modules: int) -> None:
    """Exclude imported modules from the garbage collection that ends every Streamlit run.

    The collection delays the messages of the run (by 0.14 s if torch is imported) and finds nothing there. Earlier
    garbage was collected at the end of the previous run.

    Args:
        modules: number of imported modules; pages import more.
    """
    gc.freeze()


def _navigation() -> StreamlitPage:
    assets = site_root() / "assets"
    # Without its own icon the tab would show the page's, which is fetched from the internet.
    st.set_page_config(page_title="hiplora", page_icon=str(assets / "icon.svg"), layout="wide")
    st.html(assets / "style.css")
    if presented():
        st.html(assets / "presentation.css")
    st.logo(str(assets / "logo.svg"), size="large", icon_image=str(assets / "icon.svg"))
    sections = {
        section: [
            st.Page(
                _file(page.name),
                title=page.title,
                icon=page.icon,
                url_path=page.name,
                default=page.name == "overview",
            )
            for page in pages
        ]
        for section, pages in groupby(PAGES.values(), lambda page: page.section)
    }
    return st.navigation(sections)
