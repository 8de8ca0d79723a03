"""What each block of a shipped adapter causes: the edits are those saved and loaded by plain PEFT, scored the same."""

import numpy as np
import pandas as pd
import peft
import pytest

import hiplora
from hiplora.adapters import Gains, place, save_lora
from hiplora.demo.scored import ExactScores
from hiplora.demo.scoring import score
from hiplora.demo.skills import SKILLS
from hiplora.effects import AS_TRAINED, edits, indicator_table, removals
from hiplora.errors import HiploraError
from hiplora.paths import demo_base
from hiplora.sources.transformers_models import load_causal_lm, load_tokenizer

EXACT = ExactScores(40)


@pytest.fixture(scope="module")
def study():
    return hiplora.open("demo", ["swap-lora"], k=16)


def test_nine_edits_from_as_trained_to_each_block_alone() -> None:
    found = edits()
    assert next(iter(found)) == AS_TRAINED
    assert found[AS_TRAINED] == Gains()
    assert found["without PP"] == Gains(pp=0)
    assert found["RR alone"] == Gains(0, 0, 0, 1)
    assert len(found) == 9


def test_scores_are_those_of_the_saved_adapter_in_peft(study, tmp_path) -> None:
    *_, table = study.ablate("swap-lora", EXACT, chosen={AS_TRAINED: Gains(), "half": Gains(pp=0, rr=0.5)})
    save_lora(place(study.base, study.edit("swap-lora", pp=0, rr=0.5)), tmp_path / "half")
    tokenizer = load_tokenizer(demo_base())
    plain = score(load_causal_lm(demo_base()), tokenizer, size=EXACT.size)
    model = peft.PeftModel.from_pretrained(load_causal_lm(demo_base()), tmp_path / "half")
    found = score(model, tokenizer, (*SKILLS, "swap"), size=EXACT.size)
    row = table.iloc[1]
    assert row["task_score"] == pytest.approx(found["swap"])
    assert row["retention"] == pytest.approx(np.mean([found[name] / plain[name] for name in SKILLS]))


def test_norms_are_relative_and_the_control_has_the_same(study) -> None:
    placement = study.placements[0]
    *_, table = study.ablate("swap-lora", EXACT, chosen={AS_TRAINED: Gains(), "RR alone": Gains(0, 0, 0, 1)})
    whole = sum(delta.energy for _, delta in placement)
    alone = sum(delta.energy for _, delta in place(study.base, study.edit("swap-lora", pp=0, pr=0, rp=0)))
    assert list(table["norm"]) == pytest.approx([1.0, (alone / whole) ** 0.5])
    share = float(table["norm"].iloc[1])
    *_, scaled = study.ablate("swap-lora", EXACT, chosen={"scaled": Gains(share, share, share, share)})
    assert scaled["retention"].iloc[0] == pytest.approx(table["control_retention"].iloc[1])


def test_the_table_grows_by_a_row_and_ends_with_intervals_around_the_gain(study) -> None:
    chosen = {AS_TRAINED: Gains(), "without PP": Gains(pp=0)}
    tables = list(study.ablate("swap-lora", EXACT, chosen=chosen))
    assert [len(table) for table in tables] == [1, 2]
    row = tables[-1].iloc[1]
    assert row["gain"] == pytest.approx(row["retention"] - row["control_retention"])
    assert row["gain_low"] <= row["gain"] <= row["gain_high"]
    assert tables[-1]["gain"].iloc[0] == 0


def test_removing_the_principal_block_of_swap_lora_gives_back_what_size_alone_does_not(study) -> None:
    *_, table = study.ablate("swap-lora", ExactScores(200), chosen={AS_TRAINED: Gains(), "without PP": Gains(pp=0)})
    trained, without = table.iloc[0], table.iloc[1]
    assert without["task_score"] == 1.0
    assert without["retention"] > trained["retention"] + 0.04
    assert without["gain_low"] > 0


def test_another_base_has_no_exact_scores(llama_base, lora_folder) -> None:
    other = hiplora.open(llama_base, [lora_folder], k=4)
    with pytest.raises(HiploraError, match="has no exact scores: they belong to the demo world"):
        other.ablation(other.names[0])


def test_each_layer_is_removed_once_with_what_the_indicators_said(study) -> None:
    tables = list(study.ablate_parts("swap-lora", "layer", EXACT))
    assert [len(table) for table in tables] == [1, 2, 3, 4, 5]
    table, layers = tables[-1], study.layers()
    assert list(table["edit"]) == [AS_TRAINED, *(f"without layer {i}" for i in range(4))]
    assert table["energy_share"].sum() == pytest.approx(1.0)
    assert table["principal_share"].sum() == pytest.approx(1.0)
    assert table["norm"].iloc[3] == pytest.approx((1 - table["energy_share"].iloc[3]) ** 0.5)
    np.testing.assert_allclose(table["recovered"].iloc[1:], table["retention"].iloc[1:] - table["retention"].iloc[0])
    of_layer = layers[layers["layer"] == 2]
    assert table["tightness"].iloc[3] == of_layer["tightness"].max()
    assert table["relative_norm"].iloc[3] == pytest.approx(
        ((of_layer["norm"] ** 2).sum() / (of_layer["base_norm"] ** 2).sum()) ** 0.5
    )
    *_, removed = study.ablate(
        "swap-lora", EXACT, chosen={"without": dict.fromkeys(of_layer["module"], Gains(0, 0, 0, 0))}
    )
    assert removed["retention"].iloc[0] == table["retention"].iloc[3]


def test_parts_are_layers_kinds_or_modules(study) -> None:
    rows = study.layers()
    assert len(removals(rows, "kind")) == 1 + 7
    assert len(removals(rows, "module")) == 1 + 28
    with pytest.raises(HiploraError, match="by must be one of layer, kind, module, got 'head'"):
        study.part_ablation("swap-lora", "head")


def test_an_indicator_that_ranks_the_parts_right_has_correlation_one() -> None:
    table = pd.DataFrame({"recovered": [np.nan, 0.1, 0.2, 0.3, 0.4]})
    table["energy_share"] = [np.nan, 1, 2, 3, 4]
    table["principal_share"] = [np.nan, 4, 3, 2, 1]
    table["relative_norm"] = [np.nan, 1, 1, 1, 1]
    table["enrichment"] = table["tightness"] = [np.nan, 1, 3, 2, 4]
    found = indicator_table(table).set_index("indicator")
    assert found["rank_correlation"].round(6).to_dict() == {
        "energy_share": 1.0, "principal_share": -1.0, "relative_norm": pytest.approx(np.nan, nan_ok=True),
        "enrichment": 0.8, "tightness": 0.8,
    }  # fmt: skip
    assert (found["parts"] == 4).all()
    assert found.loc["enrichment", "low"] < 0.8 <= found.loc["enrichment", "high"]
