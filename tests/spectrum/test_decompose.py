import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.fft
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

from hiplora.errors import HiploraError
from hiplora.spectrum import content_hash, decompose
from tests import numerics


@st.composite
def weights(draw, smallest=1, largest=40):
    m, n = draw(st.integers(smallest, largest)), draw(st.integers(smallest, largest))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.normal(size=(m, n))


def with_spectrum(shape, s, rng):
    U, _, Vt = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    return (U * s) @ Vt


def decaying(count):
    """Singular values as those of a language model's weight: slow, and no gap anywhere."""
    i = np.arange(count)
    return (i + 1.0) ** -0.25 * (1 - 0.9 * i / count)


def with_decaying_spectrum(shape, rng):
    """Return a weight with them, between random signs and cosine transforms: no decomposition of a large matrix."""
    W = np.zeros(shape)
    np.fill_diagonal(W, decaying(min(shape)))
    for axis in (0, 1):
        for _ in range(2):
            signs = np.expand_dims(rng.choice([-1.0, 1.0], shape[axis]), 1 - axis)
            W = np.take(scipy.fft.dct(W * signs, axis=axis, norm="ortho"), rng.permutation(shape[axis]), axis)
    return W


def assert_orthonormal(vectors, error=0.0):
    """Up to what each has lost in float32, and `error` before that."""
    vectors = vectors.astype(np.float64)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(len(vectors)), rtol=0, atol=numerics.kept_error(1) + error)


def value_error(W, sigma, found=None):
    """How far two decompositions of a weight may differ in a singular value, absolutely.

    Of a triplet with a residual `r`, it is off by `r`, and by `r^2` over the gap to the rest of the spectrum where
    that is less (Parlett 1998, theorem 11.7.1).
    """
    error = 2 * numerics.solver_error(W.shape, sigma[0])
    if found is None or found.complete:
        return error
    residual, gap = found.residual * sigma[0], sigma[found.k - 1] - sigma[found.k]
    return error + (min(residual, residual**2 / gap) if gap > 0 else residual)


def vector_errors(W, sigma, k, residual=0.0):
    """How far two decompositions of a weight may differ in each of the leading `k` vectors once kept in float32.

    The Gram matrix squares what is small beside the largest singular value.
    """
    solved = 2 * numerics.solver_error(W.shape, sigma[0])
    with np.errstate(divide="ignore"):
        errors = numerics.vector_errors(sigma, solved * (sigma[0] / sigma) ** 2 + residual * k**0.5 * sigma[0])
    return numerics.kept_error(1) + errors[:k, None]


@given(weights(), st.data())
def test_the_triplets_are_numpys(W, data):
    k = data.draw(st.integers(1, min(W.shape)))
    found = decompose(W, k)
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    np.testing.assert_allclose(found.sigma, s[:k], rtol=0, atol=value_error(W, s))
    # Vectors are unique up to their common sign, and where neighbours are close only as a span.
    signs = np.sign(np.sum(found.Ut * U[:, :k].T, axis=1, keepdims=True))
    for ours, theirs in ((found.Ut, U.T), (found.Vt, Vt)):
        assert np.all(np.abs(ours * signs - theirs[:k]) <= vector_errors(W, s, k))


