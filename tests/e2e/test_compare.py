"""The page Compare in a real browser: what opens, what a click does, and a run played step by step."""

import shutil
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from playwright.sync_api import Browser, expect
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from hiplora.demo.base import Recipe, fit
from hiplora.demo.skills import find
from hiplora.paths import demo_adapters, demo_base
from hiplora.training.config import RunConfig
from hiplora.training.run import Run

from .conftest import Visit, running_server, visiting

pytestmark = pytest.mark.e2e

SKILLS, FRONTIER, BARS, MAP, LAYER, OCTAVES = range(6)
DRAWN = """at => {
    const plot = document.querySelectorAll('.js-plotly-plot')[at];
    return plot._fullData.flatMap(trace => (trace.customdata || []).map(row => Array.isArray(row) ? row[0] : row));
}"""
HEIGHT = "() => [...document.querySelectorAll('.js-plotly-plot')].at(-1)._fullData[1].y[0]"


def shipped(name: str) -> Path:
    return next(path for path in demo_adapters() if path.name == name)


def train(path: Path) -> None:
    """Train a LoRA for two times two steps, with a checkpoint after each."""
    run = Run.create(path, RunConfig(base="demo", method="lora", task="swap", steps=4))
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(demo_base(), local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(demo_base(), local_files_only=True)
    model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    recipe = Recipe(steps=2, batch_size=4, learning_rate=1e-2)
    for step in (2, 4):
        fit(model, tokenizer, {find("swap"): 1.0}, recipe, step, "test", lambda what, share: None)
        for folder in (run.path / "checkpoints" / f"checkpoint-{step}", run.path / "adapter"):
            model.save_pretrained(folder, save_embedding_layers=False)
        (run.path / "checkpoints" / f"checkpoint-{step}" / "complete").touch()


def test_the_default_view_compares_the_two_shipped_adapters(visit: Visit) -> None:
    page = visit.open("compare")
    visit.wait_for_plots(6)
    findings = page.get_by_role("heading", level=4)
    expect(findings.nth(SKILLS)).to_contain_text("Base skills kept: swap-lora 90")
    expect(findings.nth(BARS)).to_contain_text("of 28 modules hold")
    expect(findings.nth(OCTAVES)).to_contain_text("Furthest above chance: swap-lora at direction")
    expect(page.get_by_text("All train as many parameters as swap-lora, within 5%")).to_be_visible()
    expect(page.get_by_text("A run of this base with two checkpoints or more can be played here")).to_be_visible()
    visit.assert_sound()


def test_the_frontier_shows_the_shipped_adapters_of_the_task(visit: Visit) -> None:
    page = visit.open("compare?adapters=edit-lora&adapters=swap-lora")
    visit.wait_for_plots(6)
    expect(page.get_by_role("heading", level=4).nth(FRONTIER)).to_contain_text("Pareto-optimal on edit:")
    assert sorted(page.evaluate(DRAWN, FRONTIER)) == ["edit-hiplora", "edit-lora"]
    visit.assert_sound()


def test_a_click_on_the_map_opens_that_layer(visit: Visit) -> None:
    page = visit.open("compare?module=model.layers.0.self_attn.q_proj")
    visit.wait_for_plots(6)
    expect(page.get_by_role("heading", name="model.layers.0.self_attn.q_proj", level=3)).to_be_visible()
    visit.click_cell("2", "mlp.up_proj", 1, MAP)
    expect(page.get_by_role("heading", name="model.layers.2.mlp.up_proj", level=3)).to_be_visible()
    visit.assert_sound()


def test_one_adapter_alone_gets_one_sentence(visit: Visit) -> None:
    page = visit.open("compare?adapters=swap-lora")
    expect(page.get_by_test_id("stAlert")).to_contain_text("Choose at least two adapters of this base")
    visit.assert_sound()


def test_adapters_without_cards_are_compared_all_the_same(visit: Visit, tmp_path: Path) -> None:
    for name in ("swap-lora", "rot-lora"):
        shutil.copytree(shipped(name), tmp_path / f"bare-{name}", ignore=shutil.ignore_patterns("card.json"))
    page = visit.open(f"compare?adapters={tmp_path / 'bare-swap-lora'}&adapters={tmp_path / 'bare-rot-lora'}")
    visit.wait_for_plots(5)
    expect(page.get_by_test_id("stAlert").first).to_contain_text("None of the chosen adapters has scores")
    expect(page.get_by_text("of 28 modules hold")).to_be_visible()
    visit.assert_sound()


def test_a_run_is_played_through_its_checkpoints(browser: Browser, tmp_path: Path) -> None:
    train(tmp_path / "runs" / "mine")
    with running_server(tmp_path / "cache", runs=tmp_path / "runs") as url, visiting(browser, url) as visit:
        page = visit.open("compare")
        visit.wait_for_plots(7)
        expect(page.get_by_role("heading", level=4).last).to_contain_text("mine goes from")
        last = page.evaluate(HEIGHT)
        page.locator(".slider-group").last.scroll_into_view_if_needed()
        page.locator(".slider-rail-touch-rect").last.click(position={"x": 5, "y": 5})
        page.wait_for_function(f"({HEIGHT})() !== {last}")
        page.locator(".updatemenu-button").first.click()
        page.wait_for_function(f"({HEIGHT})() === {last}")
        visit.assert_sound()
