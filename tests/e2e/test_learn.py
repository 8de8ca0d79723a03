"""The page Learn in a real browser: every part renders, moves at once, and answers a line."""

import pytest
from playwright.sync_api import Browser, FloatRect, Locator, Page, expect

from .conftest import Visit, visiting

pytestmark = pytest.mark.e2e


def findings(page: Page) -> Locator:
    return page.get_by_role("heading", level=4)


def place(element: Locator) -> FloatRect:
    """Return where on the screen an element stands."""
    found = element.bounding_box()
    assert found
    return found


@pytest.mark.parametrize(
    ("part", "plots", "finding"),
    [
        ("Interference", 2, "75 % of the update's energy lies on principal directions, 25 % on residual ones."),
        ("Budget", 1, "Tightness 1.7: the hard limit scales the core to 60 % of itself."),
        ("Merging", 2, "At 20° the other adapter disturbs a task by 94 % of the task's own effect."),
        ("Why+inputs+matter", 2, "The weights say 24 times chance, the inputs do not notice it."),
    ],
)
def test_part_opens_on_its_finding_without_any_adapter(visit: Visit, part: str, plots: int, finding: str) -> None:
    page = visit.open(f"learn?part={part}&adapters=")
    visit.wait_for_plots(plots)
    expect(findings(page).first).to_contain_text(finding)
    visit.assert_sound()


@pytest.mark.parametrize(
    ("part", "slider", "finding"),
    [
        ("Interference", "Angle of the update (degrees)", "100 % on residual ones"),
        ("Budget", "C₁₁", "Tightness 3.0"),
        ("Merging", "Where the second adapter lies (degrees)", "At 90° the other adapter disturbs a task by 0 %"),
        ("Why+inputs+matter", "Use of the strong direction by inputs", "the inputs say 12 times"),
    ],
)
def test_a_move_changes_the_finding(visit: Visit, part: str, slider: str, finding: str) -> None:
    page = visit.open(f"learn?part={part}")
    visit.wait_for_plots(1)
    handle = page.get_by_role("main").get_by_role("slider", name=slider)
    handle.focus()
    handle.press("End")
    expect(findings(page).first).to_contain_text(finding)
    visit.assert_sound()


def test_a_link_shows_what_its_sender_saw(visit: Visit, browser: Browser) -> None:
    page = visit.open("learn")
    visit.wait_for_plots(2)
    page.get_by_role("main").get_by_text("More to move").click()
    for slider, key in (("Angle of the update (degrees)", "End"), ("How often rare inputs come", "End")):
        handle = page.get_by_role("main").get_by_role("slider", name=slider)
        handle.focus()
        handle.press(key)
    expect(findings(page).nth(1)).to_contain_text("At 90° outputs change by 16 % over all inputs")
    page.wait_for_url("**learn-angle=90**")
    with visiting(browser, visit.url) as other:
        linked = other.open(page.url.removeprefix(f"{visit.url}/"))
        expect(findings(linked).nth(1)).to_contain_text("At 90° outputs change by 16 % over all inputs")
        other.assert_sound()


def test_presented_page_keeps_its_state_in_large_type_without_the_sidebar(visit: Visit) -> None:
    page = visit.open("learn?part=Merging&learn-merge=90")
    visit.wait_for_plots(2)
    with page.context.expect_page() as opened:
        page.get_by_role("main").get_by_role("link", name="Present").click()
    presented = opened.value
    presented.set_default_timeout(60_000)
    expect(findings(presented).first).to_contain_text("At 90° the other adapter disturbs a task by 0 %")
    expect(presented.locator(".js-plotly-plot")).to_have_count(2)
    ticks = "[...document.querySelectorAll('.xtick text, .ytick text')]"
    presented.wait_for_function(f"{ticks}.length > 4 && {ticks}.every(each => each.style.fontSize === '18px')")
    expect(presented.get_by_test_id("stSidebar")).not_to_be_visible()
    back = presented.get_by_role("main").get_by_role("link", name="Open in the app")
    assert "embed" not in (back.get_attribute("href") or "")
    expect(page.get_by_test_id("stSidebar")).to_be_visible()


def test_what_moves_stands_beside_its_figures_and_above_them_when_narrow(visit: Visit) -> None:
    page = visit.open("learn")
    visit.wait_for_plots(2)
    knob = page.get_by_role("main").get_by_role("slider", name="Angle of the update (degrees)")
    plot = page.locator(".js-plotly-plot").first
    assert place(knob)["x"] + place(knob)["width"] < place(plot)["x"]
    page.set_viewport_size({"width": 1024, "height": 1200})
    left = "document.querySelector('[data-testid=\"stMain\"] {}').getBoundingClientRect().left"
    page.wait_for_function(f"{left.format('.js-plotly-plot')} - {left.format('.stSlider')} < 50")
    assert place(knob)["y"] < place(plot)["y"]


def test_a_picked_and_a_typed_line_are_answered(visit: Visit) -> None:
    page = visit.open("learn?part=One+sentence")
    visit.wait_for_plots(2)
    expect(findings(page).first).to_contain_text("The model must repeat jedt. Base: jedt (right). LoRA: jedh (wrong).")
    expect(findings(page).first.locator(".stMarkdownColoredBackground")).to_have_text("h")
    expect(findings(page).nth(1)).to_contain_text("LoRA alone breaks 6, HiP-LoRA alone 5, both break 7.")
    box = page.get_by_role("main").get_by_role("combobox", name="Line")
    box.fill("swap abcd=")
    box.press("Enter")
    expect(findings(page).first).to_contain_text("LoRA: dbca (right). HiP-LoRA: dbca (right).")
    page.get_by_role("main").get_by_text("edit", exact=True).click()
    expect(findings(page).first).to_contain_text("The model must remember the color of")
    visit.assert_sound()
