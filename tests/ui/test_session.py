"""The base box: a name that means nothing keeps the page, and the nearest names are offered."""

import pytest
from streamlit.testing.v1 import AppTest

from tests.ui.visiting import visit

pytestmark = pytest.mark.usefixtures("in_the_app")


def type_base(app: AppTest, name: str) -> AppTest:
    box = app.selectbox(key="base")
    # A browser sends what is typed as a new option.
    box.options.append(name)
    return box.set_value(name).run()


def test_an_unknown_base_keeps_the_page_and_its_adapters() -> None:
    app = type_base(visit(adapters=["edit-lora"]), "demoo")
    assert app.selectbox(key="base").value == "demo"
    assert app.multiselect(key="adapters").value == ["edit-lora"]
    assert [part.value for part in app.title] == ["What does this adapter change in its base?"]
    assert app.sidebar.warning[0].value == "demoo is neither a known model nor a folder\\."
    assert not app.error


def test_the_nearest_name_is_taken_with_a_click() -> None:
    app = type_base(visit(), "dem")
    button = next(button for button in app.sidebar.button if button.label.startswith("Did you mean"))
    assert button.label == "Did you mean demo?"
    app = button.click().run()
    assert app.selectbox(key="base").value == "demo"
    assert not app.sidebar.warning


def test_a_name_like_no_other_says_what_can_be_typed() -> None:
    app = type_base(visit(), "qqqqqq")
    assert "Type the path of a folder" in app.sidebar.warning[0].value
    assert not any(button.label.startswith("Did you mean") for button in app.sidebar.button)
