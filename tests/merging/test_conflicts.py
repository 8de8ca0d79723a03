"""Conflicts against dense projections, and their nulls against simulation."""

import numpy as np
import pytest
import torch

import hiplora
from hiplora.adapters import LowRankDelta, place, read_adapter
from hiplora.budget import budget_cost, tightness
from hiplora.errors import HiploraError
from hiplora.geometry import effect, moments_of, with_inputs
from hiplora.measures.pairs import BLOCKS, Blocks
from hiplora.merging import conflict_summary, conflict_table
from hiplora.merging.conflicts import _null_sd
from hiplora.sources import open_base
from hiplora.spectrum import BaseSpectra, decompose
from tests import numerics

K = 3


@pytest.fixture
def pair(rng, write_base, write_adapter):
    """Return `make(first, second) -> table, W0, deltas`: conflicts of two LoRAs of one weight, 12 x 9."""

    def make(first, second):
        W0 = rng.normal(size=(12, 9))
        base = open_base(write_base("base", {"model.layers.0.q_proj": W0.astype(np.float64)}))
        placements = []
        for name, (L, R) in (("first", first), ("second", second)):
            key = "base_model.model.model.layers.0.q_proj.lora_{}.weight"
            folder = write_adapter(name, {key.format("A"): R, key.format("B"): L}, r=len(R), lora_alpha=len(R))
            placements.append(place(base, read_adapter(folder)))
        table = conflict_table(BaseSpectra(base), placements, K, epsilon=0.5)
        return table.set_index("block"), W0, [L @ R for L, R in (first, second)]

    return make


def factors(rng, rank):
    return rng.normal(size=(12, rank)), rng.normal(size=(rank, 9))


def blocks_of(matrix, U, V):
    P, Q = U @ U.T, V @ V.T
    PR, QR = np.eye(len(P)) - P, np.eye(len(Q)) - Q
    return {"all": matrix, "pp": P @ matrix @ Q, "pr": P @ matrix @ QR, "rp": PR @ matrix @ Q, "rr": PR @ matrix @ QR}


@pytest.mark.usefixtures("cache_folder")
def test_every_number_is_that_of_the_dense_blocks(rng, pair):
    table, W0, (X, Y) = pair(factors(rng, 2), factors(rng, 4))
    U, s, Vt = np.linalg.svd(W0)
    U, s, V = U[:, :K], s[:K], Vt[:K].T
    first, second = blocks_of(X, U, V), blocks_of(Y, U, V)
    sizes = {"all": 12 * 9, "pp": K * K, "pr": K * (9 - K), "rp": (12 - K) * K, "rr": (12 - K) * (9 - K)}
    error = 20 * numerics.kept_error(K)
    assert list(table.index) == list(BLOCKS)
    for block in BLOCKS:
        A, B, row = first[block], second[block], table.loc[block]
        assert row["cosine"] == pytest.approx(np.sum(A * B) / np.linalg.norm(A) / np.linalg.norm(B), abs=error)
        assert row["first_norm"] == pytest.approx(np.linalg.norm(A), rel=error)
        assert row["second_norm"] == pytest.approx(np.linalg.norm(B), rel=error)
        assert row["null_sd"] == pytest.approx(sizes[block] ** -0.5)
    (P, _), (Q, _) = np.linalg.qr(X[:, :2]), np.linalg.qr(Y[:, :4])
    assert table.loc["all", "overlap_left"] == pytest.approx(np.sum((P.T @ Q) ** 2) / 2)
    assert table.loc["all", "overlap_left_null"] == 4 / 12
    assert table.loc["all", "overlap_right_null"] == 4 / 9
    spent = [tightness(budget_cost(U.T @ M @ V, s), 0.5) for M in (X, Y, X + Y)]
    assert table.loc["pp", "joint_tightness"] == pytest.approx(spent[2], rel=error)
    assert table.loc["pp", "joint_tightness_null"] == pytest.approx(np.hypot(*spent[:2]), rel=error)


@pytest.mark.usefixtures("cache_folder")
@pytest.mark.parametrize(("factor", "sign"), [(2.0, "reinforce"), (-0.5, "cancel")])
def test_parallel_updates_reinforce_or_cancel_everywhere(rng, pair, factor, sign):
    L, R = factors(rng, 2)
    table, *_ = pair((L, R), (factor * L, R))
    np.testing.assert_allclose(table["cosine"], np.sign(factor), rtol=1e-6)
    # Three standard deviations of the 3 x 3 block are a cosine of 1.
    assert (table["sign"].drop("pp") == sign).all()


def simulated(head, draw, count=1500):
    """Return the cosines of pairs of independent updates, by block, and the null's standard deviations."""
    found = [Blocks.of(draw(), head).cosines(Blocks.of(draw(), head)) for _ in range(count)]
    return dict(zip(BLOCKS, np.array(found).T, strict=True)), _null_sd(head)


