"""The changes of the weight's principal singular values by an update."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from hiplora.figures.panels import across
from hiplora.figures.style import (
    LABEL_WIDTH,
    NULL,
    adapter_colors,
    by_adapter,
    finish,
    of_any_geometry,
    percent_format,
    row_of_max,
    two_digits,
)


@of_any_geometry
def gains(table: pd.DataFrame, k: int) -> go.Figure:
    """Draw the first-order relative change of each principal singular value.

    Args:
        table: direction table(s) of one layer.
        k: principal rank; only these directions are drawn.
    """
    head = table[table["direction"] <= k]
    colors = adapter_colors(table["adapter"])
    bars = [
        {
            "type": "bar",
            "x": part["direction"].to_numpy(np.float32),
            "y": part["gain"].to_numpy(np.float32),
            "marker": {"color": colors[adapter]},
            "name": adapter,
            "customdata": part["core_change"].to_numpy(np.float32),
            "hovertemplate": f"direction %{{x}}<br>gain %{{y:+.3%}}<br>change %{{customdata:+.3g}}"
            f"<extra>{adapter}</extra>",
        }
        for adapter, part in by_adapter(head)
    ]
    layout = {
        "xaxis": {"title": "Principal direction", "dtick": max(1, k // 16)},
        "yaxis": {"title": "Gain c / σ", "tickformat": "+" + percent_format(head["gain"].abs().max())},
        "shapes": [across(0.0, line={"color": NULL, "width": 1})],
    }
    strongest = row_of_max(head.assign(size=head["gain"].abs()), "size")
    title = (
        f"The largest gain is {two_digits(100 * strongest['gain'])} %, on direction {int(strongest['direction'])} "
        f"({strongest['adapter']})."
        if strongest is not None
        else "The update does not change any singular value."
    )
    words = "First-order relative change of each singular value of the weight."
    return finish(go.Figure(bars, layout), title, words, 340, left=LABEL_WIDTH)
