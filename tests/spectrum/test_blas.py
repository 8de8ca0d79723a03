"""One thread for numpy and scipy, however often and from wherever it is asked for."""

import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from hiplora.spectrum import decompose
from hiplora.spectrum.blas import one_blas_thread


@pytest.fixture
def threads():
    """Tell the number of threads of each BLAS, where two are allowed."""
    with threadpool_limits(2, "blas"):
        blas = ThreadpoolController().select(user_api="blas")
        yield lambda: {library.num_threads for library in blas.lib_controllers}


def test_it_is_one_inside_and_as_before_after(threads):
    with one_blas_thread():
        assert threads() == {1}
        with one_blas_thread():
            pass
        assert threads() == {1}
    assert threads() == {2}


def test_it_is_as_before_after_an_error(threads):
    with pytest.raises(ValueError, match="three"), one_blas_thread():
        raise ValueError("three")
    assert threads() == {2}


def test_a_decomposition_leaves_it_as_it_was(threads, rng):
    decompose(rng.normal(size=(20, 10)))
    assert threads() == {2}