def test_the_null_is_that_of_independent_updates_of_the_same_spectra(rng):
    m, n = 14, 10
    head = decompose(rng.normal(size=(m, n))).truncate(K)

    def draw():
        left, right = (np.linalg.qr(rng.normal(size=(size, 2)))[0] for size in (m, n))
        return LowRankDelta(left * [3.0, 1.0], right.T)

    cosines, sd = simulated(head, draw)
    for block, values in cosines.items():
        assert abs(values.mean()) < 5 * values.std() / np.sqrt(len(values))
        _, error = numerics.standard_errors(values)
        assert values.std() == pytest.approx(sd[block], abs=5 * error)


def test_on_inputs_the_null_is_that_of_independent_entries(rng):
    m, n, k = 60, 40, 12
    inputs = rng.normal(size=(4000, n)) * np.linspace(0.5, 2, n)
    moments = moments_of(torch.from_numpy(inputs))
    W0 = rng.normal(size=(m, n))
    head = with_inputs(decompose(moments.root(W0)), moments).truncate(k)

    def draw():
        return effect(LowRankDelta(rng.normal(size=(m, 4)), rng.normal(size=(4, n))), moments)

    cosines, sd = simulated(head, draw)
    for block, values in cosines.items():
        # To first order of the ratio.
        assert values.std() == pytest.approx(sd[block], rel=0.15)


def test_the_summary_is_of_all_modules_together(llama_base, lora_folder, make_adapter, tmp_path):
    import peft

    make_adapter(llama_base, tmp_path / "second", peft.LoraConfig(r=2, target_modules=["q_proj", "up_proj"]), seed=1)
    study = hiplora.open(llama_base, [lora_folder, tmp_path / "second"], k=4)
    table = study.conflicts()
    assert table["module"].nunique() == 4
    summary = conflict_summary(table).set_index("block")
    assert list(summary.index) == list(BLOCKS)
    first, second = ([update.delta(m) for m in table["module"].unique()] for update in study.updates)
    inner = sum(a.inner(b) for a, b in zip(first, second, strict=True))
    norms = [np.sqrt(sum(delta.energy for delta in deltas)) for deltas in (first, second)]
    assert summary.loc["all", "cosine"] == pytest.approx(inner / norms[0] / norms[1])
    assert summary.loc["all", "modules"] == 4
    assert summary.loc["pp", "joint_tightness"] == table["joint_tightness"].max()


def test_a_study_has_conflicts_in_its_geometry():
    study = hiplora.open("demo", ["swap-lora", "rot-lora", "swap-hiplora"], k=16)
    table = study.conflicts()
    assert len(table) == 28 * 3 * 5
    inputs = study.at(geometry="inputs").conflicts()
    assert inputs["inputs"].notna().all()
    assert (inputs["null_sd"] > table["null_sd"]).all()
    compared = study.compare("swap-lora", "rot-lora").set_index("module")
    pair = table[(table["first"] == "swap-lora") & (table["second"] == "rot-lora")].set_index("module")
    for block, column in (("all", "cosine"), ("pp", "cosine_pp"), ("rr", "cosine_rr")):
        np.testing.assert_array_equal(pair[pair["block"] == block]["cosine"], compared[column])


def test_conflicts_of_a_weighted_merge_are_those_of_the_scaled_updates():
    study = hiplora.open("demo", ["swap-lora", "rot-lora", "edit-lora"], k=16)
    names = ["swap-lora", "edit-lora"]
    alone, found = study.conflicts(names=names), study.conflicts([2.0, -0.5], names=names)
    assert set(found["first"]) | set(found["second"]) == set(names)
    np.testing.assert_allclose(found["first_norm"], 2 * alone["first_norm"])
    np.testing.assert_allclose(found["second_norm"], 0.5 * alone["second_norm"])
    whole = found["block"] == "all"
    np.testing.assert_allclose(found[whole]["cosine"], -alone[whole]["cosine"])
    scaled = study.on([study.merged(weights=[2.0], names=names[:1]), study.merged(weights=[-0.5], names=names[1:])])
    np.testing.assert_allclose(found["joint_tightness"], scaled.conflicts()["joint_tightness"], rtol=1e-6)
    silent = study.conflicts([1.0, 0.0], names=names)
    assert silent["cosine"].isna().all()
    with pytest.raises(HiploraError, match="1 weight for 2 adapters"):
        study.conflicts([1.0], names=names)


def test_updates_without_a_common_module_have_an_empty_summary(llama_base, make_adapter, tmp_path):
    import peft

    folders = [tmp_path / "first", tmp_path / "second"]
    for folder, module in zip(folders, ("q_proj", "v_proj"), strict=True):
        make_adapter(llama_base, folder, peft.LoraConfig(r=2, target_modules=[module]))
    summary = conflict_summary(hiplora.open(llama_base, folders, k=4).conflicts())
    assert summary.empty
    assert {"first", "second", "block", "cosine", "joint_tightness"} <= set(summary.columns)


def test_one_update_has_no_conflict():
    with pytest.raises(HiploraError, match="A conflict needs two updates"):
        hiplora.open("demo", ["swap-lora"]).conflicts()
