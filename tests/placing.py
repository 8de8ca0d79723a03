"""Updates put on a base, and measurements as rows."""

from typing import Any

from hiplora.adapters import Placement, Update, place
from hiplora.measures import Measurement, layer_table
from hiplora.spectrum import BaseSpectra


def placed(spectra: BaseSpectra, *updates: Update) -> list[Placement]:
    """Return where each update lies on the base of the spectra."""
    return [place(spectra.base, update) for update in updates]


def row_of(measurement: Measurement) -> dict[str, Any]:
    """Return the row of the layer table that a measurement makes."""
    row: dict[str, Any] = layer_table([measurement]).to_dict("records")[0]
    return row
