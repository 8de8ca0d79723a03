"""Tables for figures, made by the measures on small random weights."""

import numpy as np
import pandas as pd
import pytest

from hiplora.adapters import LowRankDelta
from hiplora.measures import direction_table, layer_table, measure, sweep_table
from hiplora.spectrum import Spectrum, decompose

K = 4
MODULES = [f"model.layers.{layer}.{kind}" for layer in (0, 1) for kind in ("self_attn.q_proj", "mlp.up_proj")]
ORDER = pd.CategoricalDtype(["a", "b", "unscored"])
NORMS = ("principal_norm", "mixed_norm", "residual_norm")


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


def two_runs() -> pd.DataFrame:
    """Two runs, measured at steps 0, 4 and 8; in `ours` the second module of layer 1 spends most, in `plain` the first
    of layer 0. Each module of `ours` has norms 3, 0 and 6 at the end, of `plain` 3, 4 and 12."""
    rows = []
    for run, price, factor, norms in (("plain", np.nan, 2.0, (3.0, 4.0, 12.0)), ("ours", 0.5, 0.62, (3.0, 0.0, 6.0))):
        for step in (0, 4, 8):
            for place, module in enumerate(MODULES):
                share = step / 8
                rank = place if run == "ours" else 3 - place
                rows.append(
                    {
                        "run": run,
                        "step": step,
                        "module": module,
                        "layer": int(module.split(".")[2]),
                        "kind": module.split(".", 3)[3],
                        "tightness": share * factor * (rank + 1) / 4,
                        "shadow_price": price,
                        **{name: share * norm for name, norm in zip(NORMS, norms, strict=True)},
                    }
                )
    return pd.DataFrame(rows).astype({"run": pd.CategoricalDtype(["plain", "ours"])})


@pytest.fixture
def history() -> pd.DataFrame:
    return two_runs()
