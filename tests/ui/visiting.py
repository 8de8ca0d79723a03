"""Run a page of the app without a browser."""

from collections.abc import Callable
from typing import Any

from streamlit.testing.v1 import AppTest

from hiplora.paths import site_root
from tests.waiting import LIMIT

Visit = Callable[..., AppTest]


def visit(page: str = "overview", **query: Any) -> AppTest:
    """Return a page with query parameters, once everything it needs is prepared."""
    app = AppTest.from_file(str(site_root() / "app.py"), default_timeout=LIMIT)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    if page != "overview":
        app.switch_page(f"pages/{page}.py").run()
    while any(button.label == "Stop" for button in app.button):
        app.run()
    return app
