"""Open a base and adapters as a study."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hiplora.adapters import Update
from hiplora.errors import HiploraError
from hiplora.geometry import Calibration, InputSpectra, read_text
from hiplora.settings import DEFAULT_TOKENS
from hiplora.sources import open_base
from hiplora.spectrum import BaseSpectra
from hiplora.study.core import GEOMETRY
from hiplora.study.study import Study


def open_study(
    base: str | Path,
    adapters: Sequence[str | Path | Update] = (),
    k: int = 16,
    *,
    epsilon: float | None = None,
    power: float = 1.0,
    geometry: str = "weights",
    text: str | Path | None = None,
    tokens: int = DEFAULT_TOKENS,
    download: bool = False,
    device: str = "auto",
    strict: bool = True,
) -> Study:
    """Open a base and adapters as a study.

    >>> import hiplora
    >>> study = hiplora.open("demo", ["swap-lora", "swap-hiplora"], k=16)
    >>> study.names
    ['swap-lora', 'swap-hiplora']
    >>> study.summary()[["adapter", "enrichment", "retention"]].round(2)
            adapter  enrichment  retention
    0     swap-lora        6.27       0.90
    1  swap-hiplora        2.19       0.93
    >>> study.at(k=8, epsilon=0.1).k
    8

    Args:
        base: a folder, a known name (`demo`), or a hub name.
        adapters: adapter folders, runs, names of the demo's adapters, or open updates.
        k: principal rank.
        epsilon: budget for all; None for each adapter's own.
        power: `p` of the budget's weights.
        geometry: `weights`, or `inputs` to measure what the updates do on the inputs of a text.
        text: a file, for the geometry of the inputs; by default the text that the base brings along, or English.
        tokens: of the text, at most.
        download: whether a hub name may be fetched; otherwise only what was fetched before is used.
        device: where to compute spectra: `cpu`, `cuda`, or `auto` for a GPU where there is one.
        strict: whether an adapter that cannot be used is an error; otherwise the study lists it.

    Raises:
        HiploraError: the base cannot be opened, a value is out of range, or, with `strict`, an adapter cannot be used.
    """
    spectra = BaseSpectra(open_base(base, download=download), device=device)
    GEOMETRY.require("geometry", geometry)
    if geometry != "inputs" and (text is not None or tokens != DEFAULT_TOKENS):
        raise HiploraError(
            "A text belongs to the geometry of the inputs: add geometry='inputs', or leave the text out."
        )
    if geometry == "inputs":
        spectra = InputSpectra(spectra, Calibration(spectra, None if text is None else read_text(text), tokens))
    study = Study(spectra, k=k, epsilon=epsilon, power=power, source=str(base))
    return study.on(adapters, strict=strict)


def analyze(
    base: str | Path,
    adapters: Sequence[str | Path | Update],
    k: int = 16,
    *,
    epsilon: float | None = None,
    power: float = 1.0,
    intruders: bool = False,
) -> pd.DataFrame:
    """Return the layer table of adapters on a base: the short form of `open_study(...).layers()`.

    >>> table = analyze("demo", ["swap-lora"], k=16)
    >>> len(table), table["module"].iloc[0]
    (28, 'model.layers.0.self_attn.q_proj')

    Args:
        base: as in `open_study`.
        adapters: as in `open_study`.
        k: principal rank.
        epsilon: budget for all; None for each adapter's own.
        power: `p` of the budget's weights.
        intruders: whether to count intruder dimensions too, and say how far the next one is; needs complete spectra.

    Raises:
        HiploraError: something cannot be read or does not fit, or a value is out of range.
    """
    study = open_study(base, adapters, k, epsilon=epsilon, power=power)
    return study.layers(optional=["intruders", "intruder_scale"] if intruders else [])
