"""How far two adapters are apart, against the dense updates in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig

from hiplora.adapters import DenseDelta, LowRankDelta, read_adapter
from hiplora.measures import DIFFERENCES, difference, difference_table, layer_table, measure_layers
from hiplora.sources import open_base
from hiplora.spectrum import SpectrumCache
from hiplora.spectrum.prepare import BaseSpectra
from tests import numerics
from tests.measures import dense_reference as reference
from tests.measures.cases import cases
from tests.placing import placed

K = 4
Q_PROJ = "model.layers.0.self_attn.q_proj"


def other_than(case, seed):
    rng = np.random.default_rng(seed)
    r = int(rng.integers(1, 6))
    return LowRankDelta(rng.normal(size=(case.W0.shape[0], r)), rng.normal(size=(r, case.W0.shape[1])))


@given(cases(), st.integers(0, 1000))
def test_a_difference_is_that_of_the_dense_updates(case, seed):
    other = other_than(case, seed)
    expected = case.dW - other.dense()
    for found in (difference(case.delta, other), difference(case.dense, other), difference(case.delta, other)):
        error = numerics.factored_error(np.hstack([case.L, other.L]), np.vstack([case.R, other.R]))
        np.testing.assert_allclose(found.dense(), expected, rtol=0, atol=error)
        assert found.energy == pytest.approx(reference.energy(expected))


@given(cases(), st.integers(0, 1000))
def test_a_difference_of_low_rank_updates_stays_low_rank(case, seed):
    other = other_than(case, seed)
    found = difference(case.delta, other)
    assert isinstance(found, LowRankDelta)
    assert found.rank <= min(case.delta.L.shape[1] + other.L.shape[1], *case.W0.shape)


@given(cases(), st.integers(0, 1000))
def test_an_update_differs_from_itself_by_nothing_in_whatever_factors(case, seed):
    assert difference(case.delta, case.delta).energy == 0
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(case.L.shape[1],) * 2))[0]
    assert difference(case.delta, LowRankDelta(case.L @ turn, turn.T @ case.R)).energy <= case.product_error**2


@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-9])
def test_a_small_difference_of_large_updates_keeps_its_digits(rng, size):
    L, R = rng.normal(size=(40, 5)), rng.normal(size=(5, 30))
    step = LowRankDelta(size * rng.normal(size=(40, 1)), rng.normal(size=(1, 30)))
    moved = LowRankDelta(np.hstack([L, step.L]), np.vstack([R, step.R]))
    # What two large updates leave of the small one: their rounding, twice in the square.
    error = 2 * numerics.factored_error(L, R) / step.energy**0.5
    assert difference(moved, LowRankDelta(L, R)).energy == pytest.approx(step.energy, rel=error)


def test_updates_of_two_shapes_have_no_difference():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\)"):
        difference(DenseDelta(np.zeros((2, 3))), DenseDelta(np.zeros((3, 2))))


@pytest.fixture(scope="module")
def spectra(llama_base, tmp_path_factory):
    return BaseSpectra(open_base(llama_base), SpectrumCache(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def everywhere(lora_folder):
    return read_adapter(lora_folder)


@pytest.fixture(scope="module")
def attention(llama_base, make_adapter, tmp_path_factory):
    """Another LoRA, of the query and value maps alone."""
    folder = tmp_path_factory.mktemp("adapters") / "attention-lora"
    make_adapter(llama_base, folder, LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "v_proj"]), seed=1)
    return read_adapter(folder)


@pytest.fixture(scope="module")
def table(spectra, everywhere, attention):
    return difference_table(spectra, *placed(spectra, everywhere, attention), K)


def dense(adapter, module, shape):
    return adapter.delta(module).dense() if module in adapter.modules else np.zeros(shape)


def test_every_row_is_that_of_the_dense_difference(table, spectra, everywhere, attention):
    total = 0.0
    for row in table.to_dict("records"):
        W0 = spectra.base.read(spectra.base.weights[row["module"]]).astype(np.float64)
        A, B = (dense(adapter, row["module"], W0.shape) for adapter in (everywhere, attention))
        U, s, V = reference.bases(W0, K)
        blocks = reference.blocks(A - B, U, V)
        whole = reference.energy(A - B)
        total += whole
        expected = {
            "norm": np.linalg.norm(A - B),
            "relative_norm": np.linalg.norm(A - B) / np.linalg.norm(W0),
            "first_norm": np.linalg.norm(A),
            "second_norm": np.linalg.norm(B),
            "pp": blocks["pp"] / whole,
            "mixed": (blocks["pr"] + blocks["rp"]) / whole,
            "rr": blocks["rr"] / whole,
            "joint_tightness": np.sqrt(reference.cost(U.T @ (A + B) @ V, s)) / 0.05,
        }
        error = reference.basis_errors(W0, A - B, U, s, V)
        error += reference.basis_errors(W0, A + B, U, s, V)
        for column, value in expected.items():
            assert row[column] == pytest.approx(value, rel=error), (row["module"], column)
    assert (table["norm"] ** 2).sum() == pytest.approx(total)
    np.testing.assert_allclose(table["share"], table["norm"] ** 2 / total)


def test_parts_add_up_to_the_module_and_shares_to_the_whole(table):
    # What a block below zero is cut off by.
    np.testing.assert_allclose(table["pp"] + table["mixed"] + table["rr"], 1, rtol=0, atol=3 * numerics.kept_error(K))
    assert table["share"].sum() == pytest.approx(1)


def test_modules_that_one_leaves_alone_have_a_row_without_an_angle(table, spectra, attention):
    assert list(table["module"]) == spectra.base.linear_maps
    alone = ~table["module"].isin(attention.modules)
    assert alone.sum() == 10
    assert (table.loc[alone, "second_norm"] == 0).all()
    np.testing.assert_allclose(table.loc[alone, "norm"], table.loc[alone, "first_norm"])
    angles = table[["cosine", "cosine_pp", "cosine_rr", "overlap_left", "overlap_right"]]
    assert angles[alone].isna().all(axis=None)
    assert angles[~alone].notna().all(axis=None)


def test_the_difference_is_symmetric(table, spectra, everywhere, attention):
    back = difference_table(spectra, *placed(spectra, attention, everywhere), K)
    for column in DIFFERENCES:
        np.testing.assert_allclose(
            back[column], table[column], rtol=numerics.EXACT, atol=numerics.EXACT, err_msg=column
        )
    np.testing.assert_array_equal(back["first_norm"], table["second_norm"])
    assert table["adapter"].iloc[0] == "plain-lora against attention-lora"


def test_an_adapter_beside_its_copy_differs_nowhere(spectra, everywhere, lora_folder):
    copy = read_adapter(lora_folder)
    copy.name = "copy"
    table = difference_table(spectra, *placed(spectra, everywhere, copy), K)
    assert (table["norm"] == 0).all()
    assert table["share"].isna().all()
    np.testing.assert_allclose(table["cosine"], 1)


def test_an_update_of_full_rank_is_compared_too(spectra, everywhere, llama_base, make_adapter, tmp_path):
    make_adapter(llama_base, tmp_path / "dora", LoraConfig(r=2, target_modules=["q_proj"], use_dora=True))
    dora = read_adapter(tmp_path / "dora")
    row = difference_table(spectra, *placed(spectra, everywhere, dora), K).set_index("module").loc[Q_PROJ]
    expected = everywhere.delta(Q_PROJ).dense() - placed(spectra, dora)[0].delta(Q_PROJ).dense()
    assert row["norm"] == pytest.approx(np.linalg.norm(expected))


def test_the_joint_tightness_follows_the_budget(table, spectra, everywhere, attention):
    tight = difference_table(spectra, *placed(spectra, everywhere, attention), K, epsilon=0.01)
    np.testing.assert_allclose(tight["joint_tightness"], 5 * table["joint_tightness"])


def test_against_an_adapter_of_zeros_the_difference_is_the_update(
    spectra, everywhere, llama_base, make_adapter, tmp_path
):
    make_adapter(llama_base, tmp_path / "zero", LoraConfig(r=2, target_modules="all-linear"), zero=True)
    table = difference_table(spectra, *placed(spectra, everywhere, read_adapter(tmp_path / "zero")), K)
    alone = layer_table(measure_layers(spectra, placed(spectra, everywhere), K))
    for column in ("norm", "relative_norm", "pp", "rr", "pp_null", "tightness"):
        np.testing.assert_allclose(
            table[column], alone[column], rtol=numerics.EXACT, atol=numerics.EXACT, err_msg=column
        )


def test_a_k_beyond_every_direction_counts_all(spectra, everywhere, attention):
    table = difference_table(spectra, *placed(spectra, everywhere, attention), 99)
    assert table["principal_rank"].tolist() == table[["rows", "cols"]].min(axis=1).tolist()
    # Square modules: nothing is outside.
    np.testing.assert_allclose(
        table.loc[table["rows"] == table["cols"], "pp"].dropna(), 1, atol=numerics.kept_error(32)
    )


def test_two_adapters_of_one_name_cannot_be_compared(spectra, everywhere):
    with pytest.raises(ValueError, match="two updates are named"):
        difference_table(spectra, *placed(spectra, everywhere, everywhere), K)


def test_every_measure_of_the_map_is_a_column(table):
    assert set(DIFFERENCES) <= set(table.columns)