@given(weights(smallest=8), st.data())
def test_few_triplets_come_from_the_gram_matrix_and_are_the_same(W, data):
    k = data.draw(st.integers(1, min(W.shape) // 4))
    few, all_of_them = decompose(W, k), decompose(W)
    assert (few.algorithm, all_of_them.algorithm) == ("gram-float64", "svd-float64")
    sigma = all_of_them.sigma
    np.testing.assert_allclose(few.sigma, sigma[:k], rtol=0, atol=value_error(W, sigma))
    projectors = [Ut.T @ Ut for Ut in (found.Ut[:k].astype(np.float64) for found in (few, all_of_them))]
    turned = numerics.subspace_error(sigma**2, k, 2 * numerics.solver_error(W.shape, sigma[0] ** 2))
    lifted = turned * sigma[0] / sigma[k - 1]  # the other side comes by the weight, divided by sigma_i
    np.testing.assert_allclose(*projectors, rtol=0, atol=2 * numerics.kept_error(k) + lifted)


@given(weights(), st.data())
def test_a_complete_spectrum_gives_the_weight_back(W, data):
    found = decompose(W)
    assert found.complete
    error = numerics.kept_error(1) * found.sigma[0] + value_error(W, found.sigma)
    np.testing.assert_allclose((found.Ut.T * found.sigma) @ found.Vt, W, rtol=0, atol=error)


@given(weights(smallest=4), st.data())
def test_the_largest_component_of_each_left_vector_is_positive(W, data):
    found = decompose(W, data.draw(st.integers(1, min(W.shape))))
    largest = np.take_along_axis(found.Ut, np.abs(found.Ut).argmax(axis=1)[:, None], axis=1)
    assert (largest > 0).all()


def test_the_sign_does_not_depend_on_the_way(rng):
    W = rng.normal(size=(60, 40))
    few, all_of_them = decompose(W, 3), decompose(W)
    errors = vector_errors(W, all_of_them.sigma, 3)
    assert np.all(np.abs(few.Ut - all_of_them.Ut[:3]) <= errors)
    assert np.all(np.abs(few.Vt - all_of_them.Vt[:3]) <= errors)
    np.testing.assert_array_equal(decompose(-W).Ut, decompose(W).Ut)


@given(weights(), st.data())
def test_values_fall_vectors_are_orthonormal_and_the_norm_is_that_of_the_whole(W, data):
    found = decompose(W, data.draw(st.integers(1, min(W.shape))))
    assert np.all(np.diff(found.sigma) <= value_error(W, found.sigma))
    for vectors in (found.Ut, found.Vt):
        assert_orthonormal(vectors, numerics.solver_error(W.shape, (found.sigma[0] / found.sigma[-1]) ** 2))
    assert found.frobenius == pytest.approx(np.linalg.norm(W))


@pytest.mark.parametrize("shape", [(64, 40), (40, 64)])
@pytest.mark.parametrize("k", [8, None])
def test_the_residual_is_that_of_the_triplets_before_they_are_rounded(rng, shape, k):
    W = rng.normal(size=shape)
    found = decompose(W, k)
    assert found.residual < numerics.solver_error(shape, found.sigma[0] / found.sigma[-1])
    kept = np.linalg.norm(W.T @ found.Ut.T.astype(float) - found.Vt.T * found.sigma, axis=0).max() / found.sigma[0]
    assert kept < found.residual + numerics.kept_error(1)


@pytest.mark.parametrize("shape", [(50, 40), (40, 50), (40, 40)])
def test_a_rank_deficient_weight_takes_the_dense_way_with_orthonormal_vectors(rng, shape):
    W = with_spectrum(shape, np.r_[[5, 4, 3], np.zeros(37)], rng)
    found = decompose(W, 8)
    assert found.algorithm == "svd-float64"
    np.testing.assert_allclose(found.sigma, [5, 4, 3, 0, 0, 0, 0, 0], rtol=0, atol=value_error(W, [5]))
    for vectors in (found.Ut, found.Vt):
        assert_orthonormal(vectors)


def test_vectors_stay_orthonormal_down_to_where_the_gram_matrix_is_left(rng):
    for exponent in range(1, 9):
        W = with_spectrum(
            (60, 48), np.r_[np.geomspace(1, 10.0**-exponent, 10), np.full(38, 0.5 * 10.0**-exponent)], rng
        )
        found = decompose(W, 10)
        # The Gram matrix holds the squares of the singular values to rounding of the largest.
        squared = numerics.unit_roundoff("float64") * 10.0 ** (2 * exponent) if "gram" in found.algorithm else 0.0
        assert squared <= 2e-6
        for vectors in (found.Ut, found.Vt):
            assert_orthonormal(vectors, squared)


def test_repeated_singular_values_are_no_obstacle(rng):
    W = with_spectrum((48, 40), np.repeat([3.0, 2.0], 20), rng)
    for k in (5, 20, None):
        found = decompose(W, k)
        np.testing.assert_allclose(found.sigma, np.repeat([3.0, 2.0], 20)[:k], rtol=0, atol=value_error(W, [3.0]))
        error = 3.0 * (found.residual + numerics.kept_error(1))
        np.testing.assert_allclose(found.Ut @ W, found.sigma[:, None] * found.Vt, rtol=0, atol=error)


@pytest.mark.filterwarnings("error")
def test_a_weight_of_zeros_has_a_spectrum_of_zeros():
    found = decompose(np.zeros((20, 12)), 3)
    assert found.sigma.tolist() == [0, 0, 0]
    assert (found.frobenius, found.residual) == (0, 0)


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (1, 1)])
def test_a_single_row_or_column_has_one_triplet(rng, shape):
    W = rng.normal(size=shape)
    assert decompose(W).sigma == pytest.approx([np.linalg.norm(W)])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("k", [2, None])
def test_what_is_not_finite_is_refused(rng, value, k):
    W = rng.normal(size=(30, 20))
    W[3, 4] = value
    with pytest.raises(HiploraError, match="NaN or infinite"):
        decompose(W, k)


