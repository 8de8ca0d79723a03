"""What merges of the shipped adapters keep, against the saved merge in plain PEFT and against counting by hand."""

import shutil

import numpy as np
import pandas as pd
import peft
import pytest

import hiplora
from hiplora.adapters import place, save_lora
from hiplora.demo.scored import ExactScores
from hiplora.demo.scoring import score
from hiplora.demo.skills import SKILLS
from hiplora.effects import TextLosses
from hiplora.errors import HiploraError
from hiplora.merging import ALL, fail_table, outcome_rows
from hiplora.paths import demo_base
from hiplora.sources.transformers_models import load_causal_lm, load_tokenizer

NAMES = ["swap-lora", "edit-lora"]
EXACT = ExactScores(20)
WAYS = ["sum", "ties"]
WEIGHTS = [1.0, 0.5]


@pytest.fixture(scope="module")
def study():
    return hiplora.open("demo", NAMES)


@pytest.fixture(scope="module")
def tables(study):
    return list(study.score_merges(WAYS, WEIGHTS, scores=EXACT))


@pytest.fixture(scope="module")
def together(tables):
    table = tables[-1]
    return table[table["adapter"] == ALL].set_index("outcome")


@pytest.fixture(scope="module")
def by_peft(study, tmp_path_factory):
    """Return what plain PEFT scores of the adapters and of a saved merge: `{name: {skill or task: score}}`."""
    tokenizer, names = load_tokenizer(demo_base()), (*SKILLS, "swap", "edit")
    folders = {name: study[name].folder for name in NAMES}
    folders["ties"] = tmp_path_factory.mktemp("merges") / "ties"
    save_lora(place(study.base, study.merged("ties", WEIGHTS)), folders["ties"])
    found = {"base": score(load_causal_lm(demo_base()), tokenizer, names, EXACT.size)}
    for name, folder in folders.items():
        model = peft.PeftModel.from_pretrained(load_causal_lm(demo_base()), folder)
        found[name] = score(model, tokenizer, names, EXACT.size)
    return found


def test_the_table_grows_from_the_base_over_each_adapter_to_each_way(tables):
    assert [len(table) for table in tables] == [3, 6, 9, 12, 15]
    assert len(tables[-1]) == outcome_rows(adapters=2, tasks=2, ways=2)
    assert list(tables[-1]["outcome"].unique()) == ["base", *NAMES, *WAYS]
    assert tables[-1]["adapter"].cat.categories.tolist() == [*NAMES, ALL]


def test_scores_are_those_of_the_saved_merge_in_peft(tables, together, by_peft):
    rows = tables[-1][tables[-1]["outcome"] == "ties"].set_index("adapter")
    shares = {name: by_peft["ties"][task] / by_peft[name][task] for name, task in zip(NAMES, ("swap", "edit"))}
    for name, share in shares.items():
        assert rows.loc[name, "task_kept"] == pytest.approx(share)
    assert together.loc["ties", "task_kept"] == pytest.approx(np.mean(list(shares.values())))
    assert together.loc["ties", "least_task_kept"] == pytest.approx(min(shares.values()))
    kept = {name: np.mean([by_peft[name][each] / by_peft["base"][each] for each in SKILLS]) for name in by_peft}
    for name, value in kept.items():
        assert together.loc[name, "retention"] == pytest.approx(value)
    assert together.loc["ties", "kept_worst_single"] == pytest.approx(min(kept[name] for name in NAMES))


def test_the_control_is_the_sum_scaled_to_the_norm_of_the_merge(study, together):
    norms = {how: np.linalg.norm(
        np.concatenate([delta.dense().ravel() for _, delta in place(study.base, study.merged(how, WEIGHTS))])
    ) for how in WAYS}  # fmt: skip
    share = norms["ties"] / norms["sum"]
    assert list(together.loc[WAYS, "norm"]) == pytest.approx([1.0, share])
    *_, scaled = study.score_merges(["sum"], [share * weight for weight in WEIGHTS], scores=EXACT)
    found = scaled[(scaled["outcome"] == "sum") & (scaled["adapter"] == ALL)].iloc[0]
    for column in ("task_kept", "least_task_kept", "retention"):
        assert together.loc["ties", f"control_{column}"] == pytest.approx(found[column])
    assert together.loc["ties", "gain"] == pytest.approx(
        together.loc["ties", "retention"] - together.loc["ties", "control_retention"]
    )
    assert (together.loc["sum", ["gain", "task_gain", "gain_low", "task_gain_high"]] == 0).all()


def test_intervals_hold_what_was_measured(tables):
    table = tables[-1]
    for column in ("task_kept", "retention"):
        assert (table[f"{column}_low"] <= table[column] + 1e-12).all()
        assert (table[column] <= table[f"{column}_high"] + 1e-12).all()
    own = table[table["kind"] == "single"]
    own = own[own["outcome"] == own["adapter"].astype(str)]
    assert (own[["task_kept", "task_kept_low", "task_kept_high"]] == 1).all(axis=None)


def test_the_interval_is_that_of_a_ratio_of_resampled_means():
    one, other = {"swap": np.arange(40) < 20}, {"swap": np.arange(40) < 40}
    draws = EXACT.resampled_share("swap", {}, one, other)
    assert draws.shape == (1000,)
    # Of a share of one half of 40: the standard deviation is sqrt(p (1 - p) / n), itself uncertain by 1 / sqrt(2000).
    assert draws.std() == pytest.approx(np.sqrt(0.25 / 40), rel=5 / np.sqrt(2000))
    assert np.isnan(EXACT.resampled_share("swap", {}, one, {"swap": np.zeros(40, bool)})).all()


