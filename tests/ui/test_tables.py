"""Tables on the pages: every header is explained, and numbers read as in the figures."""

import json

import pandas as pd
import pyarrow as pa
import pytest
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Dataframe

from tests.ui.visiting import visit

pytestmark = pytest.mark.usefixtures("in_the_app")


def written(app: AppTest) -> pd.DataFrame:
    """Return the first table as it is written on the screen."""
    table = app.dataframe[0]
    cells = pa.ipc.open_stream(table.proto.arrow_data.styler.display_values).read_pandas()
    return cells.set_axis(table.value.columns, axis=1)


def assert_explained(table: Dataframe) -> None:
    """Each header has a help."""
    columns = json.loads(table.proto.columns)
    explained = {title for title, settings in columns.items() if settings.get("help")}
    assert set(table.value.columns) <= explained


@pytest.mark.parametrize(
    ("page", "query"),
    [("overview", {}), ("read", {}), ("compare", {}), ("learn", {"part": "One sentence"})],
)
def test_every_header_of_a_table_is_explained(page: str, query: dict[str, str]) -> None:
    app = visit(page, **query)
    assert app.dataframe
    for table in app.dataframe:
        assert_explained(table)


def test_numbers_read_as_in_the_figures() -> None:
    row = written(visit(adapters=["swap-lora"])).iloc[0]
    assert row[["Base skills kept", "Relative norm", "Principal share"]].tolist() == [
        f"{number}\N{NO-BREAK SPACE}%" for number in ("90.2", "9.57", "5.63")
    ]
    assert row[["Enrichment", "Band of chance", "Modules"]].tolist() == ["6.27", "0.86 to 1.15", "28"]


def test_a_missing_value_is_a_dash() -> None:
    table = visit("compare").dataframe[0]
    assert table.value["Budget"].isna().tolist() == [True, False]
    assert table.proto.placeholder == "–"
