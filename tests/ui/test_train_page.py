"""The page Train without a browser: what its buttons do to the runs in view and to the other pages."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from streamlit.proto.PageLink_pb2 import PageLink
from streamlit.testing.v1 import AppTest

from hiplora.paths import demo_adapters, site_root
from hiplora.training import Run
from hiplora.training.events import Drift, Step
from hiplora.training.run import Status
from hiplora.training.watched import WatchedConfig
from hiplora.ui import runs
from tests.ui.test_tables import assert_explained
from tests.ui.visiting import visit
from tests.waiting import LIMIT

pytestmark = pytest.mark.usefixtures("in_the_app")


def trained(root: Path, name: str, adapter: str) -> Run:
    """A run of another script that has ended, with an adapter of the demo world."""
    run = Run.create(root / name, WatchedConfig(base="demo", method="LoRA", steps=4))
    shutil.copytree(next(path for path in demo_adapters() if path.name == adapter), run.path / "adapter")
    run.set_status(Status("finished"))
    return run


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """The folder of three runs: two have ended, one is live, so that no process is warmed up."""
    runs.launcher.clear()
    root = tmp_path / "runs"
    trained(root, "one", "rot-lora")
    # It has the name of a shipped adapter, and is another.
    trained(root, "edit-lora", "rot-hiplora")
    live = Run.create(root / "live", WatchedConfig(base="demo", method="LoRA", steps=4))
    with live.exclusively():
        live.set_status(Status("running", "Training"))
        yield root
    runs.launcher.clear()


def train(*shown: str) -> AppTest:
    """Return the page with runs in view."""
    app = AppTest.from_file(str(site_root() / "app.py"), default_timeout=LIMIT)
    app.query_params["runs"] = list(shown)
    app.run()
    return app.switch_page("pages/train.py").run()


def press(app: AppTest, label: str) -> AppTest:
    return next(button for button in app.button if button.label == label).click().run()


def compare_link(app: AppTest) -> PageLink:
    return next(link.proto for link in app.get("page_link") if link.proto.label == "Compare")


def test_compare_takes_the_runs_in_view_in_place_of_the_adapters_chosen(root: Path) -> None:
    link = compare_link(train("one", "edit-lora"))
    assert parse_qs(link.query_string) == {"base": ["demo"], "adapters": ["one", str(root / "edit-lora")]}
    assert not link.disabled


def test_compare_needs_two_runs_with_an_adapter(root: Path) -> None:
    assert compare_link(train("one", "live")).disabled


def test_run_with_the_name_of_a_shipped_adapter_is_added_as_the_run(root: Path) -> None:
    app = press(train("edit-lora"), "Add to the adapters")
    assert app.multiselect(key="adapters").value == ["swap-lora", "swap-hiplora", str(root / "edit-lora")]


def test_renamed_run_stays_in_view_and_among_the_adapters(root: Path) -> None:
    app = press(train("one"), "Add to the adapters")
    app.text_input(key="name-of-one").set_value("first")
    app.text_input(key="note-of-one").set_value("the lower rate")
    app = app.button(key="save-of-one").click().run()
    assert app.multiselect(key="runs").value == ["first"]
    assert app.multiselect(key="adapters").value == ["swap-lora", "swap-hiplora", "first"]
    table = app.dataframe[-1].value.set_index("run")
    assert table.loc["first", "note"] == "the lower rate"
    assert not (root / "one").exists()


def test_name_that_is_taken_is_refused_in_words(root: Path) -> None:
    app = train("one")
    app.text_input(key="name-of-one").set_value("edit-lora")
    app = app.button(key="save-of-one").click().run()
    assert "edit-lora exists already" in app.error[0].value
    assert (root / "one").is_dir()


def test_run_is_deleted_after_a_question_and_leaves_the_choices(root: Path) -> None:
    app = press(train("one", "edit-lora"), "Add to the adapters")
    app = app.button(key="delete-of-one").click().run()
    assert (root / "one").is_dir()
    app = app.button(key="delete-now-of-one").click().run()
    assert not (root / "one").exists()
    assert app.multiselect(key="runs").value == ["edit-lora"]
    assert app.multiselect(key="adapters").value == ["swap-lora", "swap-hiplora", str(root / "edit-lora")]


def test_live_run_of_another_script_can_be_noted_only(root: Path) -> None:
    app = train("live")
    assert app.button(key="delete-of-live").disabled
    assert app.text_input(key="name-of-live").disabled
    app.text_input(key="note-of-live").set_value("watch it")
    app.button(key="save-of-live").click().run()
    assert Run(root / "live").note == "watch it"


def test_compare_shows_the_notes_of_runs(root: Path) -> None:
    Run(root / "one").write_note("the lower rate")
    app = visit("compare", adapters=["one", "swap-lora"])
    table = app.dataframe[0].value.set_index("Adapter")
    assert table["Note"].dropna().to_dict() == {"one": "the lower rate"}


def test_the_drift_comes_before_every_other_chart(root: Path) -> None:
    run = Run(root / "one")
    run.append(Step(1, 2.0, 2.0, 0.0, None, None, seconds=1.0, tokens=0))
    run.append(Drift(1, "weights", "", 0.1, 0.06, 0.02, 0.01, 0.03, 3.0))
    drawn = [element.type for element in train("one", "edit-lora").main]
    charts = [kind for kind in drawn if "chart" in kind]
    assert charts == ["plotly_chart", "vega_lite_chart"]


def test_every_header_of_its_tables_is_explained(root: Path) -> None:
    tables = train("one").dataframe
    assert "run" in tables[-1].value
    for table in tables:
        assert_explained(table)
