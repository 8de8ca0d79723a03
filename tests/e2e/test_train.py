"""Training runs in the app: started, watched, stopped, resumed, found on other pages, and there after a crash."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from hiplora import SpectralRecorder
from hiplora.paths import demo_adapters, demo_base
from hiplora.training import Run
from hiplora.training.watched import WatchedConfig

from .conftest import Visit, running_server, start_server, visiting

pytestmark = pytest.mark.e2e

LONG = 3000
# A cold process loads torch first, beside whatever else the machine does.
PATIENCE = 120_000
ENDED = re.compile("Stopped at step|Stopped before the first step|Killed while running")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all: the base is decomposed once."""
    return tmp_path_factory.mktemp("train") / "cache"


@pytest.fixture(scope="module")
def shared(cache: Path) -> Iterator[tuple[str, Path]]:
    """A server for runs of several names, and the folder that they are kept in."""
    runs = cache.with_name("runs")
    with running_server(cache, runs) as url:
        yield url, runs


@pytest.fixture
def training(browser: Browser, shared: tuple[str, Path]) -> Iterator[Visit]:
    with visiting(browser, shared[0]) as visit:
        yield visit


def open_form(page: Page) -> None:
    # What stands below the form: once it is there, the form is as it will be.
    below = page.get_by_test_id("stMultiSelect").filter(has_text="Runs in view").or_(page.get_by_text("No run yet."))
    expect(below).to_be_visible()
    # Not by what is visible: it opens with an animation.
    if page.locator("details", has_text="New run").get_attribute("open") is None:
        page.get_by_text("New run", exact=True).click()


def start(page: Page, steps: int, seed: int, *, methods: int = 1) -> None:
    """Fill in the form and press Start; the seed gives the run a name of its own."""
    open_form(page)
    if methods == 1:
        page.get_by_role("combobox", name="Methods").press("Backspace")
        expect(page.get_by_test_id("stMultiSelect").filter(has_text="Methods")).not_to_contain_text("HiP-LoRA")
    page.get_by_label("Steps", exact=True).fill(str(steps))
    page.get_by_label("Seed", exact=True).fill(str(seed))
    page.get_by_role("button", name="More settings").click()
    page.get_by_label("Examples to score", exact=True).fill("20")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_text(re.compile("(Starting|Loading|Opening|Decomposing|Adding|Training)")).first).to_be_visible()


def wait_for_steps(page: Page, run: str, least: int) -> None:
    """Wait until the page says that a run has done so many steps."""
    page.wait_for_function(
        """([run, least]) => {
            const lines = [...document.querySelectorAll('[data-testid=stProgress], [data-testid=stMarkdown]')];
            return lines.some(line => {
                const found = line.textContent.match(/step (\\d+) of/);
                return line.textContent.includes(run) && found && Number(found[1]) >= least;
            });
        }""",
        arg=[run, least],
        timeout=PATIENCE,
    )


def wait_for_points(page: Page, least: int) -> None:
    """Wait until the first curve of the first chart has so many points."""
    page.wait_for_function(
        """least => {
            const line = document.querySelector('[data-testid=stVegaLiteChart] svg .mark-line path');
            return line && line.getAttribute('d').split('L').length >= least;
        }""",
        arg=least,
        timeout=PATIENCE,
    )


def test_two_methods_are_watched_side_by_side_and_found_in_the_sidebar(training: Visit) -> None:
    page = training.open("train")
    start(page, 12, seed=0, methods=2)
    wait_for_steps(page, "swap-lora-s0", 1)
    wait_for_points(page, 2)
    wait_for_points(page, 8)

    page.get_by_test_id("stSidebarNav").get_by_role("link", name="Overview").click()
    expect(page.get_by_role("heading", name="What does this adapter change in its base?")).to_be_visible()
    page.get_by_test_id("stSidebarNav").get_by_role("link", name="Train").click()
    expect(
        page.get_by_role("heading", name=re.compile("^At step 12 swap-lora-s0 scores .*; swap-hiplora-s0 scores"))
    ).to_be_visible()
    drift = re.compile("^At step 12 swap-lora-s0 has .* the weights and .* the inputs; swap-hiplora-s0")
    expect(page.get_by_role("heading", name=drift)).to_be_visible()
    expect(page.get_by_role("button", name="Reallocate ε by the prices of swap-hiplora-s0")).to_be_visible()
    expect(page.get_by_role("button", name="Stop", exact=True)).to_have_count(0)
    assert "runs=swap-lora-s0&runs=swap-hiplora-s0" in page.url

    page.get_by_role("button", name="Reallocate ε").click()
    expect(page.get_by_role("heading", name=re.compile("^More budget for"))).to_be_visible()
    open_form(page)
    expect(page.get_by_text("HiP-LoRA will use an ε per layer")).to_be_visible()

    page.get_by_role("button", name="Add to the adapters").click()
    expect(page.get_by_test_id("stMultiSelect").filter(has_text="Adapters")).to_contain_text("swap-hiplora-s0")
    page.get_by_test_id("stSidebarNav").get_by_role("link", name="Budget").click()
    expect(page.get_by_role("heading", name=re.compile("swap-hiplora-s0 would gain most"))).to_be_visible()
    page.get_by_test_id("stSidebarNav").get_by_role("link", name="Compare").click()
    expect(page.get_by_test_id("stMultiSelect").filter(has_text="Adapters")).to_contain_text("swap-lora-s0")
    training.wait_for_plots(1)
    training.assert_sound()


