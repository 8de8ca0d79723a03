import numpy as np
import pytest
from hypothesis import given

from hiplora.measures import effective_rank, stable_rank
from tests.measures.cases import cases


@given(cases(zero=False))
def test_stable_and_effective_rank_are_those_of_the_dense_update(case):
    s = np.linalg.svd(case.dW, compute_uv=False)
    p = s**2 / np.sum(s**2)
    p = p[p > 1e-300]
    found = case.delta.compact_svd[1]
    assert stable_rank(found) == pytest.approx(np.linalg.norm(case.dW) ** 2 / np.linalg.norm(case.dW, 2) ** 2)
    assert effective_rank(found) == pytest.approx(np.exp(-np.sum(p * np.log(p))))


@given(cases(zero=False))
def test_both_lie_between_one_and_the_rank(case):
    s = case.delta.compact_svd[1]
    for value in (stable_rank(s), effective_rank(s)):
        assert 1 - 1e-9 <= value <= case.delta.rank + 1e-9


def test_equal_singular_values_give_the_full_rank():
    assert stable_rank(np.full(5, 0.3)) == pytest.approx(5)
    assert effective_rank(np.full(5, 0.3)) == pytest.approx(5)


@pytest.mark.filterwarnings("error")
def test_an_update_of_zeros_has_no_rank():
    assert np.isnan(stable_rank(np.zeros(3)))
    assert np.isnan(effective_rank(np.zeros(3)))