@pytest.mark.parametrize("k", [0, -1, 21])
def test_k_out_of_range_is_a_programming_error(rng, k):
    with pytest.raises(ValueError, match="k must be between 1 and"):
        decompose(rng.normal(size=(30, 20)), k)


def test_torch_and_numpy_give_the_same_bits(rng):
    import torch

    W = rng.normal(size=(30, 20)).astype(np.float32)
    for k in (4, None):
        ours, theirs = decompose(W, k), decompose(torch.from_numpy(W), k)
        np.testing.assert_array_equal(ours.Ut, theirs.Ut)
        np.testing.assert_array_equal(ours.sigma, theirs.sigma)
        assert ours.weight_hash == theirs.weight_hash


def test_a_weight_is_hashed_by_dtype_shape_and_bytes(rng):
    import ml_dtypes
    import torch

    W = rng.normal(size=(6, 4)).astype(np.float32)
    half, brain = W.astype(np.float16), W.astype(ml_dtypes.bfloat16)
    hashes = [content_hash(array) for array in (W, half, brain, W.astype(np.float64), W.reshape(4, 6), W + 1e-3)]
    assert len(set(hashes)) == len(hashes)
    assert content_hash(torch.from_numpy(W)) == content_hash(W)
    assert content_hash(torch.from_numpy(W).half()) == content_hash(half)
    assert content_hash(torch.from_numpy(W).bfloat16()) == content_hash(brain)


def test_the_hash_is_of_the_matrix_not_of_its_place_in_memory(rng):
    import torch

    W = rng.normal(size=(6, 4)).astype(np.float32)
    assert content_hash(np.asfortranarray(W)) == content_hash(W)
    assert content_hash(W.T.copy().T) == content_hash(W)
    assert content_hash(torch.from_numpy(W.T.copy()).T) == content_hash(W)


def test_truncating_keeps_the_leading_triplets_and_what_is_known_of_the_whole(rng):
    whole = decompose(rng.normal(size=(12, 9)))
    head = whole.truncate(4)
    assert (head.k, head.complete, whole.complete) == (4, False, True)
    assert (head.frobenius, head.weight_hash, head.shape) == (whole.frobenius, whole.weight_hash, (12, 9))
    np.testing.assert_array_equal(head.Vt, whole.Vt[:4])
    for k in (0, 10):
        with pytest.raises(ValueError, match="between 1 and 9"):
            whole.truncate(k)


@pytest.mark.parametrize(("shape", "k"), [((40, 24), 4), ((24, 40), 4), ((24, 24), None)])
def test_the_routines_of_a_gpu_give_the_same_triplets(rng, shape, k):
    # torch on the CPU stands in for torch on a GPU: named with its index, it is not taken for numpy's place.
    W = rng.normal(size=shape).astype(np.float32)
    expected, found = decompose(W, k), decompose(W, k, device="cpu:0")
    assert found.algorithm == f"torch-{expected.algorithm}"
    assert found.weight_hash == expected.weight_hash
    sigma = np.linalg.svd(W.astype(np.float64), compute_uv=False)
    assert found.residual < numerics.solver_error(shape, sigma[0] / found.sigma[-1])
    np.testing.assert_allclose(found.sigma, expected.sigma, rtol=0, atol=value_error(W, sigma))
    assert np.all(np.abs(found.Ut - expected.Ut) <= vector_errors(W, sigma, found.k))
    assert np.all(np.abs(found.Vt - expected.Vt) <= vector_errors(W, sigma, found.k))


@pytest.mark.parametrize("shape", [(40, 160), (160, 40)])
def test_the_residual_sees_wrong_vectors_on_either_side(rng, shape, monkeypatch):
    from hiplora.spectrum.decompose import _Cpu

    Q = np.linalg.qr(rng.normal(size=(40, 4)))[0]
    monkeypatch.setattr(_Cpu, "leading_eigenvectors", staticmethod(lambda gram, k: Q))
    assert decompose(rng.normal(size=shape), 4).residual > 0.1


def test_what_is_not_finite_is_refused_on_a_gpu_too(rng):
    W = rng.normal(size=(12, 8))
    W[3, 2] = np.inf
    with pytest.raises(HiploraError, match="NaN or infinite"):
        decompose(W, 2, device="cpu:0")


def test_decompositions_in_threads_give_the_same_bits_and_leave_blas_as_it_was(rng):
    weights = [rng.normal(size=(160, 120)) for _ in range(8)]
    alone = [decompose(W, 8) for W in weights]
    before = threadpool_info()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda W: decompose(W, 8), weights))
    assert threadpool_info() == before
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.Ut, other.Ut)