def test_run_is_stopped_and_resumed_and_seen_in_a_second_tab(
    training: Visit, browser: Browser, shared: tuple[str, Path]
) -> None:
    page = training.open("train")
    start(page, LONG, seed=1)
    wait_for_steps(page, "swap-lora-s1", 1)
    with visiting(browser, training.url) as other:
        second = other.open("train?runs=swap-lora-s1")
        wait_for_steps(second, "swap-lora-s1", 2)
        open_form(second)
        second.get_by_role("button", name="Start").click()
        expect(second.get_by_text("swap-lora-s1 is running: stop it, or wait for it to end")).to_be_visible()
        page.get_by_role("button", name="Stop", exact=True).click()
        for tab in (page, second):
            expect(tab.get_by_text(re.compile("Stopped at step"))).to_be_visible()
        second.get_by_role("button", name="Resume").click()
        stopped = Run(shared[1] / "swap-lora-s1").checkpoints[-1].step
        for tab in (second, page):
            wait_for_steps(tab, "swap-lora-s1", stopped + 1)
        other.assert_sound()
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_text(re.compile("Stopped at step"))).to_be_visible()
    training.assert_sound()


def test_run_is_there_and_resumable_after_the_server_was_killed(browser: Browser, cache: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    process, url = start_server(cache, runs)
    with visiting(browser, url) as visit:
        page = visit.open("train")
        start(page, LONG, seed=0)
        wait_for_steps(page, "swap-lora-s0", 1)
        process.kill()
        process.wait()
    with running_server(cache, runs) as url, visiting(browser, url) as visit:
        page = visit.open("train")
        expect(page.get_by_text(ENDED)).to_be_visible()
        page.get_by_role("button", name="Resume").click()
        wait_for_steps(page, "swap-lora-s0", 1)
        page.get_by_role("button", name="Stop", exact=True).click()
        expect(page.get_by_text(ENDED)).to_be_visible()
        visit.assert_sound()


def test_what_cannot_be_trained_gets_one_sentence(training: Visit, tmp_path: Path) -> None:
    page = training.open("train")
    open_form(page)
    page.get_by_label("Rank r", exact=True).fill("500")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_test_id("stAlert").filter(has_text="r=500 is larger than")).to_have_count(1)
    page.get_by_label("Rank r", exact=True).fill("8")
    page.get_by_label("Rank r", exact=True).press("Enter")
    expect(page.get_by_test_id("stAlert").filter(has_text="r=500 is larger than")).to_have_count(0)

    (tmp_path / "empty.txt").touch()
    page.get_by_role("radio", name="My own text").click()
    page.get_by_label("Training file", exact=True).fill(str(tmp_path / "empty.txt"))
    start(page, 12, seed=2)
    expect(page.get_by_test_id("stAlert").filter(has_text="empty.txt is empty")).to_be_visible()
    training.assert_sound()


def test_run_of_the_command_line_appears_by_itself(browser: Browser, cache: Path, tmp_path: Path) -> None:
    with running_server(cache, tmp_path / "runs") as url, visiting(browser, url) as visit:
        page = visit.open("train")
        expect(page.get_by_text("No run yet.")).to_be_visible()
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        config = {"base": "demo", "task": "swap", "method": "lora"}
        (elsewhere / "run.json").write_text(json.dumps({"config": config}))
        (tmp_path / "runs").mkdir(exist_ok=True)
        elsewhere.rename(tmp_path / "runs" / "from-the-shell")
        expect(page.get_by_text("Never started.")).to_be_visible()
        visit.assert_sound()


def test_compare_takes_the_runs_in_view(browser: Browser, cache: Path, tmp_path: Path) -> None:
    for name in ("rot-lora", "rot-hiplora"):
        run = Run.create(tmp_path / "runs" / f"my-{name}", WatchedConfig(base="demo", method="LoRA", steps=4))
        shutil.copytree(next(path for path in demo_adapters() if path.name == name), run.path / "adapter")
    with running_server(cache, tmp_path / "runs") as url, visiting(browser, url) as visit:
        page = visit.open("train?runs=my-rot-hiplora&runs=my-rot-lora")
        page.get_by_test_id("stMain").get_by_role("link", name="Compare", exact=True).click()
        expect(page.get_by_role("heading", name="Adapters side by side")).to_be_visible()
        expect(page.get_by_role("cell", name="swap-lora")).to_have_count(0)
        page.wait_for_url(re.compile("compare.*adapters=my-rot-hiplora&adapters=my-rot-lora"))
        visit.wait_for_plots(1)
        visit.assert_sound()


def test_training_of_another_script_is_watched_and_stopped(training: Visit, shared: tuple[str, Path]) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(demo_base())
    model = get_peft_model(base, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-3)
    ids = torch.randint(5, 40, (8, 16))
    watch = SpectralRecorder(model, steps=LONG, run=shared[1] / "theirs", every=5)

    def do(first: int, last: int) -> None:
        for step in range(first, last + 1):
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            watch.record(step, loss=loss)

    do(1, 10)
    page = training.open("train?runs=theirs")
    wait_for_steps(page, "theirs", 10)
    expect(page.get_by_role("heading", name=re.compile("^At step 10 theirs has"))).to_be_visible()
    do(11, 20)
    # Live: without a reload.
    wait_for_steps(page, "theirs", 20)
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_role("button", name="Stopping…")).to_be_visible()
    do(21, 21)
    assert watch.stop_requested
    watch.close()
    expect(page.get_by_text(f"Stopped at step 21 of {LONG}.")).to_be_visible()
    expect(page.get_by_role("button", name="Resume")).to_have_count(0)
    page.get_by_role("button", name="Add to the adapters").click()
    expect(page.get_by_test_id("stMultiSelect").filter(has_text="Adapters")).to_contain_text("theirs")
    training.assert_sound()
