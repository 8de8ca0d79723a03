"""The geometry of merges against dense matrices in float64, and what it says beside what was measured."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

import hiplora
from hiplora.adapters import place
from hiplora.demo.scored import ExactScores
from hiplora.effects import indicator_table
from hiplora.errors import HiploraError
from hiplora.merging import PREDICTORS, prediction_table

NAMES = ["swap-lora", "edit-lora"]
WAYS = ["sum", "ties", "iso-c"]
WEIGHTS = [1.0, 0.5]
SCORES = ExactScores(4)


@pytest.fixture(scope="module")
def study():
    return hiplora.open("demo", NAMES, k=8)


@pytest.fixture(scope="module")
def predicted(study):
    return study.merge_predictions(WAYS, WEIGHTS, scores=SCORES)


def test_the_table_grows_from_each_adapter_to_each_way(study):
    tables = list(study.measure_merges(WAYS, WEIGHTS))
    assert [len(table) for table in tables] == [1, 2, 3, 4, 5]
    assert list(tables[-1]["outcome"]) == [*NAMES, *WAYS]
    assert list(tables[-1]["kind"]) == ["single"] * 2 + ["merge"] * 3


def test_norm_and_principal_share_are_those_of_the_dense_merge(study):
    table = study.merge_geometry(WAYS, WEIGHTS).set_index("outcome")
    for how in WAYS:
        energy, principal, base = 0.0, 0.0, 0.0
        for weight, delta in place(study.base, study.merged(how, WEIGHTS)):
            W0, dense = study.base.read(weight).astype(np.float64), delta.dense().astype(np.float64)
            U, _, Vt = np.linalg.svd(W0, full_matrices=False)
            energy += np.sum(dense**2)
            principal += np.sum((U[:, :8].T @ dense @ Vt[:8].T) ** 2)
            base += np.sum(W0**2)
        # The factors and the spectra are kept in float32.
        assert table.loc[how, "relative_norm"] == pytest.approx(np.sqrt(energy / base), rel=1e-5)
        assert table.loc[how, "pp"] == pytest.approx(principal / energy, rel=1e-4)


def test_what_was_measured_of_each_way_stands_beside_its_geometry(study, predicted):
    outcomes = study.merge_outcomes(WAYS, WEIGHTS, scores=SCORES)
    together = outcomes[outcomes["adapter"] == "all"].set_index("outcome")
    geometry = study.merge_geometry(WAYS, WEIGHTS).set_index("outcome")
    assert len(predicted) == len(WAYS) * len(PREDICTORS)
    for row in predicted.to_dict("records"):
        assert row["value"] == geometry.loc[row["outcome"], row["indicator"]]
        assert row["retention"] == together.loc[row["outcome"], "retention"]
        assert row["lost"] == pytest.approx(1 - row["retention"])


def test_a_way_that_was_not_scored_is_left_out(study):
    geometry = study.merge_geometry(WAYS, WEIGHTS)
    table = prediction_table(geometry, study.merge_outcomes(["sum"], WEIGHTS, scores=SCORES))
    assert set(table["outcome"]) == {"sum"}
    assert table["rank_correlation"].isna().all()


def test_the_rank_correlation_is_scipys(predicted):
    for _, rows in predicted.groupby("indicator"):
        expected = spearmanr(rows["value"], rows["lost"]).statistic
        assert rows["rank_correlation"].iloc[0] == pytest.approx(expected)


def test_ties_share_their_rank_as_scipys_do():
    table = pd.DataFrame({"indicator": [1.0, 1, 2, 3, 3, 5], "lost": [0.1, 0.3, 0.2, 0.2, 0.5, 0.4]})
    ranks = indicator_table(table, ["indicator"], "lost")
    assert ranks["rank_correlation"].iloc[0] == pytest.approx(spearmanr(table["indicator"], table["lost"]).statistic)


def test_two_rows_cannot_rank_anything():
    table = pd.DataFrame({"indicator": [1.0, 2], "lost": [0.1, 0.2]})
    ranks = indicator_table(table, ["indicator"], "lost")
    assert ranks[["rank_correlation", "low", "high"]].isna().all(axis=None)


def test_an_unknown_way_is_named(study):
    with pytest.raises(HiploraError, match="got 'cores'"):
        study.merge_geometry(["cores"])
