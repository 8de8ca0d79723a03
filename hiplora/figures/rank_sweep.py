"""The principal block's enrichment for every principal rank."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from hiplora.figures.axes import direction_axis, log_axis
from hiplora.figures.panels import across
from hiplora.figures.style import (
    LABEL_WIDTH,
    NULL,
    PRINCIPAL,
    adapter_colors,
    adapter_dashes,
    by_adapter,
    finish,
    of_any_geometry,
    two_digits,
)


@of_any_geometry
def sweep(table: pd.DataFrame, k: int) -> go.Figure:
    """Draw the principal block's enrichment for every `k` at once.

    Args:
        table: sweep table(s) of one layer.
        k: principal rank in use, marked.
    """
    colors, dashes = adapter_colors(table["adapter"]), adapter_dashes(table["adapter"])
    lines = [
        {
            "type": "scatter",
            "x": part["principal_rank"].to_numpy(np.float32),
            "y": part["enrichment"].to_numpy(np.float32),
            "mode": "lines",
            "name": adapter,
            "line": {"color": colors[adapter], "dash": dashes[adapter], "width": 2},
            "customdata": part["pp"].to_numpy(np.float32),
            "hovertemplate": f"k = %{{x}}<br>%{{y:.3g}}× chance<br>share %{{customdata:.3%}}<extra>{adapter}</extra>",
        }
        for adapter, part in by_adapter(table[table["pp"] > 0])
    ]
    here = {"type": "line", "xref": "x", "yref": "y domain", "x0": k, "x1": k, "y0": 0, "y1": 1}
    layout = {
        "xaxis": {"title": "Principal rank k", **direction_axis(table["principal_rank"].max())},
        "yaxis": {"title": "Enrichment (1 = chance)", **log_axis(table["enrichment"])},
        "shapes": [
            across(1.0, line={"color": NULL, "dash": "dash", "width": 2}),
            here | {"line": {"color": PRINCIPAL, "width": 1.5, "dash": "dot"}},
        ],
    }
    at_k = table[table["principal_rank"] == k]
    words = ", ".join(f"{row['adapter']} {two_digits(row['enrichment'])}×" for _, row in at_k.iterrows())
    return finish(
        go.Figure(lines, layout),
        f"Enrichment at k = {k}: {words}.",
        "Principal block's share over its share by chance, for every k: the split depends on k.",
        340,
        left=LABEL_WIDTH,
    )
