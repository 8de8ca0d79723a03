"""The report in a browser: opened from disk, with the network off."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

import hiplora
from hiplora.paths import demo_adapters
from tests.e2e.conftest import Visit

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    hiplora.open("demo", ["swap-lora", "swap-hiplora"]).to_html(path)
    return path


@contextmanager
def opened(browser: Browser, path: Path, **choices: Any) -> Iterator[Page]:
    """Open a file with the network off; nothing may be asked for, and nothing go wrong."""
    context = browser.new_context(offline=True, **choices)
    page, asked, wrong = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(path.as_uri())
    yield page
    assert asked == [path.as_uri()]
    assert wrong == []
    context.close()


@pytest.mark.parametrize(("scheme", "ink"), [("light", "rgb(34, 37, 43)"), ("dark", "rgb(228, 230, 234)")])
def test_figures_draw_offline_in_both_themes(browser: Browser, report: Path, scheme: str, ink: str) -> None:
    with opened(browser, report, color_scheme=scheme) as page:
        page.wait_for_selector("html[data-drawn]")
        plots = page.locator(".plot")
        assert plots.count() > 8
        for plot in plots.all():
            # Bars, points, lines or the image of a map.
            assert plot.locator(".trace, .heatmaplayer image").count() > 0
        assert page.locator(".xtick text").first.evaluate("tick => getComputedStyle(tick).fill") == ink
        assert page.locator("body").evaluate("body => getComputedStyle(body).color") == ink
        expect(page.locator("details.data table").first).to_be_hidden()
        expect(page.locator("#undrawn")).to_be_hidden()


def test_a_changed_theme_repaints_the_figures(browser: Browser, report: Path) -> None:
    with opened(browser, report, color_scheme="light") as page:
        page.wait_for_selector("html[data-drawn]")
        page.emulate_media(color_scheme="dark")
        expect(page.locator(".xtick text").first).to_have_css("fill", "rgb(228, 230, 234)")


def test_it_is_printed_on_white_with_its_figures(browser: Browser, report: Path) -> None:
    with opened(browser, report, color_scheme="dark") as page:
        page.wait_for_selector("html[data-drawn]")
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("body").evaluate("body => getComputedStyle(body).color") == "rgb(0, 0, 0)"
        expect(page.locator(".xtick text").first).to_have_css("fill", "rgb(34, 37, 43)")


def test_without_scripts_each_figure_has_its_table(browser: Browser, report: Path) -> None:
    with opened(browser, report, java_script_enabled=False) as page:
        expect(page.get_by_text("The figures are not drawn, as scripts are off")).to_be_visible()
        tables = page.locator("figure details.data table")
        assert tables.count() == page.locator("figure").count()
        for table in tables.all():
            expect(table).to_be_visible()


def test_a_narrow_screen_does_not_scroll_sideways(browser: Browser, report: Path) -> None:
    with opened(browser, report, viewport={"width": 420, "height": 900}) as page:
        page.wait_for_selector("html[data-drawn]")
        assert page.evaluate("document.documentElement.scrollWidth") <= 420


def test_a_name_that_is_markup_runs_nothing(browser: Browser, tmp_path: Path) -> None:
    shipped = next(path for path in demo_adapters() if path.name == "swap-lora")
    name = "<img src=x onerror=document.title='run'><b>"
    shutil.copytree(shipped, tmp_path / name)
    hiplora.open("demo", [tmp_path / name]).to_html(tmp_path / "report.html")
    with opened(browser, tmp_path / "report.html") as page:
        page.wait_for_selector("html[data-drawn]")
        assert page.title() == f"{name} on demo"
        assert page.locator("main img").count() == 0


def test_the_app_hands_the_report_out(visit: Visit, browser: Browser, tmp_path: Path) -> None:
    page = visit.open("?base=demo&adapters=swap-lora&k=16")
    with page.expect_download() as started:
        page.get_by_role("button", name="Report").click()
    started.value.save_as(tmp_path / started.value.suggested_filename)
    with opened(browser, tmp_path / "hiplora-report.html") as report:
        report.wait_for_selector("html[data-drawn]")
        assert report.title() == "swap-lora on demo"
