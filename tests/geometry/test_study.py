"""A study in the geometry of the inputs."""

import numpy as np
import pytest

import hiplora
from hiplora.adapters import Gains
from hiplora.demo.scored import ExactScores
from hiplora.errors import HiploraError
from hiplora.measures.null import leading, null_of


@pytest.fixture(scope="module")
def study():
    return hiplora.open("demo", ["swap-lora", "swap-hiplora"], geometry="inputs")


def test_the_demo_brings_its_inputs_along(study):
    assert study.geometry == "inputs"
    assert study.calibration.name == "lines of its own skills, 8,192 tokens"
    assert study.calibration.notes == []


def test_every_table_follows(study):
    weights = study.at(geometry="weights")
    assert weights.geometry == "weights"
    module = "model.layers.1.mlp.down_proj"
    for table in ("layers", "summary", "channels", "cuts", "octaves"):
        here, there = getattr(study, table)(), getattr(weights, table)()
        assert set(here.pop("inputs")) == {study.calibration.name}
        assert here.shape == there.shape
        assert not np.allclose(here.select_dtypes(float), there.select_dtypes(float), equal_nan=True)
    for table in ("directions", "sweep"):
        here, there = getattr(study, table)(module), getattr(weights, table)(module)
        assert not np.allclose(here.select_dtypes(float), there.select_dtypes(float))
    here, there = (each.compare("swap-lora", "swap-hiplora") for each in (study, weights))
    assert not np.allclose(here["cosine"], there["cosine"])


def test_measurements_are_kept_apart_and_reused(study, monkeypatch):
    before = study.layers()
    monkeypatch.setattr("hiplora.study.core.measure_layers", lambda *_, **__: pytest.fail("measured again"))
    again = study.at(geometry="weights").at(geometry="inputs").layers()
    assert again.equals(before)


def test_the_norm_is_the_effect_on_typical_inputs(study):
    summary, weights = study.summary(), study.at(geometry="weights").summary()
    assert ((summary["relative_norm"] > 0.01) & (summary["relative_norm"] < 1)).all()
    # What the budget holds back is felt on typical inputs.
    effect, norm = (table.set_index("adapter")["relative_norm"] for table in (summary, weights))
    assert effect["swap-hiplora"] / effect["swap-lora"] < norm["swap-hiplora"] / norm["swap-lora"]


def test_what_an_edit_takes_away_is_what_the_geometry_measures(study):
    edited = study.edit("swap-lora", pp=0)
    rows = study.on([edited]).layers()
    # The edit is made with triplets in float32, and measured with them.
    assert (rows["pp"] < 1e-9).all()
    assert (study.layers().query("adapter == 'swap-lora'")["pp"] > 1e-3).all()
    assert (study.at(geometry="weights").on([edited]).layers()["pp"] > 1e-4).any()


def test_all_blocks_together_are_the_update(study):
    same = study.on([study.edit("swap-lora", Gains())]).layers()
    np.testing.assert_allclose(same["norm"], study.layers().query("adapter == 'swap-lora'")["norm"], rtol=1e-9)


def test_a_budget_of_the_geometry_is_met(study):
    held = study.on([study.rebudget("swap-lora", epsilon=0.05)]).at(epsilon=0.05)
    assert held.layers()["tightness"].max() <= 1 + 1e-6
    assert study.at(epsilon=0.05).layers()["tightness"].max() > 1


def test_the_program_that_opens_it_names_geometry_and_text(tmp_path):
    text = tmp_path / "lines.txt"
    text.write_text("copy abc=abc\nrev abc=cba\n" * 40)
    study = hiplora.open("demo", ["swap-lora"], geometry="inputs", text=text, tokens=500)
    assert study.made_by.keywords == {"k": 16, "geometry": "inputs", "text": str(text), "tokens": 500}
    assert study.made_by().layers().equals(study.layers())


def test_a_text_without_the_geometry_is_one_sentence(tmp_path):
    with pytest.raises(HiploraError, match="A text belongs to the geometry of the inputs"):
        hiplora.open("demo", text=tmp_path / "x.txt")
    with pytest.raises(HiploraError, match="geometry must be one of weights, inputs, got 'outputs'"):
        hiplora.open("demo", geometry="outputs")


def test_maps_without_inputs_are_left_out_with_the_reason(study, make_adapter, tmp_path):
    from peft import LoraConfig

    from hiplora.paths import demo_base

    folder = tmp_path / "with-embedding"
    make_adapter(demo_base(), folder, LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"]))
    found = study.on([folder])
    assert found.layers()["module"].str.contains("embed_tokens").sum() == 0
    assert "its inputs are not observed, as those of embeddings" in " ".join(found.caveats["with-embedding"])
    # An edit leaves what cannot be told apart to the rest.
    *_, table = found.ablate("with-embedding", ExactScores(2), chosen={"whole": Gains(), "without PP": Gains(pp=0)})
    assert 0 < table["norm"].iloc[1] < 1


def test_edits_of_two_geometries_are_two(study):
    weights = study.at(geometry="weights")
    one, other = (each.edit("swap-lora", pp=0) for each in (study, weights))
    assert one.identity != other.identity
    assert weights.on([other]).layers()["pp"].max() < 1e-9
    assert weights.on([one]).layers()["pp"].max() > 1e-3


def test_a_difference_has_the_null_of_the_updates_themselves(study):
    table, module = study.compare("swap-lora", "swap-hiplora"), "model.layers.1.mlp.down_proj"
    weights = [placement.delta(module) for placement in study.placements]
    parts = (weights[0] - weights[1]).parts
    row = table[table["module"] == module].iloc[0]
    spectrum = study.spectrum(module)
    null = null_of(study.k, spectrum.shape, parts, reach=leading(spectrum)[study.k - 1])
    assert (row["pp_null_low"], row["pp_null_high"]) == pytest.approx((null.low, null.high), rel=1e-6)


def test_the_inputs_of_another_base_are_refused(study, llama_base):
    other = hiplora.open(llama_base)
    with pytest.raises(HiploraError, match="These are the inputs of demo, not of tiny-llama"):
        other.at(geometry=study.calibration)
    with pytest.raises(HiploraError, match=r"geometry must be one of weights, inputs, got 3\.5"):
        study.at(geometry=3.5)
