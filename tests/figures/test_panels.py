"""What panels share."""

import pandas as pd
import pytest

from hiplora import figures
from hiplora.figures import style

from .conftest import K
from .reading import shapes


@pytest.mark.parametrize("name", ["singular_values", "direction_energy", "cumulative_energy"])
def test_shading_covers_the_principal_directions_and_no_other(directions: pd.DataFrame, name: str) -> None:
    figure = getattr(figures, name)(directions, K)
    shaded = shapes(figure, "rect")
    assert len(shaded) == len(list(figure.select_xaxes()))
    for shape in shaded:
        assert 0 < shape.x0 < 1
        assert K < shape.x1 < K + 1
        assert shape.fillcolor == style.PRINCIPAL
