"""The inputs of the demo's base on its own skills: what ships with it for the geometry of the inputs."""

import random
from pathlib import Path
from typing import Final

from hiplora.demo.base import WEIGHTS
from hiplora.demo.skills import training_example
from hiplora.geometry import Calibration, Text
from hiplora.sources import BaseModel
from hiplora.spectrum import BaseSpectra

_LINES: Final = 1000


def calibrate_base(folder: Path, seed: int = 0) -> Calibration:
    """Observe a demo base on lines of its skills, drawn as often as in its training, and keep that beside it.

    Args:
        folder: of the base.
        seed: chooses the lines.
    """
    rng = random.Random(seed)
    skills = rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=_LINES)
    text = Text("lines of its own skills", tuple(training_example(skill, rng).text for skill in skills))
    return Calibration(BaseSpectra(BaseModel(folder)), text, beside=True).complete()