@pytest.fixture
def krylov_from_small_sizes(monkeypatch):
    """Let weights of a few hundred columns go the way of those of thousands."""
    monkeypatch.setattr(sys.modules[decompose.__module__], "_SMALLEST_BLOCK", 8)


def test_a_few_triplets_of_a_large_weight_come_from_a_krylov_space(rng):
    W = with_decaying_spectrum((900, 896), rng)
    found = decompose(W, 32)
    assert found.algorithm == "krylov-mixed"
    assert found.residual < 1e-7
    np.testing.assert_allclose(found.sigma, decaying(896)[:32], rtol=0, atol=value_error(W, decaying(896), found))


@pytest.mark.usefixtures("krylov_from_small_sizes")
@pytest.mark.parametrize("shape", [(400, 300), (300, 400), (300, 300)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("k", [1, 8, 10])
def test_a_krylov_space_gives_the_triplets_of_the_dense_way(rng, shape, dtype, k):
    W = with_decaying_spectrum(shape, rng).astype(dtype)
    found, expected = decompose(W, k), decompose(W)
    assert found.algorithm == "krylov-mixed"
    assert found.residual < 1e-7
    error = value_error(W, expected.sigma, found)
    np.testing.assert_allclose(found.sigma, expected.sigma[:k], rtol=0, atol=error)
    errors = vector_errors(W, expected.sigma, k, found.residual)
    for ours, theirs in ((found.Ut, expected.Ut), (found.Vt, expected.Vt)):
        assert np.all(np.abs(ours - theirs[:k]) <= errors)
        assert_orthonormal(ours)


@pytest.mark.usefixtures("krylov_from_small_sizes")
@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e150])
def test_numbers_beyond_float32_are_no_obstacle_to_a_krylov_space(rng, scale):
    W = with_decaying_spectrum((320, 300), rng)
    found = decompose(scale * W, 8)
    np.testing.assert_allclose(
        found.sigma / scale, decaying(300)[:8], rtol=0, atol=value_error(W, decaying(300), found)
    )


@pytest.mark.usefixtures("krylov_from_small_sizes")
@pytest.mark.parametrize(
    "sigma",
    [
        np.geomspace(1, 1e-12, 300),
        np.r_[np.geomspace(1, 1e-4, 8), np.full(292, 0.9e-4)],
        np.r_[np.geomspace(1, 1e-7, 8), np.full(292, 0.9e-7)],
        np.r_[[5, 4, 3], np.zeros(297)],
        np.r_[np.full(100, 3.0), np.full(200, 2.0)],
        np.full(300, 2.0),
        np.r_[1e6, np.linspace(1.2, 1, 299)],
        np.linspace(1, 0.99, 300),
    ],
    ids=["steep", "small-at-k", "tiny-at-k", "rank-3", "repeated", "orthogonal", "outlier", "flat"],
)
def test_where_float32_does_not_suffice_the_triplets_are_exact_all_the_same(rng, sigma):
    W = with_spectrum((320, 300), sigma, rng)
    found = decompose(W, 8)
    assert found.residual < 1e-7
    expected = np.sort(sigma)[::-1]
    np.testing.assert_allclose(found.sigma, expected[:8], rtol=0, atol=value_error(W, expected, found))
    live = found.sigma > 1e-9 * sigma.max()
    error = sigma.max() * (found.residual + numerics.kept_error(1))
    np.testing.assert_allclose(found.Ut @ W @ found.Vt.T, np.diag(found.sigma), rtol=0, atol=error)
    for vectors in (found.Ut[live], found.Vt[live]):
        assert_orthonormal(vectors)


@pytest.mark.usefixtures("krylov_from_small_sizes")
def test_a_krylov_space_gives_the_same_bits_each_time(rng):
    W = with_decaying_spectrum((300, 320), rng)
    np.testing.assert_array_equal(decompose(W, 8).Ut, decompose(W, 8).Ut)


@pytest.mark.usefixtures("krylov_from_small_sizes")
def test_what_a_krylov_space_missed_is_found_by_the_gram_matrix(rng, monkeypatch):
    W = with_decaying_spectrum((320, 300), rng)
    monkeypatch.setattr(sys.modules[decompose.__module__], "_CORRECTIONS", 0)
    found = decompose(W, 8)
    assert found.algorithm == "gram-float64"
    np.testing.assert_allclose(found.sigma, decaying(300)[:8], rtol=0, atol=value_error(W, decaying(300)))
