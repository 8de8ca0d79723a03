"""Tables for figures, made by the measures on small random weights."""

import numpy as np
import pandas as pd
import pytest

from hiplora.adapters import LowRankDelta
from hiplora.measures import direction_table, layer_table, measure, sweep_table
from hiplora.spectrum import Spectrum, decompose

K = 4


def spectra() -> dict[str, Spectrum]:
    rng = np.random.default_rng(0)
    names = [f"model.layers.{i}.{kind}" for i in range(3) for kind in ("self_attn.q_proj", "mlp.down_proj")]
    return {name: decompose(rng.normal(size=(24, 18))) for name in names}


def deltas(spectrum: Spectrum) -> dict[str, LowRankDelta]:
    """One update inside the leading directions, one that knows nothing of them, one that does nothing."""
    rng = np.random.default_rng(1)
    return {
        "leading": LowRankDelta(spectrum.Ut[:2].T, spectrum.Vt[:2]),
        "random": LowRankDelta(rng.normal(size=(24, 3)), rng.normal(size=(3, 18))),
        "silent": LowRankDelta(np.zeros((24, 2)), rng.normal(size=(2, 18))),
    }


@pytest.fixture(scope="session")
def layers() -> pd.DataFrame:
    found = [
        measure(spectrum, delta, K, adapter=name, method="LoRA", module=module)
        for module, spectrum in spectra().items()
        for name, delta in deltas(spectrum).items()
    ]
    return layer_table(found)


@pytest.fixture(scope="session")
def directions() -> pd.DataFrame:
    spectrum = next(iter(spectra().values()))
    return pd.concat([direction_table(spectrum, delta, name) for name, delta in deltas(spectrum).items()])


@pytest.fixture(scope="session")
def sweeps() -> pd.DataFrame:
    spectrum = next(iter(spectra().values()))
    return pd.concat([sweep_table(spectrum, delta, name) for name, delta in deltas(spectrum).items()])
