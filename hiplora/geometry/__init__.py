"""The geometry of the inputs: what an update does on the inputs of a text, by the measures of the weights."""

from hiplora.geometry.calibration import Calibration
from hiplora.geometry.moments import Moments, moments_of
from hiplora.geometry.spectra import InputSpectra, effect, seen, with_inputs
from hiplora.geometry.texts import Text, default_text, read_text

__all__ = [
    "Calibration",
    "InputSpectra",
    "Moments",
    "Text",
    "default_text",
    "effect",
    "moments_of",
    "read_text",
    "seen",
    "with_inputs",
]
