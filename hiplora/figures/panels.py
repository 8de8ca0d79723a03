"""Panels next to each other, and their contents: levels, bands, and the shares by chance."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hiplora.figures.style import NULL, PRINCIPAL

SIDES = {"left": "left: what it writes", "right": "right: what it reads"}
"""Titles of the panels of left and right singular directions."""
PANELS = (("x", "y"), ("x2", "y2"))
"""Axes of these panels, as traces name them."""


def panel_row(titles: Sequence[str], spacing: float) -> go.Figure:
    """Return empty panels next to each other, with one y axis for all.

    Args:
        titles: one per panel.
        spacing: between two panels, as a share of the figure's width.
    """
    return make_subplots(
        rows=1, cols=len(titles), shared_yaxes=True, subplot_titles=list(titles), horizontal_spacing=spacing
    )


def side_panels() -> go.Figure:
    """Return empty panels for the left and the right singular directions."""
    return panel_row(list(SIDES.values()), 0.04)


def across(y: float, axes: tuple[str, str] = ("x", "y"), *, line: dict[str, Any]) -> dict[str, Any]:
    """Return the shape of a horizontal line through a whole panel.

    Args:
        y: its height.
        axes: of the panel, as traces name them.
        line: its look.
    """
    where = {"xref": f"{axes[0]} domain", "x0": 0, "x1": 1, "yref": axes[1], "y0": y, "y1": y}
    return {"type": "line", **where, "line": line}


def null_traces(
    x: np.ndarray | list[str],
    edges: tuple[npt.ArrayLike, npt.ArrayLike],
    middle: npt.ArrayLike,
    axes: tuple[str, str],
    *,
    hover: str | None = None,
) -> list[dict[str, Any]]:
    """Return the traces of chance: a 95 % band and a dashed line, named in the legend of the first panel.

    Args:
        x: positions, shape (n,).
        edges: lower and upper end of the band, shape (n,) each.
        middle: of the line, shape (n,).
        axes: of the panel, as traces name them.
        hover: template for the line; without one it does not have hover text.
    """
    low, high = edges
    where = {"type": "scatter", "mode": "lines", "xaxis": axes[0], "yaxis": axes[1]}
    band = where | {
        "x": np.concatenate([x, x[::-1]]),
        "y": np.concatenate([np.asarray(high, np.float32), np.asarray(low, np.float32)[::-1]]),
        "fill": "toself",
        "fillcolor": "rgba(138,138,138,0.3)",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "name": "95 % band",
        "showlegend": False,
    }
    line = where | {
        "x": x,
        "y": np.asarray(middle, np.float32),
        "name": "by chance, 95 % band",
        "line": {"color": NULL, "dash": "dash", "width": 2},
        "hoverinfo": None if hover else "skip",
        "hovertemplate": hover,
        "showlegend": axes[0] == "x",
    }
    return [band, line]


def octave_means(directions: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the start of each octave of directions (1, 2, 3-4, 5-8, ...) and its mean share, the last one twice.

    Args:
        directions: consecutive numbers from 1, shape (n,).
        shares: of the energy, shape (n,).
    """
    octave = np.ceil(np.log2(directions)).astype(int)
    starts = np.unique(octave, return_index=True)[1]
    means = np.array([shares[octave == octave[start]].mean() for start in starts])
    return np.append(directions[starts], directions[-1] + 1), np.append(means, means[-1])


def principal_bands(k: int, panels: Sequence[tuple[str, str]] = (("x", "y"),)) -> list[dict[str, Any]]:
    """Return the shapes for shading the principal directions.

    Args:
        k: principal rank.
        panels: axes of each, as traces name them.
    """
    band = {"type": "rect", "x0": 0.8, "x1": k + 0.5, "y0": 0, "y1": 1, "layer": "below"}
    look = {"fillcolor": PRINCIPAL, "opacity": 0.12, "line": {"width": 0}}
    return [band | look | {"xref": x, "yref": f"{y} domain"} for x, y in panels]
