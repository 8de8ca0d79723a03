"""The frame: every page leads on to the next question, and Overview says what to do in plain words."""

import pytest
from streamlit.testing.v1 import AppTest

from hiplora.ui.shell import PAGES
from tests.ui.visiting import visit

pytestmark = pytest.mark.usefixtures("in_the_app")


def link_labels(app: AppTest) -> list[str]:
    return [link.proto.label for link in app.get("page_link")]


def test_the_questions_lead_through_every_page_and_back() -> None:
    walked, name = ["overview"], PAGES["overview"].next
    while name != "overview":
        walked.append(name)
        name = PAGES[name].next
    # What was read is for those who doubt a number; it leads back.
    assert sorted([*walked, "read"]) == sorted(PAGES)
    assert PAGES["read"].next == "overview"


@pytest.mark.parametrize("page", ["overview", "channels", "learn"])
def test_the_foot_of_a_page_asks_the_next_question(page: str) -> None:
    following = PAGES[PAGES[page].next]
    assert link_labels(visit(page))[-1] == f"Next: **{following.question}** {following.title}"


def test_overview_judges_each_adapter_and_says_where_to_look() -> None:
    app = visit(adapters=["swap-lora"])
    words = [part.value for part in app.markdown]
    assert any("hiplora shows how much a LoRA adapter changes" in part for part in words)
    assert any("It leans on the leading directions" in part for part in words)
    assert any(
        part.startswith("**Concentration:** 6\\.27 times") and "**Base skills kept:** 90" in part for part in words
    )
    assert link_labels(app)[:8] == [
        "New here? Start with Learn",
        *("1. Overview", "2. Spectrum", "3. Budget", "4. Effect", "5. Compare"),
        "Effect",
        "Where? layer 3 mlp\\.gate\\_proj, 12 times chance",
    ]
    # The browser adds the shared choices.
    assert app.get("page_link")[7].proto.query_string == "module=model.layers.3.mlp.gate_proj"


def test_the_five_steps_can_be_closed() -> None:
    app = visit(adapters=["swap-lora"])
    app.button(key="close-tour").click().run()
    assert link_labels(app)[1] == "Effect"
