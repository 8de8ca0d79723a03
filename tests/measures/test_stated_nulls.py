"""The null stated with a measure is its mean over random updates, whatever the weight."""

import numpy as np
import pytest

from hiplora.adapters import LowRankDelta
from hiplora.measures import DIFFERENCES, MEASURES, difference, measure, pair_table
from hiplora.spectrum import decompose

M, N, K, R_A, R_B = 24, 16, 4, 2, 5
COUNT = 1000
VALUES = {
    "0": 0.0,
    "1": 1.0,
    "k/m": K / M,
    "k/n": K / N,
    "k^2/(mn)": K**2 / (M * N),
    "k/m + k/n - 2k^2/(mn)": K / M + K / N - 2 * K**2 / (M * N),
    "(1 - k/m)(1 - k/n)": (1 - K / M) * (1 - K / N),
    r"\max(r_A, r_B) / m": R_B / M,
    r"\max(r_A, r_B) / n": R_B / N,
}


@pytest.fixture(scope="module")
def simulated():
    """`{registry: {column: (COUNT,) values}}` of pairs of random updates of one weight."""
    rng = np.random.default_rng(0)
    spectrum = decompose(rng.normal(size=(M, N)))
    single, pair = [], []
    for _ in range(COUNT):
        a, b = (LowRankDelta(rng.normal(size=(M, r)), rng.normal(size=(r, N))) for r in (R_A, R_B))
        single.append({column: info.value(measure(spectrum, a, K)) for column, info in MEASURES.items() if info.null})
        apart = measure(spectrum, difference(a, b), K).channels
        blocks = {"pp": apart.share("pp"), "mixed": apart.share("pr") + apart.share("rp"), "rr": apart.share("rr")}
        pair.append(pair_table(spectrum, {"a": a, "b": b}, K, epsilon=1.0).iloc[0].to_dict() | blocks)
    return {
        "MEASURES": {column: np.array([row[column] for row in single]) for column in single[0]},
        "DIFFERENCES": {
            column: np.array([row[column] for row in pair]) for column, info in DIFFERENCES.items() if info.null
        },
    }


@pytest.mark.parametrize(
    ("registry", "column", "null"),
    [
        pytest.param(name, info.column, info.null, id=f"{name}-{info.column}")
        for name, infos in (("MEASURES", MEASURES), ("DIFFERENCES", DIFFERENCES))
        for info in infos.values()
        if info.null
    ],
)
def test_null_is_the_mean_over_random_updates(simulated, registry, column, null):
    values = simulated[registry][column]
    # Five standard errors of the mean.
    assert values.mean() == pytest.approx(VALUES[null], abs=5 * values.std() / np.sqrt(COUNT))