def test_an_adapter_without_a_known_task_is_merged_and_only_the_base_is_scored(study, tmp_path):
    save_lora(place(study.base, study.edit("swap-lora")), tmp_path / "bare")
    (tmp_path / "bare" / "card.json").write_text('{"task": "another"}')
    found = hiplora.open("demo", ["edit-lora", tmp_path / "bare"]).merge_outcomes(["sum"], scores=ExactScores(2))
    assert found["adapter"].astype(str).unique().tolist() == ["edit-lora", ALL]
    bare = hiplora.open("demo", [tmp_path / "bare"]).merge_outcomes(["sum"], scores=ExactScores(2))
    assert bare["task_kept"].isna().all()
    assert bare["retention"].notna().all()


def test_at_the_ends_of_the_balance_one_adapter_is_left(study, together):
    table = study.merge_balance(*NAMES, scores=EXACT)
    ends = table[table["adapter"] == ALL].set_index(["first_weight", "second_weight"])
    assert list(ends.index) == [(1, 0), (1, 0.5), (1, 1), (0.5, 1), (0, 1)]
    for weights, name in (((1, 0), "swap-lora"), ((0, 1), "edit-lora")):
        assert ends.loc[weights, "retention"] == together.loc[name, "retention"]
    assert ends.loc[(1, 0.5), "task_kept"] == together.loc["sum", "task_kept"]


def test_sets_are_all_pairs_and_triples_with_one_weight():
    names = ["swap-lora", "edit-lora", "swap-hiplora"]
    study, scores = hiplora.open("demo", names), ExactScores(4)
    table = study.merge_sets(["sum"], 0.5, scores=scores)
    assert list(table["size"]) == [2, 2, 2, 3]
    assert table["adapters"].iloc[-1] == " + ".join(names)
    pair = study.merge_outcomes(["sum"], [0.5, 0.5], names=names[:2], scores=scores)
    row = pair[(pair["outcome"] == "sum") & (pair["adapter"] == ALL)].iloc[0]
    for column in ("task_kept", "least_task_kept", "retention", "kept_worst_single"):
        assert table[column].iloc[0] == row[column]
    assert table["excess_loss"].iloc[0] == row["kept_worst_single"] - row["retention"]


def test_merge_fail_counts_merges_that_lose_a_task_or_too_much_of_the_base():
    table = pd.DataFrame(
        [["sum", 0.95, 0.00], ["sum", 0.80, 0.00], ["sum", 1.00, 0.06], ["core", 1.0, 0.05], ["core", 0.9, -0.1]],
        columns=["outcome", "least_task_kept", "excess_loss"],
    )
    found = fail_table(table).set_index(["outcome", "varied"])

    def fails(how, varied, **at):
        ((column, value),) = at.items()
        rows = found.loc[(how, varied)]
        return rows[np.isclose(rows[column], value)]["fails"].item()

    assert fails("sum", "task", threshold=0.9) == 2
    assert fails("sum", "task", threshold=0.5) == 1
    assert fails("sum", "task", threshold=1.0) == 3
    assert fails("sum", "base", allowance=0.06) == 1
    assert fails("core", "task", threshold=0.9) == 0
    assert fails("core", "base", allowance=0.04) == 1
    assert found.loc["sum", "merge_fail"].max() == 1


def test_without_a_known_task_no_merge_can_be_said_to_fail():
    table = pd.DataFrame({"outcome": ["sum"], "least_task_kept": [np.nan], "excess_loss": [0.0]})
    with pytest.raises(HiploraError, match="No adapter has a known task on its card"):
        fail_table(table)


def test_bad_requests_get_one_sentence(study, llama_base, lora_folder):
    with pytest.raises(HiploraError, match="TextLosses knows one task, and a merge has one of each adapter"):
        study.merge_outcomes(scores=TextLosses("task.txt"))
    with pytest.raises(HiploraError, match="3 weights for 2 adapters"):
        study.merge_outcomes(weights=[1, 1, 1], scores=EXACT)
    with pytest.raises(HiploraError, match="A merge needs two updates"):
        study.merge_sets(names=["swap-lora"], scores=EXACT)
    with pytest.raises(HiploraError, match="has no exact scores: they belong to the demo world"):
        hiplora.open(llama_base, [lora_folder]).merge_outcomes(scores=EXACT)


@pytest.mark.parametrize("how", ["core", "tsv", "core-space", "dare"])
def test_an_adapter_of_weight_zero_is_left_out(study, how):
    """At both ends of the balance a merge is that of one adapter, and so it is with a weight of zero."""
    ends = study.merge_balance(*NAMES, how, scores=EXACT)
    for weights in ([1.0, 0.0], [0.0, 1.0]):
        table = study.merge_outcomes([how], weights, scores=EXACT)
        row = table[(table["outcome"] == how) & (table["adapter"] == ALL)].iloc[0]
        end = ends[(ends["first_weight"] == weights[0]) & (ends["second_weight"] == weights[1])]
        end = end[end["adapter"] == ALL].iloc[0]
        assert (row["task_kept"], row["retention"]) == (end["task_kept"], end["retention"])


def test_what_cannot_be_told_is_one_sentence(study, tmp_path):
    with pytest.raises(HiploraError, match="ways is empty: name at least one of sum, core"):
        study.merge_sets([], scores=EXACT)
    shutil.copytree(study[NAMES[0]].folder, tmp_path / "all")
    called_all = hiplora.open("demo", [tmp_path / "all", NAMES[1]])
    with pytest.raises(HiploraError, match="An adapter called 'all' cannot be told from the rows of all adapters"):
        called_all.merge_outcomes(["sum"], scores=EXACT)
