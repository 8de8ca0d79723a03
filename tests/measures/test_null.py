import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hiplora.measures import null_of
from tests import numerics
from tests.measures import dense_reference as reference


def shares_of_isotropic_updates(k, shape, s, count=4000, seed=1):
    """Simulate: the same singular values, singular vectors uniform. Return `{side: (count,) shares}`."""
    rng = np.random.default_rng(seed)
    m, n = shape
    q, p = len(s), s**2 / np.sum(s**2)
    found = {"left": [], "right": [], "both": []}
    for _ in range(count):
        # By symmetry the principal subspaces may be the first k axes.
        X, Y = reference.haar(m, q, rng)[:k], reference.haar(n, q, rng)[:k]
        found["left"].append(p @ np.sum(X**2, axis=0))
        found["right"].append(p @ np.sum(Y**2, axis=0))
        found["both"].append(np.sum(((X * np.sqrt(p)) @ Y.T) ** 2))
    return {side: np.array(shares) for side, shares in found.items()}


CASES = {
    "one part": (4, (32, 24), np.ones(1)),
    "equal parts": (4, (32, 24), np.ones(8)),
    "falling parts": (8, (40, 48), 0.6 ** np.arange(8)),
    "as many parts as rows": (5, (12, 30), np.linspace(1, 2, 12)),
    "k is the whole": (12, (12, 30), np.linspace(1, 2, 4)),
}


@pytest.fixture(scope="module", params=CASES)
def simulated(request):
    k, shape, s = CASES[request.param]
    return k, shape, s**2 / np.sum(s**2), shares_of_isotropic_updates(k, shape, s)


@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_mean_and_spread_are_those_of_simulated_isotropic_updates(simulated, side):
    k, shape, parts, shares = simulated
    null = null_of(k, shape, parts, side)
    of_mean, of_sd = numerics.standard_errors(shares[side])
    assert null.mean == pytest.approx(shares[side].mean(), abs=5 * of_mean + 1e-12)
    assert null.sd == pytest.approx(shares[side].std(), abs=5 * of_sd + 1e-9)


@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_the_band_holds_95_percent_of_simulated_isotropic_updates(simulated, side):
    k, shape, parts, shares = simulated
    null = null_of(k, shape, parts, side)
    if null.sd < 1e-9:
        assert null.low == null.mean == null.high
        return
    inside = np.mean((shares[side] >= null.low) & (shares[side] <= null.high))
    # The band is an approximation, good to two points; 4000 draws tell them apart by six standard errors.
    assert inside == pytest.approx(0.95, abs=0.02)


@given(st.integers(2, 60), st.integers(2, 60), st.data())
def test_the_mean_is_the_share_of_directions(m, n, data):
    k = data.draw(st.integers(1, min(m, n)))
    parts = np.full(min(m, n), 1 / min(m, n))
    assert null_of(k, (m, n), parts).mean == pytest.approx(k * k / (m * n))
    assert null_of(k, (m, n), parts, "left").mean == pytest.approx(k / m)
    assert null_of(k, (m, n), parts, "right").mean == pytest.approx(k / n)


@given(st.integers(2, 60), st.data())
def test_one_part_on_one_side_is_exactly_beta_distributed(m, data):
    k = data.draw(st.integers(1, m - 1))
    null = null_of(k, (m, m), np.ones(1), "left")
    exact = stats.beta(k / 2, (m - k) / 2)
    assert (null.mean, null.sd) == (pytest.approx(exact.mean()), pytest.approx(exact.std()))
    assert (null.low, null.high) == (pytest.approx(exact.ppf(0.025)), pytest.approx(exact.ppf(0.975)))


def test_an_array_of_k_gives_the_same_as_one_k_at_a_time():
    parts = np.array([0.5, 0.3, 0.2])
    together = null_of(np.arange(1, 9), (8, 10), parts)
    for i, k in enumerate(range(1, 9)):
        alone = null_of(k, (8, 10), parts)
        for field in ("mean", "sd", "low", "high"):
            assert getattr(together, field)[i] == pytest.approx(getattr(alone, field))


def test_an_update_of_zeros_has_no_band():
    null = null_of(2, (8, 10), np.zeros(3))
    assert null.sd == 0
    assert null.low == null.high == null.mean
