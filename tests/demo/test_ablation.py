"""What each block of a shipped adapter causes: the edits are those saved and loaded by plain PEFT, scored the same."""

import numpy as np
import peft
import pytest

import hiplora
from hiplora.adapters import Gains, place, save_lora
from hiplora.demo.ablation import AS_TRAINED, edits
from hiplora.demo.scoring import score
from hiplora.demo.skills import SKILLS
from hiplora.errors import HiploraError
from hiplora.paths import demo_base
from hiplora.sources.transformers_models import load_causal_lm, load_tokenizer

SIZE = 40


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
    *_, table = study.ablate("swap-lora", SIZE, chosen={AS_TRAINED: Gains(), "half": Gains(pp=0, rr=0.5)})
    save_lora(place(study.base, study.edit("swap-lora", pp=0, rr=0.5)), tmp_path / "half")
    tokenizer = load_tokenizer(demo_base())
    plain = score(load_causal_lm(demo_base()), tokenizer, size=SIZE)
    model = peft.PeftModel.from_pretrained(load_causal_lm(demo_base()), tmp_path / "half")
    found = score(model, tokenizer, (*SKILLS, "swap"), size=SIZE)
    row = table.iloc[1]
    assert row["task_score"] == pytest.approx(found["swap"])
    assert row["retention"] == pytest.approx(np.mean([found[name] / plain[name] for name in SKILLS]))


def test_norms_are_relative_and_the_control_has_the_same(study) -> None:
    placement = study.placements[0]
    *_, table = study.ablate("swap-lora", SIZE, chosen={AS_TRAINED: Gains(), "RR alone": Gains(0, 0, 0, 1)})
    whole = sum(delta.energy for _, delta in placement)
    alone = sum(delta.energy for _, delta in place(study.base, study.edit("swap-lora", pp=0, pr=0, rp=0)))
    assert list(table["norm"]) == pytest.approx([1.0, (alone / whole) ** 0.5])
    share = float(table["norm"].iloc[1])
    *_, scaled = study.ablate("swap-lora", SIZE, chosen={"scaled": Gains(share, share, share, share)})
    assert scaled["retention"].iloc[0] == pytest.approx(table["control_retention"].iloc[1])


def test_the_table_grows_by_a_row_and_ends_with_intervals_around_the_gain(study) -> None:
    chosen = {AS_TRAINED: Gains(), "without PP": Gains(pp=0)}
    tables = list(study.ablate("swap-lora", SIZE, chosen=chosen))
    assert [len(table) for table in tables] == [1, 2]
    row = tables[-1].iloc[1]
    assert row["gain"] == pytest.approx(row["retention"] - row["control_retention"])
    assert row["gain_low"] <= row["gain"] <= row["gain_high"]
    assert tables[-1]["gain"].iloc[0] == 0


def test_removing_the_principal_block_of_swap_lora_gives_back_what_size_alone_does_not(study) -> None:
    *_, table = study.ablate("swap-lora", 200, chosen={AS_TRAINED: Gains(), "without PP": Gains(pp=0)})
    trained, without = table.iloc[0], table.iloc[1]
    assert without["task_score"] == 1.0
    assert without["retention"] > trained["retention"] + 0.04
    assert without["gain_low"] > 0


def test_another_base_has_no_exact_scores(llama_base, lora_folder) -> None:
    other = hiplora.open(llama_base, [lora_folder], k=4)
    with pytest.raises(HiploraError, match="has no exact scores: they belong to the demo world"):
        other.ablation(other.names[0])
