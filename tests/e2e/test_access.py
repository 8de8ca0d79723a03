"""Every page can be read and used by everyone: axe finds no serious or critical barrier, in either theme."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from .conftest import PAGES, Visit, visiting

pytestmark = pytest.mark.e2e

# Streamlit groups the links of the navigation inside one list, where only list items may be.
CONTEXT = {"exclude": [['[data-testid="stSidebarNavItems"]']]}
OPTIONS = {"resultTypes": ["violations"]}
TRIES = 10


@pytest.mark.parametrize("path", PAGES)
def test_page_has_no_serious_barrier(visit: Visit, path: str) -> None:
    page = visit.open(path)
    visit.settle()
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        page.wait_for_function(
            """theme => getComputedStyle(document.querySelector('[data-testid="stApp"]')).colorScheme === theme
                && document.getAnimations().every(animation => animation.playState !== 'running')""",
            arg=theme,
        )
        barriers = ["not looked at yet"]
        # Parts that a run is about to replace are faded, and so pale: a barrier that stays is one.
        for _ in range(TRIES):
            visit.settle()
            barriers = _barriers(page, theme)
            if not barriers:
                break
            page.wait_for_timeout(500)
        assert barriers == []


def _barriers(page: Page, theme: str) -> list[str]:
    found = Axe().run(page, context=CONTEXT, options=OPTIONS).response["violations"]
    return [
        f"{theme}: {each['id']}: {node['html']}: {node['any'][0]['message'] if node['any'] else ''}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


def test_figures_stand_below_each_other_on_a_narrow_screen(browser: Browser, server: str) -> None:
    with visiting(browser, server) as visit:
        page = visit.open("spectrum")
        visit.wait_for_plots(6)
        lefts = "[...document.querySelectorAll('.js-plotly-plot')].map(each => each.getBoundingClientRect().left)"
        assert len(set(page.evaluate(lefts))) == 2
        page.set_viewport_size({"width": 1024, "height": 1200})
        page.wait_for_function(f"new Set({lefts}).size === 1")
