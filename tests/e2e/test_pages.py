"""The app in a real browser: every page, from the first visit to what is taken away."""

import csv
import io
import json
import shutil
import zipfile
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from peft import LoraConfig, get_peft_model
from playwright.sync_api import Browser, expect
from safetensors.numpy import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from hiplora.paths import demo_adapters, demo_base

from .conftest import Visit, running_server, visiting

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    ("path", "plots", "title"),
    [
        ("", 1, "What does this adapter change in its base?"),
        ("spectrum", 6, "Layer by layer, direction by direction"),
        ("channels", 2, "Principal and residual channel"),
        ("budget", 2, "The stability budget"),
        ("compare", 6, "Adapters side by side"),
        ("learn", 2, "Spectral interference: five experiments"),
    ],
)
def test_page_renders_its_plots_without_leaving_the_machine(visit: Visit, path: str, plots: int, title: str) -> None:
    page = visit.open(path)
    visit.wait_for_plots(plots)
    expect(page.get_by_role("heading", name=title)).to_be_visible()
    visit.assert_sound()


def test_deep_link_works_on_a_server_that_nobody_has_visited(first_visit: Visit) -> None:
    page = first_visit.open("spectrum")
    first_visit.wait_for_plots(6)
    expect(page.get_by_test_id("stSidebarNav")).to_contain_text("Budget")
    expect(page.get_by_test_id("stSelectbox").filter(has_text="Base model")).to_be_visible()
    first_visit.assert_sound()


def test_first_page_states_the_finding(visit: Visit) -> None:
    page = visit.open()
    visit.wait_for_plots(1)
    heading = page.get_by_role("heading", level=4).first
    expect(heading).to_contain_text("swap-lora puts")
    expect(heading).to_contain_text("times as much into the top 16 directions as a random update would")


def test_a_verdict_leads_to_its_layer_and_every_page_to_the_next_question(visit: Visit) -> None:
    page = visit.open("?adapters=swap-hiplora&k=8")
    page.get_by_role("link", name="Where? layer 0 mlp.down_proj").click()
    expect(page.get_by_role("heading", name="model.layers.0.mlp.down_proj", exact=True)).to_be_visible()
    visit.settle()
    page.get_by_role("link", name="Next: How does the update divide between strong directions and the rest?").click()
    expect(page.get_by_role("heading", name="Principal and residual channel")).to_be_visible()
    expect(page.get_by_role("heading", level=4).first).to_contain_text("swap-hiplora")
    visit.settle()
    assert "adapters=swap-hiplora" in page.url
    assert "k=8" in page.url
    visit.assert_sound()


def test_click_on_a_cell_opens_that_layer(visit: Visit) -> None:
    page = visit.open("spectrum?module=model.layers.0.self_attn.q_proj")
    visit.wait_for_plots(6)
    expect(page.get_by_role("heading", name="model.layers.0.self_attn.q_proj")).to_be_visible()
    visit.click_cell("2", "mlp.up_proj", 2)
    expect(page.get_by_role("heading", name="model.layers.2.mlp.up_proj")).to_be_visible()
    visit.settle()
    visit.click_cell("3", "self_attn.v_proj", 1)
    expect(page.get_by_role("heading", name="model.layers.3.self_attn.v_proj")).to_be_visible()
    visit.assert_sound()


def test_choices_survive_a_page_switch_and_stand_in_the_link(visit: Visit) -> None:
    page = visit.open()
    visit.wait_for_plots(1)
    page.get_by_label("Principal rank k", exact=True).fill("8")
    page.get_by_label("Principal rank k", exact=True).press("Enter")
    expect(page.get_by_role("heading", level=4).first).to_contain_text("top 8 directions")
    page.get_by_test_id("stSidebarNav").get_by_text("Spectrum").click()
    expect(page.get_by_text("The principal 8 directions are shaded.")).to_be_visible()
    assert "k=8" in page.url


