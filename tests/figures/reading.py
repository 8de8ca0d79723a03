"""Reads a drawn figure back: which traces stand in which panel, and where lines and rectangles lie."""

import numpy as np
import numpy.typing as npt
import pandas as pd
import plotly.graph_objects as go


def numbers(values: object) -> npt.NDArray[np.float64]:
    return np.array(values, dtype=np.float64)


def same(drawn: object, column: pd.Series) -> None:
    """Assert that what is drawn is the column, up to the single precision that figures are sent in."""
    np.testing.assert_allclose(numbers(drawn), column.to_numpy(np.float64, na_value=np.nan), rtol=1e-6, atol=1e-12)


def of(table: pd.DataFrame, adapter: str) -> pd.DataFrame:
    return table[table["adapter"] == adapter]


def panel(figure: go.Figure, title: str) -> str:
    """Return the x axis ("x", "x2", ...) below the panel title that begins with `title`."""
    note = next(note for note in figure.layout.annotations if note.text.startswith(title))
    for axis in figure.select_xaxes():
        low, high = axis.domain
        if low <= note.x <= high:
            return axis.plotly_name.replace("axis", "")
    raise AssertionError(f"no panel below {title!r}")


def lines_in(figure: go.Figure, axis: str) -> dict[str, go.Scatter]:
    """Return the traces on an x axis by name."""
    return {trace.name: trace for trace in figure.data if (trace.xaxis or "x") == axis}


def traces(figure: go.Figure) -> dict[str, go.Scatter]:
    return {trace.name: trace for trace in figure.data if trace.name}


def filled_in(template: str, customdata: npt.NDArray[np.object_]) -> str:
    """Return what a hover says, its `%{customdata[i]}` filled in."""
    for i, value in enumerate(customdata):
        template = template.replace(f"%{{customdata[{i}]}}", str(value))
    return template


def shapes(figure: go.Figure, kind: str) -> list[go.layout.Shape]:
    return [shape for shape in figure.layout.shapes if shape.type == kind]


def level_lines(figure: go.Figure) -> dict[str, float]:
    """Return `{x axis: height}` of the horizontal lines that cross a whole panel."""
    return {
        shape.xref.removesuffix(" domain"): shape.y0
        for shape in shapes(figure, "line")
        if shape.xref.endswith(" domain") and shape.y0 == shape.y1
    }
