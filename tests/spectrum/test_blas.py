"""One thread for numpy and scipy, however often and from wherever it is asked for."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from threadpoolctl import ThreadpoolController, threadpool_limits

from hiplora.spectrum import blas, decompose
from hiplora.spectrum.blas import one_blas_thread
from tests.waiting import LIMIT


@pytest.fixture
def threads():
    """Tell the number of threads of each BLAS, where two are allowed."""
    with threadpool_limits(2, "blas"):
        found = ThreadpoolController().select(user_api="blas")
        yield lambda: {library.num_threads for library in found.lib_controllers}


@pytest.fixture
def frequent_switches():
    """Let Python's threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


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


def test_blocks_run_side_by_side_and_the_last_to_end_restores(threads):
    both_inside, first_is_out = threading.Barrier(2), threading.Event()

    def last():
        with one_blas_thread():
            both_inside.wait(LIMIT)
            assert first_is_out.wait(LIMIT)
            assert threads() == {1}

    with ThreadPoolExecutor(1) as pool:
        with one_blas_thread():
            found = pool.submit(last)
            both_inside.wait(LIMIT)
        first_is_out.set()
        found.result()
    assert threads() == {2}


@pytest.mark.usefixtures("frequent_switches")
def test_blocks_in_many_threads_leave_it_as_it_was(threads):
    def work(blocks):
        for _ in range(blocks):
            with one_blas_thread():
                assert threads() == {1}

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, [200] * 4))
    assert threads() == {2}


def test_torch_keeps_its_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_blas_thread():
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def in_fresh_interpreter(code, *arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, timeout=LIMIT, env=environment)


def test_scipy_is_limited_when_it_is_imported_later():
    # By its path: the package imports scipy by itself.
    in_fresh_interpreter(
        """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("blas", sys.argv[1])
blas = importlib.util.module_from_spec(spec)
spec.loader.exec_module(blas)
assert "scipy" not in sys.modules
with blas.one_blas_thread():
    import scipy.linalg
    from threadpoolctl import threadpool_info
    assert {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"} <= {1}
""",
        blas.__file__,
    )


@pytest.mark.parametrize("folder", ["torch/lib", "torch.libs"])
def test_a_blas_of_torch_keeps_its_threads(tmp_path, folder):
    numpy_paths = [
        library.filepath
        for library in ThreadpoolController().select(internal_api="openblas").lib_controllers
        if "numpy" in library.filepath
    ]
    if not numpy_paths:
        pytest.skip("numpy brings no OpenBLAS that could stand for torch's")
    (tmp_path / folder).mkdir(parents=True)
    in_fresh_interpreter(
        """
import ctypes, shutil, sys
import numpy
from hiplora.spectrum.blas import one_blas_thread
from threadpoolctl import threadpool_info, threadpool_limits
ctypes.CDLL(shutil.copy(*sys.argv[1:]))
with threadpool_limits(2, "blas"), one_blas_thread():
    found = {library["filepath"]: library["num_threads"] for library in threadpool_info()}
assert found.pop(sys.argv[2]) == 2
assert found
assert set(found.values()) == {1}
""",
        numpy_paths[0],
        tmp_path / folder / "libopenblas.so",
    )


@pytest.mark.parametrize(
    ("library", "by_thread"),
    [
        (SimpleNamespace(internal_api="openblas", threading_layer="pthreads"), False),
        (SimpleNamespace(internal_api="openblas", threading_layer="openmp"), True),
        (SimpleNamespace(internal_api="mkl", threading_layer="intel"), True),
        (SimpleNamespace(internal_api="blis", threading_layer="openmp"), False),
    ],
)
def test_what_counts_threads_by_thread_is_known(library, by_thread):
    assert blas._counts_by_thread(library) == by_thread
