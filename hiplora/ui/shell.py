"""The frame around every page: navigation, sidebar, and one sentence in place of a page that cannot be shown."""

import gc
import sys
from collections.abc import Callable
from functools import cache, wraps
from itertools import chain

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from hiplora.errors import HiploraError
from hiplora.paths import site_root
from hiplora.ui.session import Session, sidebar
from hiplora.ui.text import plain

_SECTIONS = {
    "Look": (
        ("overview", "Overview", ":material/flare:"),
        ("read", "What was read", ":material/fact_check:"),
        ("spectrum", "Spectrum", ":material/grid_on:"),
        ("channels", "Channels", ":material/call_split:"),
        ("budget", "Budget", ":material/speed:"),
    ),
    "Act": (
        ("effect", "Effect", ":material/healing:"),
        ("merge", "Merge", ":material/merge:"),
    ),
    "Train": (
        ("train", "Train", ":material/model_training:"),
        ("compare", "Compare", ":material/compare_arrows:"),
    ),
    "Learn": (("learn", "Learn", ":material/school:"),),
}
"""The pages, by section: file name, title, icon. A new page is its file and a line here."""
_FRAME, _SESSION = "_frame_runs", "_session"


def run() -> None:
    """Run the app: called by `app.py` and nothing else."""
    freeze_imports()
    page = _navigation()
    st.session_state[_FRAME] = True
    try:
        st.session_state[_SESSION] = sidebar()
        page.run()
    except HiploraError as error:
        show_error(error)
    finally:
        # A flag that outlives the run would let a page run without its frame.
        st.session_state.pop(_FRAME, None)


def require() -> Session:
    """Return the choices in the sidebar; every page calls this first.

    On a fresh server the first visit to `/spectrum` runs the page file without `app.py`: the navigation is then
    registered and the run starts again, with the frame.
    """
    if _FRAME not in st.session_state:
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


def link(name: str, label: str = "") -> None:
    """Show a link to a page, if the app has it.

    Args:
        name: of its file.
        label: of the link; the page's title by default.
    """
    for page, title, icon in chain(*_SECTIONS.values()):
        if page == name:
            st.page_link(site_root() / "pages" / f"{name}.py", label=label or title, icon=icon)


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
    assets, folder = site_root() / "assets", site_root() / "pages"
    # Without its own icon the tab would show the page's, which is fetched from the internet.
    st.set_page_config(page_title="hiplora", page_icon=str(assets / "icon.svg"), layout="wide")
    st.html(assets / "style.css")
    st.logo(str(assets / "logo.svg"), size="large", icon_image=str(assets / "icon.svg"))
    sections = {
        section: [
            st.Page(folder / f"{name}.py", title=title, icon=icon, url_path=name, default=name == "overview")
            for name, title, icon in pages
        ]
        for section, pages in _SECTIONS.items()
    }
    return st.navigation(sections)
