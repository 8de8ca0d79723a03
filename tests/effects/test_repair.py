"""Mending a shipped adapter: chosen on one half of the examples, judged on the other, beside its peers."""

import numpy as np
import peft
import pytest
import torch
from peft.tuners.lora.intruders import reduce_intruder_dimension

import hiplora
from hiplora.adapters import Gains, place, save_lora
from hiplora.demo.scored import ExactScores
from hiplora.demo.scoring import right_answers
from hiplora.demo.skills import SKILLS, evaluation_examples
from hiplora.effects import BLOCKS, SCALED, count, grid
from hiplora.effects.repair import noise_threshold
from hiplora.errors import HiploraError
from hiplora.paths import demo_base
from hiplora.sources.transformers_models import load_causal_lm, load_tokenizer
from hiplora.study import REPAIR_BUDGETS

SIZE = 40
TASK_KEPT = 0.01


@pytest.fixture(scope="module")
def study():
    return hiplora.open("demo", ["swap-lora"], k=16)


@pytest.fixture(scope="module")
def table(study):
    tables = list(study.search_repair("swap-lora", ExactScores(SIZE)))
    assert [len(each) for each in tables[:3]] == [1, 2, 3]
    return tables[-1]


def test_every_way_is_tried_and_each_has_one_best(study, table):
    ways = ["as trained", "blocks", "scaled", "rank cut", "hard threshold", "within budget", "intruders mitigated"]
    assert list(dict.fromkeys(table["way"])) == ways
    assert len(table) == count(study.placements[0], len(REPAIR_BUDGETS))
    assert len(table[table["way"] == BLOCKS]) == len(grid())
    assert (table.groupby("way")["chosen"].sum() <= 1).all()


def test_the_best_keeps_the_task_and_the_most_of_the_base_where_it_is_chosen(table):
    rows = table[table["way"] == BLOCKS]
    fine = rows[rows["validation_task_score"] >= table["validation_task_score"].iloc[0] - TASK_KEPT - 1e-9]
    best = rows[rows["chosen"]].iloc[0]
    assert best["validation_retention"] == fine["validation_retention"].max()


def test_scores_are_those_of_the_saved_edit_in_peft_on_the_half_that_chose_nothing(study, table, tmp_path):
    best = table[(table["way"] == BLOCKS) & table["chosen"]].iloc[0]
    gains = Gains(*(float(best[block]) for block in ("pp", "pr", "rp", "rr")))
    save_lora(place(study.base, study.edit("swap-lora", gains)), tmp_path / "mended")
    tokenizer = load_tokenizer(demo_base())
    plain = load_causal_lm(demo_base())
    model = peft.PeftModel.from_pretrained(load_causal_lm(demo_base()), tmp_path / "mended")
    examples = {name: evaluation_examples(name, SIZE)[1::2] for name in (*SKILLS, "swap")}
    base, mended = (
        {name: right_answers(each, tokenizer, found) for name, found in examples.items()} for each in (plain, model)
    )
    assert best["task_score"] == pytest.approx(mended["swap"].mean())
    assert best["retention"] == pytest.approx(np.mean([mended[name].mean() / base[name].mean() for name in SKILLS]))


def test_healed_and_damaged_are_shares_of_what_was_broken_and_left_right(table):
    trained = table.iloc[0]
    assert (trained["healed"], trained["damaged"]) == (0.0, 0.0)
    best = table[(table["way"] == BLOCKS) & table["chosen"]].iloc[0]
    assert best["healed"] > 0
    assert 0 <= best["damaged"] < 0.2


def test_the_gain_is_beside_the_best_scaling(table):
    scaled = table[(table["way"] == SCALED) & table["chosen"]].iloc[0]
    assert (scaled["gain"], scaled["gain_low"], scaled["gain_high"]) == (0.0, 0.0, 0.0)
    np.testing.assert_allclose(table["gain"], table["retention"] - scaled["retention"], atol=1e-12)
    assert ((table["gain_low"] <= table["gain"] + 1e-12) & (table["gain"] <= table["gain_high"] + 1e-12)).all()


def test_mitigated_intruders_are_pefts_own(study, table):
    model = peft.PeftModel.from_pretrained(load_causal_lm(demo_base()), str(study.placements[0].update.folder))
    reduce_intruder_dimension(model, new_adapter_name="mitigated", mitigation_lambda=0.25, logging_sink=None)
    right = right_answers(model, load_tokenizer(demo_base()), evaluation_examples("swap", SIZE)[1::2])
    row = table[(table["way"] == "intruders mitigated") & (table["edit"] == "λ = 0.25")].iloc[0]
    assert row["task_score"] == pytest.approx(right.mean())


@pytest.mark.parametrize(("shape", "omega"), [((60, 60), 2.858), ((30, 120), 1.837)])
def test_the_threshold_is_the_published_one_for_noise_of_full_rank(shape, omega):
    s = np.linalg.svd(np.random.default_rng(0).standard_normal(shape), compute_uv=False)
    # The published cubic is within 0.02 of the exact values of its table.
    assert noise_threshold(s, shape) / np.median(s) == pytest.approx(omega, abs=0.02)


def test_the_threshold_of_a_low_rank_update_is_that_of_its_core():
    s = np.array([9.0, 3.0, 2.0, 1e-16])
    assert noise_threshold(s, (40, 80)) == pytest.approx(2.86 * 3.0)
    assert noise_threshold(np.zeros(4), (40, 80)) == 0.0


def test_what_is_below_the_threshold_is_gone_as_in_the_dense_matrices_in_peft(study, table):
    model = load_causal_lm(demo_base())
    for weight, delta in study.placements[0]:
        U, s, Vt = np.linalg.svd(delta.dense().astype(np.float64), full_matrices=False)
        kept = s >= 0.5 * 2.86 * np.median(s[s > 1e-9 * s[0]])
        changed = torch.from_numpy((U[:, kept] * s[kept]) @ Vt[kept]).float()
        model.get_submodule(weight.module).weight.data += changed
    right = right_answers(model, load_tokenizer(demo_base()), evaluation_examples("swap", SIZE)[1::2])
    row = table[(table["way"] == "hard threshold") & (table["edit"] == "0.5 of the threshold")].iloc[0]
    assert row["task_score"] == pytest.approx(right.mean())


def test_an_adapter_of_another_method_has_the_ways_that_fit_it():
    study = hiplora.open("demo", ["swap-hiplora"], k=16)
    assert count(study.placements[0], 0) == 1 + len(grid()) + 6 + 5 + 4


def test_another_base_has_no_exact_scores(llama_base, lora_folder):
    study = hiplora.open(llama_base, [lora_folder], k=4)
    with pytest.raises(HiploraError, match="has no exact scores: they belong to the demo world"):
        study.repair(study.names[0])


def test_an_edit_is_mended_as_it_is_and_not_as_what_it_was_made_of(study):
    edited = study.on([study.edit("swap-lora", pp=0)])
    assert count(edited.placements[0], 0) == count(study.placements[0], 0) - 4


def test_one_example_cannot_choose_and_judge(study):
    with pytest.raises(HiploraError, match="A search needs at least 2 examples of each skill"):
        study.repair("swap-lora", ExactScores(1))
