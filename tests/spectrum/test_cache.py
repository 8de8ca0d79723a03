import multiprocessing
import os
import warnings

import numpy as np
import pytest

from hiplora.errors import HiploraError
from hiplora.spectrum import SpectrumCache, content_hash, decompose, default_cache, prepare, spectrum_of
from hiplora.spectrum import cache as cache_module
from hiplora.spectrum.cache import stored_k
from tests.waiting import LIMIT


@pytest.fixture
def cache(tmp_path):
    return SpectrumCache(tmp_path / "cache")


@pytest.fixture
def wide(rng):
    """A weight so large that not all triplets are kept."""
    return rng.normal(size=(1030, 1040)).astype(np.float32)


@pytest.fixture
def no_decomposing(monkeypatch):
    def fail(*_):
        raise AssertionError("decomposed again")

    return lambda: monkeypatch.setattr(prepare, "decompose", fail)


def entries(cache):
    return sorted(cache.folder.rglob("*.safetensors"))


def same(first, second):
    return all(
        np.array_equal(getattr(first, name), getattr(second, name))
        for name in ("Ut", "sigma", "Vt", "shape", "frobenius", "residual", "algorithm", "weight_hash")
    )


def test_the_second_request_is_read_not_computed(cache, rng, no_decomposing):
    W = rng.normal(size=(20, 12))
    first = spectrum_of(W, 4, cache=cache)
    no_decomposing()
    assert same(spectrum_of(W, 4, cache=cache), first)


def test_what_is_read_is_bit_for_bit_what_was_computed(cache, rng):
    W = rng.normal(size=(90, 80))
    for k in (4, 64, 70, None):
        computed = decompose(W)
        assert same(spectrum_of(W, k, cache=cache), computed.truncate(k or 80))
        assert same(spectrum_of(W, k, cache=SpectrumCache(cache.folder)), computed.truncate(k or 80))


def test_a_small_weight_is_kept_whole_so_that_any_k_is_there(cache, rng, no_decomposing):
    W = rng.normal(size=(100, 80))
    spectrum_of(W, 4, cache=cache)
    no_decomposing()
    assert spectrum_of(W, cache=cache).complete
    assert spectrum_of(W, 79, cache=cache).k == 79
    assert cache.lookup(content_hash(W), 16).k == 16


@pytest.mark.parametrize(("shape", "k", "stored"), [
    ((1024, 4096), 16, 1024),
    ((1025, 4096), 1, 64),
    ((1025, 4096), 64, 64),
    ((1025, 4096), 65, 128),
    ((1025, 4096), 1025, 1025),
    ((1025, 4096), None, 1025),
])  # fmt: skip
def test_how_many_are_kept_follows_a_fixed_rule(shape, k, stored):
    assert stored_k(shape, k) == stored


@pytest.mark.parametrize("k", [0, -1, 13])
def test_k_that_does_not_fit_is_said_with_the_shape(cache, rng, k):
    with pytest.raises(HiploraError, match=rf"k={k} does not fit a 20 x 12 weight: use 1 to 12"):
        spectrum_of(rng.normal(size=(20, 12)), k, cache=cache)


def test_a_larger_k_is_computed_and_then_serves_smaller_ones(cache, wide, no_decomposing):
    small = spectrum_of(wide, 10, cache=cache)
    assert not cache.holds(content_hash(wide), 65)
    large = spectrum_of(wide, 65, cache=cache)
    assert len(entries(cache)) == 2
    entries(cache)[0].unlink()  # the one with 128 sorts before the one with 64
    no_decomposing()
    assert same(spectrum_of(wide, 10, cache=cache), small)
    assert large.k == 65


def test_looking_up_what_is_not_there_gives_nothing(cache, rng):
    W = rng.normal(size=(20, 12))
    assert cache.lookup(content_hash(W), 4) is None
    assert not cache.holds(content_hash(W), 4)
    assert cache.size() == 0
    assert not cache.folder.exists()


def test_copies_in_other_dtypes_are_other_weights(cache, rng):
    W = rng.normal(size=(20, 12)).astype(np.float32)
    spectrum_of(W, cache=cache)
    spectrum_of(W.astype(np.float16), cache=cache)
    assert len(entries(cache)) == 2


@pytest.mark.parametrize("size", [0, 4, 100, 0.5, -1])
def test_a_truncated_entry_is_rebuilt_with_a_warning(cache, rng, size):
    W = rng.normal(size=(40, 30))
    first = spectrum_of(W, 4, cache=cache)
    (entry,) = entries(cache)
    whole = entry.read_bytes()
    entry.write_bytes(whole[: int(len(whole) * size) if isinstance(size, float) else size])
    with pytest.warns(UserWarning, match="is damaged .* and will be rebuilt"):
        assert same(spectrum_of(W, 4, cache=cache), first)
    assert entry.read_bytes() == whole


