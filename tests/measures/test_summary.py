import numpy as np
import pandas as pd
import pytest

from hiplora.adapters import LowRankDelta, read_adapter
from hiplora.measures import channel_table, cut_table, judgement, layer_table, measure, module_table, summary_table
from hiplora.spectrum import decompose
from tests import numerics
from tests.measures import dense_reference as reference

K = 3
SHAPES = {"model.layers.0.a": (12, 9), "model.layers.0.b": (8, 14), "model.layers.1.a": (12, 9), "head": (10, 10)}


@pytest.fixture(scope="module")
def world():
    """Weights, updates of two adapters, and their layer table."""
    rng = np.random.default_rng(5)
    weights = {module: rng.normal(size=shape) for module, shape in SHAPES.items()}
    updates = {
        adapter: {
            module: LowRankDelta(scale * rng.normal(size=(m, 2)), rng.normal(size=(2, n)))
            for module, (m, n) in SHAPES.items()
        }
        for adapter, scale in (("small", 0.02), ("large", 1.0))
    }
    layers = layer_table(
        measure(decompose(weights[module]), delta, K, adapter=adapter, method="LoRA", module=module)
        for module in SHAPES
        for adapter, deltas in updates.items()
        for delta in [deltas[module]]
    )
    return weights, updates, layers


def turned(weights):
    """How far a block's energy may move with the kept bases, in parts of the update: the most of any weight."""
    return max(4 * numerics.basis_error(W, K) for W in weights.values())


def test_shares_of_an_adapter_are_those_of_all_its_energy(world):
    weights, updates, layers = world
    summary = summary_table(layers).set_index("adapter")
    assert list(summary.index) == ["small", "large"]
    for adapter, deltas in updates.items():
        blocks = {"pp": 0.0, "pr": 0.0, "rp": 0.0, "rr": 0.0}
        for module, delta in deltas.items():
            U, _, V = reference.bases(weights[module], K)
            for block, energy in reference.blocks(delta.dense(), U, V).items():
                blocks[block] += energy
        total = sum(blocks.values())
        for block, energy in blocks.items():
            assert summary.loc[adapter, block] == pytest.approx(energy / total, abs=turned(weights))
        base = sum(reference.energy(W) for W in weights.values())
        assert summary.loc[adapter, "relative_norm"] == pytest.approx(np.sqrt(total / base))
        assert summary.loc[adapter, "modules"] == 4


def test_the_null_of_an_adapter_is_that_of_isotropic_updates_of_all_its_modules(world):
    _, updates, layers = world
    rng = np.random.default_rng(1)
    values = {module: delta.compact_svd[1] for module, delta in updates["large"].items()}
    total = sum(np.sum(s**2) for s in values.values())
    shares = np.zeros(3000)
    for module, (m, n) in SHAPES.items():
        s = values[module]
        for i in range(len(shares)):
            X, Y = reference.haar(m, 2, rng)[:K], reference.haar(n, 2, rng)[:K]
            shares[i] += np.sum(((X * s) @ Y.T) ** 2) / total
    row = summary_table(layers).set_index("adapter").loc["large"]
    assert row["pp_null"] == pytest.approx(shares.mean(), abs=5 * numerics.standard_errors(shares)[0])
    inside = np.mean((shares >= row["pp_null_low"]) & (shares <= row["pp_null_high"]))
    # The band is an approximation, good to two points; 3000 draws tell them apart by five standard errors.
    assert inside == pytest.approx(0.95, abs=0.02)
    assert row["enrichment"] == pytest.approx(row["pp"] / row["pp_null"])


def test_the_budget_of_an_adapter_is_told_by_its_tightest_module(world):
    _, _, layers = world
    for row in summary_table(layers).itertuples():
        own = layers[layers["adapter"] == row.adapter]["tightness"]
        assert row.max_tightness == own.max()
        assert row.over_budget == (own > 1).sum()


@pytest.mark.filterwarnings("error")
def test_an_adapter_that_does_nothing_has_no_shares():
    zero = LowRankDelta(np.zeros((6, 2)), np.ones((2, 5)))
    layers = layer_table([measure(decompose(np.eye(6, 5)), zero, 2, adapter="zero", method="LoRA", module="a")])
    row = summary_table(layers).iloc[0]
    assert (row["relative_norm"], row["max_tightness"]) == (0, 0)
    assert row[["pp", "pr", "rp", "rr", "enrichment"]].isna().all()


def test_channel_norms_of_a_layer_are_those_of_its_modules_together(world):
    weights, updates, layers = world
    table = channel_table(layers).set_index(["adapter", "layer"])
    energies = {}
    for module in ("model.layers.0.a", "model.layers.0.b"):
        U, _, V = reference.bases(weights[module], K)
        for block, energy in reference.blocks(updates["large"][module].dense(), U, V).items():
            energies[block] = energies.get(block, 0) + energy
    row = table.loc[("large", 0)]
    error = turned(weights) * sum(energies.values())
    assert row["principal_norm"] ** 2 == pytest.approx(energies["pp"], abs=error)
    assert row["mixed_norm"] ** 2 == pytest.approx(energies["pr"] + energies["rp"], abs=2 * error)
    assert row["residual_norm"] ** 2 == pytest.approx(energies["rr"], abs=error)
    assert row["norm"] == pytest.approx(np.sqrt(sum(energies.values())))
    assert len(table) == 4  # the head is in no layer


