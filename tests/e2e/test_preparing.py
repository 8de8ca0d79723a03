"""A base whose spectra are not there yet: progress, stop, and going on."""

from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from playwright.sync_api import expect
from transformers import LlamaConfig, LlamaForCausalLM

from .conftest import Visit

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def slow_base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base with enough to decompose that it takes seconds, and an adapter of it."""
    folder = tmp_path_factory.mktemp("slow")
    config = LlamaConfig(
        hidden_size=768, intermediate_size=1024, num_hidden_layers=8, num_attention_heads=4, vocab_size=32
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder / "base")
    peft = get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    peft.save_pretrained(folder / "adapter")
    return folder / "base", folder / "adapter"


def test_preparation_shows_progress_and_can_be_stopped_and_resumed(
    first_visit: Visit, slow_base: tuple[Path, Path]
) -> None:
    base, adapter = slow_base
    page = first_visit.page
    page.goto(f"{first_visit.url}/?base={base}&adapters={adapter}")
    expect(page.get_by_text("of 56 maps")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Finished ones are cached.")).to_be_visible()
    page.get_by_role("button", name="Continue").click()
    first_visit.wait_for_plots(1)
    first_visit.assert_sound()


def test_preparation_goes_on_when_the_page_is_switched(first_visit: Visit, slow_base: tuple[Path, Path]) -> None:
    base, adapter = slow_base
    page = first_visit.page
    page.goto(f"{first_visit.url}/?base={base}&adapters={adapter}")
    expect(page.get_by_text("of 56 maps")).to_be_visible()
    page.get_by_test_id("stSidebarNav").get_by_text("Channels").click()
    first_visit.wait_for_plots(2)
    first_visit.assert_sound()
