"""What updates spend of a budget that they share, against dense updates in float64."""

from itertools import permutations

import numpy as np
import pytest

import hiplora
from hiplora.adapters import place, read_adapter
from hiplora.measures import ledger_summary, pair_table
from hiplora.sources import open_base
from tests import numerics

THREE = ["swap-hiplora", "rot-hiplora", "edit-hiplora"]


@pytest.fixture(scope="module")
def study():
    return hiplora.open("demo", THREE, k=16, epsilon=0.05)


@pytest.fixture(scope="module")
def table(study):
    return study.ledger()


def dense_tightness(base, module, adapters, k=16, epsilon=0.05):
    """The tightness of a sum of updates, from the SVD of the weight and the dense sum."""
    weight = base.weights[module]
    U, s, Vt = np.linalg.svd(base.read(weight).astype(np.float64), full_matrices=False)
    dW = sum(place(base, read_adapter(name)).delta(module).dense() for name in adapters)
    C, w = U[:, :k].T @ dW @ Vt[:k].T, s[:k] / s[0]
    return float(np.sqrt(np.sum(np.outer(w, w) * C**2) / np.sum((w * s[:k]) ** 2)) / epsilon)


@pytest.mark.parametrize("module", ["model.layers.0.self_attn.v_proj", "model.layers.3.mlp.down_proj"])
def test_each_row_is_the_sum_of_the_updates_so_far(table, module):
    base, rows = open_base("demo"), table[table["module"] == module]
    # The cached vectors are float32.
    error = numerics.kept_error(16)
    assert rows["adapter"].tolist() == THREE
    for position, row in enumerate(rows.itertuples(), 1):
        assert row.together == pytest.approx(dense_tightness(base, module, THREE[:position]), rel=error)
        assert row.tightness == pytest.approx(dense_tightness(base, module, [THREE[position - 1]]), rel=error)


def test_alone_is_what_the_layer_table_says(study, table):
    layers = study.layers().set_index(["adapter", "module"])["tightness"]
    own = table.set_index(["adapter", "module"])["tightness"]
    np.testing.assert_allclose(own, layers.loc[own.index], rtol=numerics.gamma(4 * 16 * 16))


def test_two_are_what_the_pair_table_says(study, table):
    module = "model.layers.1.mlp.up_proj"
    deltas = {each.update.name: each.delta(module) for each in study.placements[:2]}
    weight = study.base.weights[module]
    pair = pair_table(study.spectra.at_least(weight, 16), deltas, 16, 0.05).iloc[0]
    row = table[(table["module"] == module) & (table["position"] == 2)].iloc[0]
    assert row["together"] == pytest.approx(pair["joint_tightness"], rel=numerics.gamma(4 * 16 * 16))


def test_order_does_not_change_what_all_spend(study, table):
    last = table[table["position"] == 3].set_index("module")["together"]
    for names in permutations(THREE):
        other = hiplora.open("demo", list(names), k=16, epsilon=0.05).ledger()
        again = other[other["position"] == 3].set_index("module")["together"]
        np.testing.assert_allclose(again, last, rtol=numerics.gamma(4 * 16 * 16))


def test_what_is_left_suffices_for_any_next_update(table):
    """The root of the cost is a norm: what is left before an update, and what the update spends, bound the sum."""
    for _, rows in table.groupby("module"):
        before, after = rows.iloc[:-1], rows.iloc[1:]
        within = after["tightness"].to_numpy() <= before["left"].to_numpy()
        assert (after["together"].to_numpy()[within] <= 1 + numerics.gamma(4 * 16 * 16)).all()
        assert (
            after["together"].to_numpy() <= before["together"].to_numpy() + after["tightness"].to_numpy() + 1e-12
        ).all()


def test_independent_updates_spend_the_root_of_the_sum_of_squares(table):
    rows = table[table["module"] == "model.layers.2.self_attn.q_proj"]
    np.testing.assert_allclose(rows["independent"], np.sqrt(np.cumsum(rows["tightness"] ** 2)))


def test_an_update_that_leaves_a_module_alone_spends_nothing(tmp_path, study):
    only = study.edit("rot-hiplora", pp=0.0)
    rows = study.on(["swap-hiplora", only]).ledger()
    last = rows[rows["position"] == 2]
    first = rows[rows["position"] == 1]
    # An edit is exact to float32 vectors.
    np.testing.assert_allclose(last["together"].to_numpy(), first["together"].to_numpy(), atol=1e-4)


def test_the_smallest_own_budget_is_shared():
    own = hiplora.open("demo", THREE).layers()["epsilon"]
    assert hiplora.open("demo", THREE).ledger()["epsilon"].unique().tolist() == [own.min()]
    assert hiplora.open("demo", THREE, epsilon=0.2).ledger()["epsilon"].unique().tolist() == [0.2]


def test_summary_counts_modules_over_the_budget(table):
    summary = ledger_summary(table).set_index("adapter")
    part = table[table["adapter"] == "edit-hiplora"]
    assert summary.loc["edit-hiplora", "over"] == (part["together"] > 1).sum()
    assert summary.loc["edit-hiplora", "least_left"] == part["left"].min()
    assert summary.loc["edit-hiplora", "module"] == part.set_index("module")["together"].idxmax()


def test_the_geometry_of_the_inputs_has_a_ledger_too():
    table = hiplora.open("demo", THREE[:2], k=16, geometry="inputs").ledger()
    assert (table["inputs"] != "").all()
    assert (table["together"] > 0).all()


def test_a_study_without_updates_has_an_empty_ledger():
    table = hiplora.open("demo").ledger()
    assert table.empty
    assert {"adapter", "position", "together", "left"} <= set(table.columns)
