"""A real server and a real browser. The server starts on a free port with a cache of its own."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from hiplora.paths import site_root

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# A link that is followed before the sidebar's controls have loaded does not take their choices along.
SETTLED = '[data-testid="stApp"][data-test-script-state="notRunning"]:not(:has([data-testid="stSkeleton"]))'
PLOT = ".js-plotly-plot .nsewdrag"
PAGES = {
    "": "Overview",
    "read": "What was read",
    "spectrum": "Spectrum",
    "channels": "Channels",
    "budget": "Budget",
    "effect": "Effect",
    "merge": "Merge",
    "train": "Train",
    "compare": "Compare",
    "learn": "Learn",
}

expect.set_options(timeout=60_000)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield found
        found.close()


def free_port() -> int:
    """Return the number of a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=1).status == 200
    except OSError:
        return False


def start_server(cache: Path, runs: Path | None = None) -> tuple[subprocess.Popen[bytes], str]:
    """Start the app, wait until it answers, and return its process and its address.

    Args:
        cache: folder of the spectra.
        runs: folder of the training runs; beside the cache by default.
    """
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", "app.py", f"--server.port={port}", "--server.headless=true"],
        cwd=site_root(),
        env=os.environ
        | {"HIPLORA_CACHE": str(cache), "HIPLORA_RUNS": str(runs or cache.with_name(f"{cache.name}-runs"))},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://localhost:{port}"
    while not answers(f"{url}/_stcore/health"):
        assert process.poll() is None, f"the app left with code {process.returncode}"
        time.sleep(0.05)
    return process, url


@contextmanager
def running_server(cache: Path, runs: Path | None = None) -> Iterator[str]:
    """Start the app, hand out its address, and stop it."""
    process, url = start_server(cache, runs)
    try:
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("server-cache")) as url:
        yield url


@pytest.fixture
def fresh_server(tmp_path: Path) -> Iterator[str]:
    """A server that nobody has visited."""
    with running_server(tmp_path / "cache") as url:
        yield url


@dataclass
class Visit:
    """One browser tab on one server, with what it asked for."""

    page: Page
    url: str
    requested: list[str] = field(default_factory=list)

    def open(self, path: str = "") -> Page:
        self.page.goto(f"{self.url}/{path}")
        self.settle()
        return self.page

    def settle(self) -> None:
        self.page.wait_for_selector(SETTLED)

    def wait_for_plots(self, count: int) -> None:
        expect(self.page.locator(PLOT)).not_to_have_count(0)
        self.page.wait_for_function(f"document.querySelectorAll('.js-plotly-plot').length >= {count}")
        self.settle()

    def click_cell(self, layer: str, kind: str, row: int, plot: int = 0) -> None:
        """Click a cell of the layer map as a person does: go there, see the label, press.

        Args:
            layer: on the x axis.
            kind: on the y axis.
            row: which of the maps, from 1.
            plot: which of the page's plots holds them, from 0.
        """
        position = self.page.evaluate(
            """([layer, kind, row, at]) => {
                const plot = document.querySelectorAll('.js-plotly-plot')[at];
                plot.scrollIntoView({block: 'center'});
                const suffix = row > 1 ? String(row) : '';
                const xaxis = plot._fullLayout[`xaxis${suffix}`], yaxis = plot._fullLayout[`yaxis${suffix}`];
                const box = plot.getBoundingClientRect();
                return [box.left + xaxis._offset + xaxis.c2p(xaxis.d2c(layer)),
                        box.top + yaxis._offset + yaxis.c2p(yaxis.d2c(kind))];
            }""",
            [layer, kind, row, plot],
        )
        self.page.mouse.move(position[0] - 5, position[1])
        self.page.mouse.move(*position, steps=5)
        expect(self.page.locator(".hoverlayer .hovertext").first).to_contain_text(f"layers.{layer}.{kind}")
        self.page.mouse.click(*position)

    def assert_sound(self) -> None:
        expect(self.page.get_by_test_id("stException")).to_have_count(0)
        outside = [url for url in self.requested if not url.startswith((self.url, "data:", "blob:"))]
        assert outside == []


@pytest.fixture
def visit(browser: Browser, server: str) -> Iterator[Visit]:
    with visiting(browser, server) as found:
        yield found


@pytest.fixture
def first_visit(browser: Browser, fresh_server: str) -> Iterator[Visit]:
    with visiting(browser, fresh_server) as found:
        yield found


@contextmanager
def visiting(browser: Browser, url: str) -> Iterator[Visit]:
    """Open a tab of its own, with nothing remembered."""
    context = browser.new_context(viewport={"width": 1400, "height": 1200}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(60_000)
    found = Visit(page, url)
    page.on("request", lambda request: found.requested.append(request.url))
    yield found
    context.close()