def test_link_reproduces_the_view(visit: Visit) -> None:
    page = visit.open("spectrum?adapters=edit-lora&k=4&measure=Relative+norm&module=model.layers.1.mlp.down_proj")
    visit.wait_for_plots(6)
    expect(page.get_by_role("heading", name="model.layers.1.mlp.down_proj")).to_be_visible()
    expect(page.get_by_role("heading", level=4).first).to_contain_text("Relative norm is highest in")
    expect(page.get_by_role("heading", level=4).first).to_contain_text("edit-lora")


def test_tighter_budget_puts_more_modules_over_it(visit: Visit) -> None:
    page = visit.open("budget?epsilon=1.0&adapters=swap-lora")
    visit.wait_for_plots(1)
    expect(page.get_by_role("heading", level=4).first).to_contain_text("swap-lora 0 of 28")
    slider = page.get_by_role("main").get_by_role("slider", name="Budget ε")
    slider.focus()
    slider.press("Home")
    expect(page.get_by_role("heading", level=4).first).to_contain_text("swap-lora 28 of 28")
    assert "epsilon=0.002" in page.url


def test_the_geometry_of_the_inputs_is_one_switch_for_all_pages(visit: Visit) -> None:
    page = visit.open()
    visit.wait_for_plots(1)
    expect(page.get_by_role("heading", level=4).first).to_contain_text("swap-lora puts 6.3 times as much")
    page.get_by_role("radio", name="Inputs").or_(page.get_by_role("button", name="Inputs")).first.click()
    expect(page.get_by_role("heading", level=4).first).to_contain_text("swap-lora puts 3.4 times as much")
    expect(page.get_by_text("Through the base's inputs on lines of its own skills, 8,192 tokens")).to_be_visible()
    assert "geometry=Inputs" in page.url
    page.get_by_test_id("stSidebarNav").get_by_text("Spectrum").click()
    expect(page.get_by_text("Through the base's inputs on lines of its own skills").first).to_be_visible()
    page.get_by_label("Text", exact=True).fill("no/such/text.txt")
    page.get_by_label("Text", exact=True).press("Enter")
    expect(page.get_by_test_id("stAlert")).to_contain_text(
        "no/such/text.txt is not a file: pass the path of a text file"
    )
    visit.assert_sound()


def test_a_text_of_ones_own_is_observed_in_the_background(visit: Visit, tmp_path: Path) -> None:
    text = tmp_path / "lines.txt"
    text.write_text("copy abc=abc\nrev abc=cba\nsort cab=abc\n" * 200)
    page = visit.open(f"?geometry=Inputs&text={text}")
    # A cold process loads transformers and the base first.
    expect(page.get_by_text("Through the base's inputs on lines.txt,")).to_be_visible(timeout=120_000)
    visit.assert_sound()


def test_table_of_a_figure_can_be_taken_away(visit: Visit) -> None:
    page = visit.open()
    visit.wait_for_plots(1)
    page.locator(".st-key-principal-share-menu").get_by_role("button").click()
    with page.expect_download() as download:
        page.locator(".st-key-principal-share-csv").get_by_role("button").click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert [row["adapter"] for row in rows] == ["swap-lora", "swap-hiplora"]
    assert float(rows[0]["enrichment"]) > float(rows[1]["enrichment"])


def test_a_mistyped_base_keeps_the_page_and_offers_the_nearest(visit: Visit) -> None:
    page = visit.open("?adapters=edit-lora")
    visit.wait_for_plots(1)
    box = page.get_by_test_id("stSelectbox").filter(has_text="Base model").get_by_role("combobox")
    box.fill("dmo")
    box.press("Enter")
    expect(page.get_by_text("dmo is neither a known model nor a folder.")).to_be_visible()
    expect(page.get_by_role("heading", level=4).first).to_contain_text("edit-lora puts")
    page.get_by_role("button", name="Did you mean demo?").click()
    expect(page.get_by_text("dmo is neither")).to_have_count(0)
    visit.assert_sound()


def test_missing_base_gets_one_sentence(visit: Visit) -> None:
    page = visit.open("?base=./no/such/folder")
    expect(page.get_by_test_id("stAlert")).to_contain_text("no/such/folder is not a folder")
    visit.assert_sound()


