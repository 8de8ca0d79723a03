"""What is measured while an adapter trains is what the layer table says."""

import numpy as np
import pytest

from hiplora.adapters import place, read_adapter
from hiplora.measures import layer_table, measure_layers, progress_table
from hiplora.sources import open_base
from hiplora.spectrum import BaseSpectra

MODULE = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def whole_model(write_base):
    """Return `make(m, n)`: a base of one weight, and a whole model that changes it, by an update of full rank."""

    def make(m, n):
        W0, dW = np.random.default_rng(0).normal(size=(2, m, n)).astype(np.float32)
        base = open_base(write_base("base", {MODULE: W0}))
        return BaseSpectra(base), place(base, read_adapter(write_base("tuned", {MODULE: W0 + dW})))

    return make


def test_progress_has_the_columns_of_the_layer_table(whole_model):
    spectra, placement = whole_model(24, 16)
    row = progress_table(spectra, placement, 4, 0.05, 1.0).iloc[0]
    expected = layer_table(measure_layers(spectra, [placement], 4), epsilon=0.05).iloc[0]
    for column in ("norm", "base_norm", "tightness", "pp", "pr", "rp", "rr", "pp_null", "pp_null_sd"):
        assert row[column] == pytest.approx(expected[column], rel=1e-12), column


def test_null_of_a_large_update_of_full_rank_is_not_worked_out(whole_model):
    row = progress_table(*whole_model(257, 258), 4, 0.05, 1.0).iloc[0]
    assert row[["pp_null", "pp_null_sd"]].isna().all()
    assert row["pp"] > 0