def test_a_flipped_byte_anywhere_is_noticed_or_does_not_matter(cache, rng):
    W = rng.normal(size=(12, 9))
    first = spectrum_of(W, cache=cache)
    (entry,) = entries(cache)
    whole = entry.read_bytes()
    noticed = 0
    places = range(0, len(whole), 5)
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        entry.write_bytes(damaged)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert same(spectrum_of(W, cache=cache), first), f"byte {place}"
        noticed += bool(caught)
        assert entry.exists()
    assert noticed > 0.9 * len(places)


def test_a_damaged_entry_counts_as_not_there(cache, rng):
    W = rng.normal(size=(12, 9))
    spectrum_of(W, cache=cache)
    (entry,) = entries(cache)
    entry.write_bytes(b"not an entry at all")
    with pytest.warns(UserWarning, match="damaged"):
        assert cache.lookup(content_hash(W)) is None
    assert not entry.exists()


def test_the_least_recently_used_entries_go_first(tmp_path, rng):
    weights = [rng.normal(size=(20, 12)) for _ in range(4)]
    one = SpectrumCache(tmp_path / "probe")
    spectrum_of(weights[0], cache=one)
    cache = SpectrumCache(tmp_path / "cache", limit=int(2.5 * one.size()))
    for age, W in zip((300, 200), weights[:2], strict=True):
        spectrum_of(W, cache=cache)
        newest = max(entries(cache), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (10**9 - age, 10**9 - age))
    spectrum_of(weights[0], cache=cache)  # used again: the other is now the oldest
    spectrum_of(weights[2], cache=cache)
    assert [cache.holds(content_hash(W)) for W in weights[:3]] == [True, False, True]
    assert cache.size() <= cache.limit


def test_an_entry_larger_than_the_limit_is_kept_alone(tmp_path, rng):
    cache = SpectrumCache(tmp_path / "cache", limit=1)
    first, second = rng.normal(size=(20, 12)), rng.normal(size=(20, 12))
    spectrum_of(first, cache=cache)
    spectrum_of(second, cache=cache)
    assert [cache.holds(content_hash(W)) for W in (first, second)] == [False, True]


def test_nothing_but_entries_is_left_in_the_folder(cache, rng):
    for _ in range(3):
        spectrum_of(rng.normal(size=(20, 12)), cache=cache)
    files = [path for path in cache.folder.rglob("*") if path.is_file()]
    assert sorted(files) == entries(cache)
    assert not list(cache.folder.rglob(".*"))


def test_clearing_removes_every_entry(cache, rng):
    W = rng.normal(size=(20, 12))
    spectrum_of(W, cache=cache)
    assert cache.size() > 0
    cache.clear()
    assert (cache.size(), cache.holds(content_hash(W))) == (0, False)
    cache.clear()


def test_a_cache_that_cannot_be_written_is_named(tmp_path, rng):
    (tmp_path / "cache").touch()
    with pytest.raises(HiploraError, match=r"The cache folder .*cache cannot be written: set HIPLORA_CACHE"):
        spectrum_of(rng.normal(size=(20, 12)), cache=SpectrumCache(tmp_path / "cache"))


def test_a_cache_that_can_only_be_read_serves_what_it_has(cache, rng, monkeypatch, no_decomposing):
    W = rng.normal(size=(20, 12))
    first = spectrum_of(W, cache=cache)

    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(cache_module.os, "utime", refuse)
    no_decomposing()
    assert same(spectrum_of(W, cache=cache), first)


def test_a_limit_that_is_no_number_is_named(monkeypatch):
    monkeypatch.setenv("HIPLORA_CACHE_LIMIT", "20 GB")
    with pytest.raises(HiploraError, match="HIPLORA_CACHE_LIMIT must be a number of bytes, got '20 GB'"):
        default_cache()


def test_the_users_cache_is_where_the_environment_says(cache_folder, monkeypatch):
    monkeypatch.setenv("HIPLORA_CACHE_LIMIT", "12345")
    found = default_cache()
    assert (found.folder, found.limit) == (cache_folder, 12345)
    assert default_cache() is found


def _fill(folder, seeds, barrier, results):
    barrier.wait()
    cache = SpectrumCache(folder, limit=40_000)
    for seed in seeds:
        found = spectrum_of(np.random.default_rng(seed).normal(size=(40, 30)), 4, cache=cache)
        results.put((seed, found.Ut.tobytes() + found.Vt.tobytes() + found.sigma.tobytes()))


def test_two_processes_on_one_folder_get_the_same(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    seeds = list(range(6)) * 4
    workers = [
        context.Process(target=_fill, args=(tmp_path, order, barrier, results)) for order in (seeds, seeds[::-1])
    ]
    for worker in workers:
        worker.start()
    found = {}
    for _ in range(2 * len(seeds)):
        seed, data = results.get(timeout=LIMIT)
        assert found.setdefault(seed, data) == data
    for worker in workers:
        worker.join(LIMIT)
        assert worker.exitcode == 0