@pytest.mark.parametrize("path", ["", "spectrum", "channels", "budget", "compare"])
def test_k_larger_than_a_layer_takes_all_its_directions(visit: Visit, path: str) -> None:
    visit.open(f"{path}?k=500")
    visit.wait_for_plots(1)
    visit.assert_sound()


def test_adapter_of_another_base_is_described_without_it(visit: Visit, tmp_path: Path) -> None:
    model = LlamaForCausalLM(LlamaConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=1, vocab_size=32))
    get_peft_model(model, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "stranger")
    page = visit.open(f"?adapters={tmp_path / 'stranger'}")
    expect(page.get_by_test_id("stAlert")).to_contain_text("belongs to another base")
    expect(page.get_by_role("heading", name="stranger, without its base")).to_be_visible()
    expect(page.get_by_test_id("stDataFrame")).to_be_visible()
    visit.assert_sound()


def test_names_from_a_file_or_a_link_are_shown_as_text(visit: Visit, tmp_path: Path) -> None:
    trap = "![p](http://localhost:9/picture.png) [link](http://localhost:9/) $x$"
    source = next(path for path in demo_adapters() if path.name == "swap-lora")
    folder = tmp_path / "trap"
    shutil.copytree(source, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": trap}))
    page = visit.open(f"?adapters={folder}")
    visit.wait_for_plots(1)
    expect(page.get_by_test_id("stAlert").first).to_contain_text(f"It names {trap} as its base")
    page = visit.open("?base=" + quote(f"./{trap}"))
    expect(page.get_by_test_id("stAlert").first).to_contain_text("is not a folder")
    assert page.get_by_role("main").get_by_role("link").count() == 0
    visit.assert_sound()


def test_adapter_with_nan_does_not_hide_the_good_one(visit: Visit, tmp_path: Path) -> None:
    source = next(path for path in demo_adapters() if path.name == "swap-lora")
    folder = tmp_path / "diverged"
    shutil.copytree(source, folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({key: np.full_like(t, np.nan) for key, t in tensors.items()}, folder / "adapter_model.safetensors")
    page = visit.open(f"?adapters=swap-hiplora&adapters={folder}")
    visit.wait_for_plots(1)
    expect(page.get_by_test_id("stAlert").first).to_contain_text("holds NaN or infinite values")
    expect(page.get_by_role("heading", level=4).first).to_contain_text("swap-hiplora puts")
    visit.assert_sound()


def test_cache_that_cannot_be_written_gets_one_sentence(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with running_server(tmp_path / "file" / "cache") as url, visiting(browser, url) as visit:
        page = visit.open()
        expect(page.get_by_test_id("stAlert")).to_contain_text("cannot be written: set HIPLORA_CACHE")
        visit.assert_sound()


def test_one_bad_adapter_does_not_hide_the_good_one(visit: Visit, tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "adapter_config.json").write_text("{}")
    page = visit.open(f"?adapters=swap-lora&adapters={tmp_path}")
    visit.wait_for_plots(1)
    expect(page.get_by_test_id("stAlert").first).to_contain_text("Git LFS pointer")
    visit.assert_sound()


def test_what_was_read_accounts_for_every_adapter(visit: Visit, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    small = {"base_model.model.x.lora_A.weight": rng.normal(size=(2, 4))}
    small["base_model.model.x.lora_B.weight"] = rng.normal(size=(4, 2))
    (tmp_path / "stranger").mkdir()
    save_file(small, tmp_path / "stranger" / "adapter_model.safetensors")
    (tmp_path / "stranger" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2}))
    page = visit.open(f"read?adapters=swap-lora&adapters={quote(str(tmp_path / 'stranger'))}")
    expect(page.get_by_text("28 of 28 modules fit demo; 56 of 56 tensors count in its numbers.")).to_be_visible()
    expect(page.get_by_text("0 of 1 modules fit demo; 2 of 2 tensors count in its numbers.")).to_be_visible()
    expect(page.get_by_text("stranger belongs to another base")).to_be_visible()
    with page.expect_download() as download:
        # By its key: the second adapter's button can be drawn before the first's.
        page.locator(".st-key-inspect-swap-lora").get_by_role("button", name="JSON").click()
    assert json.loads(Path(download.value.path()).read_text())["effect"] == "all"
    visit.assert_sound()


def test_an_edit_is_scored_and_taken_away(visit: Visit) -> None:
    page = visit.open("effect?adapters=swap-lora")
    expect(page.get_by_role("button", name="Score the four blocks")).to_be_visible()
    page.get_by_role("main").get_by_role("slider", name="Examples per skill").press("Home")
    page.get_by_role("button", name="Score this edit").click()
    expect(page.get_by_text("Beside it the edit keeps")).to_be_visible()
    expect(page.get_by_text("hiplora edit swap-lora --base demo --k 16 --pp 0 --out edited")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as LoRA").click()
    with zipfile.ZipFile(download.value.path()) as packed:
        assert [Path(name).name for name in packed.namelist()] == ["adapter_config.json", "adapter_model.safetensors"]
    visit.assert_sound()


def test_another_base_is_scored_by_loss_on_two_texts(visit: Visit, tmp_path: Path) -> None:
    base = shutil.copytree(demo_base(), tmp_path / "own-base", ignore=shutil.ignore_patterns("inputs"))
    (tmp_path / "task.txt").write_text("swap abcd=badc\nswap efgh=fehg\n" * 30)
    (tmp_path / "kept.txt").write_text("copy abc=abc\nrev abc=cba\n" * 30)
    swap = next(path for path in demo_adapters() if path.name == "swap-lora")
    page = visit.open(f"effect?base={quote(str(base))}&adapters={quote(str(swap))}&task-text={tmp_path}/absent.txt")
    expect(page.get_by_text("absent.txt is not a file: pass the path of a text file.")).to_be_visible()
    for label, name in (("Text of the task", "task.txt"), ("Text of what should be kept", "kept.txt")):
        box = page.get_by_role("textbox", name=label)
        box.fill(str(tmp_path / name))
        box.press("Enter")
        visit.settle()
    page.get_by_role("button", name="Score this edit").click()
    expect(page.get_by_text("Beside it the edit saves the kept text")).to_be_visible()
    for name in ("Budget", "Effect"):
        page.get_by_test_id("stSidebarNav").get_by_role("link", name=name).click()
        visit.settle()
    expect(page.get_by_text("Beside it the edit saves the kept text")).to_be_visible()
    visit.assert_sound()


def test_two_adapters_are_merged_scored_and_taken_away(visit: Visit) -> None:
    page = visit.open("merge?adapters=swap-lora&adapters=edit-lora")
    visit.wait_for_plots(1)
    expect(page.get_by_role("heading", level=4).first).to_contain_text(
        "swap-lora and edit-lora clearly reinforce each other in"
    )
    page.get_by_role("button", name="Predict by geometry").click()
    expect(page.get_by_text("Predicted by geometry, before anything is scored:")).to_be_visible()
    visit.settle()
    page.get_by_role("main").get_by_role("slider", name="Examples per skill").press("Home")
    visit.settle()
    page.get_by_role("button", name="Score these ways").click()
    # A cold process loads transformers and the base first.
    expect(page.get_by_text("of 39 rows")).to_be_visible(timeout=120_000)
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Score these ways")).to_be_visible()
    page.get_by_role("button", name="Measure the balance").click()
    expect(page.get_by_text("both tasks keep the most")).to_be_visible()
    expect(
        page.get_by_text("hiplora merge demo swap-lora edit-lora --how sum --weights 1 1 --out merged")
    ).to_be_visible()
    page.get_by_label("Cut to rank", exact=True).fill("4")
    page.get_by_label("Cut to rank", exact=True).press("Enter")
    expect(page.get_by_text("--weights 1 1 --rank 4 --out merged")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as LoRA").click()
    with zipfile.ZipFile(download.value.path()) as packed:
        assert {Path(name).name for name in packed.namelist()} == {
            "adapter_config.json",
            "adapter_model.safetensors",
            "merge.json",
        }
        config = next(name for name in packed.namelist() if name.endswith("adapter_config.json"))
        assert json.loads(packed.read(config))["r"] == 4
    visit.assert_sound()


def test_merges_on_another_base_are_scored_by_loss_on_a_text_of_each_task(visit: Visit, tmp_path: Path) -> None:
    base = shutil.copytree(demo_base(), tmp_path / "own-base", ignore=shutil.ignore_patterns("inputs"))
    (tmp_path / "swap.txt").write_text("swap abcd=badc\nswap efgh=fehg\n" * 30)
    (tmp_path / "kept.txt").write_text("copy abc=abc\nrev abc=cba\n" * 30)
    chosen = [path for path in demo_adapters() if path.name in ("swap-lora", "swap-hiplora")]
    page = visit.open(f"merge?base={quote(str(base))}&" + "&".join(f"adapters={quote(str(path))}" for path in chosen))
    expect(page.get_by_text("Name a text file of each task")).to_be_visible()
    boxes = {"Text of swap-lora's task": "absent.txt", "Text of what should be kept": "kept.txt"}
    for label, name in boxes.items():
        box = page.get_by_role("textbox", name=label)
        box.fill(str(tmp_path / name))
        box.press("Enter")
        visit.settle()
    expect(page.get_by_text("absent.txt is not a file: pass the path of a text file.")).to_be_visible()
    box = page.get_by_role("textbox", name="Text of swap-lora's task")
    box.fill(str(tmp_path / "swap.txt"))
    box.press("Enter")
    visit.settle()
    page.get_by_role("button", name="Measure the balance").click()
    expect(page.get_by_text("By the loss of the next token.")).to_be_visible(timeout=120_000)
    expect(page.get_by_text("both tasks keep the most")).to_be_visible()
    visit.assert_sound()


def test_one_adapter_alone_has_nothing_to_merge_with(visit: Visit) -> None:
    page = visit.open("merge?adapters=swap-lora")
    expect(page.get_by_test_id("stAlert")).to_contain_text("Choose at least two adapters of this base")
    visit.assert_sound()


def test_one_file_is_uploaded_alone(visit: Visit, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    name = "lora_te_model_layers_0_self_attn_q_proj"
    factors = {
        f"{name}.lora_down.weight": rng.normal(size=(2, 128)),
        f"{name}.lora_up.weight": rng.normal(size=(128, 2)),
    }
    save_file(factors, tmp_path / "style.safetensors")
    page = visit.open("read")
    page.get_by_text("Upload an adapter").click()
    page.get_by_test_id("stFileUploaderDropzoneInput").set_input_files([tmp_path / "style.safetensors"])
    expect(page.get_by_text("style.safetensors alone; PEFT's needs its adapter_config.json.")).to_be_visible()
    page.get_by_role("button", name="Add to the adapters").click()
    expect(page.get_by_text("1 of 1 modules fit demo; 2 of 2 tensors count in its numbers.")).to_be_visible()
    expect(page.get_by_text("Nothing says the alpha of 1 modules")).to_be_visible()
    visit.assert_sound()


def test_upload_is_shown_beside_the_shipped_adapter_of_its_name(visit: Visit) -> None:
    folder = next(path for path in demo_adapters() if path.name == "edit-lora")
    page = visit.open("?adapters=swap-lora")
    visit.wait_for_plots(1)
    page.get_by_text("Upload an adapter").click()
    page.get_by_label("Name", exact=True).fill("swap-lora")
    drop = page.get_by_test_id("stFileUploaderDropzoneInput")
    drop.set_input_files([folder / "adapter_config.json"])
    expect(page.get_by_text("Add adapter_model.safetensors of the same adapter.")).to_be_visible()
    drop.set_input_files([folder / "adapter_model.safetensors"])
    page.get_by_role("button", name="Add to the adapters").click()
    expect(page.get_by_test_id("stMultiSelect")).to_contain_text("swap-lora-2")
    expect(page.get_by_role("heading", level=4).first).to_contain_text("swap-lora puts 6.3 times as much")
    visit.assert_sound()