def test_channel_norms_may_be_those_of_one_kind_of_module(world):
    _, _, layers = world
    table = channel_table(layers, kind="b")
    assert list(table["layer"]) == [0, 0]
    np.testing.assert_allclose(table["norm"], layers[layers["kind"] == "b"]["norm"])


def test_a_hard_budget_would_cut_the_core_to_tightness_one(world):
    weights, updates, layers = world
    table = cut_table(layers)
    assert (table["scale"] <= 1).all()
    for row in table.itertuples():
        U, _, V = reference.bases(weights[row.module], K)
        dW = updates[row.adapter][row.module].dense()
        C = U.T @ dW @ V
        scale = min(1.0, 1 / row.tightness)
        error = turned(weights) * reference.energy(dW)
        assert row.removed == pytest.approx(reference.energy(C) - reference.energy(scale * C), abs=error)
        assert row.removed_share == pytest.approx(row.removed / row.energy)
    assert (table[table["adapter"] == "large"]["removed"] > 0).any()


def test_an_adapter_alone_tells_its_norms_and_ranks(lora_folder):
    adapter = read_adapter(lora_folder)
    table = module_table(adapter)
    assert len(table) == 14
    for row in table.itertuples():
        s = np.linalg.svd(adapter.delta(row.module).dense(), compute_uv=False)
        assert row.norm == pytest.approx(np.linalg.norm(s))
        assert row.spectral_norm == pytest.approx(s[0])
        assert row.stable_rank == pytest.approx(np.sum(s**2) / s[0] ** 2)
        assert (row.rows, row.cols) == adapter.shape(row.module)


def _row(**changes):
    usual = {"relative_norm": 0.1, "pp_null": 0.01, "pp_null_low": 0.008, "pp_null_high": 0.012, "pp": 0.01}
    usual |= {"top_module": "", "top_enrichment": np.nan}
    row = pd.Series(usual | changes)
    row["enrichment"] = row["pp"] / row["pp_null"]
    return row


@pytest.mark.parametrize(
    ("row", "verdict", "page"),
    [
        ({"relative_norm": 0.0, "pp": np.nan}, "It changes nothing.", "read"),
        ({"relative_norm": 1.5}, "It is larger than the base itself, as if it belonged to another.", "read"),
        ({"pp": 0.06, "retention": 0.99}, "It keeps the base, as measured.", "compare"),
        (
            {"pp": 0.06, "retention": 0.9},
            "It leans on the leading directions, and has lost 10\N{NO-BREAK SPACE}% of the base's skills.",
            "effect",
        ),
        ({"pp": 0.06}, "It leans on the leading directions.", "effect"),
        ({"pp": 0.06, "relative_norm": 0.001}, "It is small, but leans on the leading directions.", "effect"),
        ({"relative_norm": 0.001}, "It is small and spread out like a random update.", "spectrum"),
        (
            {"relative_norm": 0.001, "retention": 0.5},
            "It is spread out like a random update, and has lost 50\N{NO-BREAK SPACE}% of the base's skills.",
            "effect",
        ),
        ({}, "It is spread out like a random update, and large.", "effect"),
    ],
)
def test_a_judgement_says_size_place_and_what_was_measured(row, verdict, page):
    found = judgement(_row(**row))
    assert (found.verdict, found.page) == (verdict, page)
    assert (found.facts["Base skills kept"] == "not measured") == ("retention" not in row)


def test_a_judgement_names_the_geometry_and_the_band():
    found = judgement(_row(pp=0.06), "inputs")
    assert found.reason == (
        "Concentration: 6.00 times that of a random update (95\N{NO-BREAK SPACE}% of those: 0.80 to 1.20); "
        "size: 10\N{NO-BREAK SPACE}% of the outputs on its inputs; base skills kept: not measured."
    )


def test_digits_tell_a_value_from_the_edge_of_its_band():
    assert (
        "1.204 times that of a random update (95\N{NO-BREAK SPACE}% of those: 0.800 to 1.200)"
        in judgement(_row(pp=0.01204)).reason
    )


def test_a_judgement_says_where_an_update_is_furthest_above_chance():
    found = judgement(_row(pp=0.06, top_module="model.layers.3.mlp.gate_proj", top_enrichment=12.4))
    assert (found.module, found.where) == ("model.layers.3.mlp.gate_proj", "layer 3 mlp.gate_proj, 12 times chance")
    assert judgement(_row(pp=0.06)).where == ""


def test_the_top_module_of_an_adapter_is_above_the_band(world):
    _, _, layers = world
    layers = layers.assign(pp=layers["pp_null"], enrichment=[9.0, *[1.0] * (len(layers) - 1)])
    assert list(summary_table(layers)["top_module"]) == ["", ""]
    raised = layers.index[(layers["adapter"] == "large") & (layers["module"] == "model.layers.1.a")]
    layers.loc[raised, ["pp", "enrichment"]] = [0.99, 5.0]
    summary = summary_table(layers)
    assert list(summary["top_module"]) == ["", "model.layers.1.a"]
    assert summary["top_enrichment"].iloc[1] == 5
