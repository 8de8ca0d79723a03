"""Edits scored by loss on two texts: the loss is transformers' own, with the adapter as PEFT merges it."""

import numpy as np
import peft
import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

import hiplora
from hiplora.adapters import DenseDelta, Gains, place, save_lora
from hiplora.effects import AS_TRAINED, BLOCKS, SCALED, TextLosses, count
from hiplora.effects.changed import changed, require_maps
from hiplora.effects.losses import losses
from hiplora.errors import HiploraError
from hiplora.geometry import Text
from hiplora.sources import open_base
from hiplora.study import REPAIR_BUDGETS

TOKENS = 700
ROUNDING = 2e-5
"""Of a mean loss near 6 nats in float32, over two layers and a few hundred tokens."""


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def architecture(request):
    return request.param


@pytest.fixture(scope="module")
def study(byte_bases, byte_adapters, architecture):
    return hiplora.open(byte_bases[architecture], [byte_adapters[architecture]], k=4)


@pytest.fixture(scope="module")
def scores(texts):
    return TextLosses(*texts, tokens=TOKENS)


@pytest.fixture(scope="module")
def table(study, scores):
    return study.ablation(study.names[0], scores)


def loss_of(model, folder, file, width):
    """Return transformers' own loss on the first tokens of a file, in windows of a width, mean over all tokens."""
    ids = AutoTokenizer.from_pretrained(folder)(file.read_text().strip()).input_ids[:TOKENS]
    summed = predicted = 0.0
    with torch.no_grad():
        for start in range(0, len(ids), width):
            window = torch.tensor([ids[start : start + width]])
            if window.shape[1] > 1:
                summed += float(model(input_ids=window, labels=window).loss) * (window.shape[1] - 1)
                predicted += window.shape[1] - 1
    return summed / predicted


def merged(folder, adapter):
    model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), adapter)
    return model.merge_and_unload().eval()


def widths(texts):
    """Return how many tokens a window of each text has: a sixteenth of what is read, 64 at most."""
    return [-(-min(len(text.read_text().strip()), TOKENS) // 16) for text in texts]


def test_the_loss_as_trained_is_that_of_transformers_with_pefts_merged_adapter(
    table, texts, byte_bases, byte_adapters, architecture
):
    folder = byte_bases[architecture]
    model = merged(folder, byte_adapters[architecture])
    for column, file, width in zip(("task_loss", "kept_loss"), texts, widths(texts), strict=True):
        assert table[column].iloc[0] == pytest.approx(loss_of(model, folder, file, width), abs=ROUNDING)


def test_the_loss_of_an_edit_is_that_of_the_saved_edit(study, table, texts, tmp_path, byte_bases, architecture):
    save_lora(place(study.base, study.edit(study.names[0], pp=0)), tmp_path / "edited")
    model = merged(byte_bases[architecture], tmp_path / "edited")
    row = table.set_index("edit").loc["without PP"]
    expected = loss_of(model, byte_bases[architecture], texts[1], widths(texts)[1])
    assert row["kept_loss"] == pytest.approx(expected, abs=ROUNDING)
    assert abs(row["kept_loss"] - table["kept_loss"].iloc[0]) > 100 * ROUNDING


def test_without_all_of_it_the_loss_is_the_bases(study, scores, texts, byte_bases, architecture):
    chosen = {"nothing": Gains(0, 0, 0, 0), "no module": dict.fromkeys(study.layers()["module"], Gains(0, 0, 0, 0))}
    *_, found = study.ablate(study.names[0], scores, chosen)
    folder = byte_bases[architecture]
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    expected = loss_of(plain, folder, texts[1], widths(texts)[1])
    assert found["kept_loss"].to_list() == [found["base_kept_loss"].iloc[0]] * 2
    assert found["kept_loss"].iloc[0] == pytest.approx(expected, abs=ROUNDING)
    assert found["norm"].to_list() == [0.0, 0.0]
    assert found["damage_per_energy"].isna().all()


def test_the_control_is_the_whole_update_at_the_norm_of_the_edit(study, scores, table):
    share = float(table.set_index("edit").loc["RR alone", "norm"])
    *_, scaled = study.ablate(study.names[0], scores, {"scaled": Gains(share, share, share, share)})
    assert scaled["norm"].iloc[0] == pytest.approx(share, rel=1e-12)
    control = table.set_index("edit").loc["RR alone", "control_kept_loss"]
    assert scaled["kept_loss"].iloc[0] == pytest.approx(control, abs=ROUNDING)


def test_a_change_is_taken_off_exactly(study, byte_bases, architecture):
    model = AutoModelForCausalLM.from_pretrained(byte_bases[architecture]).eval()
    placement, windows = study.placements[0], [list(range(20)), list(range(5, 9))]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = losses(model, windows)

    def stopped():
        with changed(model, list(placement.places), placement.delta):
            assert not np.allclose(losses(model, windows), plain)
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        stopped()
    np.testing.assert_array_equal(losses(model, windows), plain)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_dense_update_changes_the_same(study, byte_bases, architecture):
    model = AutoModelForCausalLM.from_pretrained(byte_bases[architecture]).eval()
    placement, windows = study.placements[0], [list(range(20)), list(range(5, 9))]
    with changed(model, list(placement.places), placement.delta):
        low_rank = losses(model, windows)
    with changed(model, list(placement.places), lambda module: DenseDelta(placement.delta(module).dense())):
        np.testing.assert_allclose(losses(model, windows), low_rank, rtol=ROUNDING)


def test_windows_of_different_lengths_do_not_see_each_other(byte_bases, architecture):
    model = AutoModelForCausalLM.from_pretrained(byte_bases[architecture]).eval()
    windows = [list(range(20)), list(range(5, 9)), [7, 8]]
    together, alone = losses(model, windows), np.concatenate([losses(model, [window]) for window in windows])
    np.testing.assert_allclose(together, alone, rtol=ROUNDING)
    assert together[:, 1].tolist() == [19, 3, 1]


def test_a_gain_is_the_loss_below_the_controls_within_its_interval(table):
    np.testing.assert_allclose(table["gain"], table["control_kept_loss"] - table["kept_loss"], atol=1e-12)
    assert (table["gain_low"] <= table["gain"] + 1e-12).all()
    assert (table["gain"] <= table["gain_high"] + 1e-12).all()
    np.testing.assert_allclose(
        table["damage_per_energy"], (table["kept_loss"] - table["base_kept_loss"]) / table["norm"] ** 2, rtol=1e-9
    )
    assert list(table["edit"])[:2] == [AS_TRAINED, "without PP"]
    assert table["task_text"].iloc[0] == "task.txt, 700 tokens"


def test_parts_are_removed_beside_what_the_indicators_said(study, scores):
    table = study.part_ablation(study.names[0], "layer", scores)
    np.testing.assert_allclose(table["recovered"].iloc[1:], table["kept_loss"].iloc[0] - table["kept_loss"].iloc[1:])
    assert table["energy_share"].sum() == pytest.approx(1.0)


def test_what_was_scored_once_is_not_scored_again(byte_bases, byte_adapters, scores, table, monkeypatch, study):
    monkeypatch.setattr("hiplora.effects.losses.load_causal_lm", lambda *_, **__: pytest.fail("loaded again"))
    assert study.ablation(study.names[0], scores).equals(table)


def test_the_search_judges_on_windows_that_chose_nothing(study, scores, texts):
    table = study.repair(study.names[0], scores)
    assert len(table) == count(study.placements[0], len(REPAIR_BUDGETS))
    learned = 0.05 * max(0.0, _half(study, scores, 0, "base") - table["validation_task_loss"].iloc[0])
    fine = table[
        (table["way"] == BLOCKS)
        & (table["validation_task_loss"] <= table["validation_task_loss"].iloc[0] + learned + 1e-9)
    ]
    chosen = table[table["chosen"] & (table["way"] == BLOCKS)]
    assert len(chosen) == min(len(fine), 1)
    if len(chosen):
        assert chosen["validation_kept_loss"].iloc[0] == fine["validation_kept_loss"].min()
    if not (scaled := table[table["chosen"] & (table["way"] == SCALED)]).empty:
        np.testing.assert_allclose(table["gain"], scaled["kept_loss"].iloc[0] - table["kept_loss"], atol=1e-12)


def test_healed_is_the_share_of_the_rise_taken_back_and_damaged_what_is_worse_than_both(scores):
    def outcome(*sums):
        return {"kept": np.array([[loss, 10] for loss in sums])}

    # Of a rise of 2 and one of 4, 3 come back; the third window had fallen, and rises by 1 above the base.
    found = scores.flips(outcome(20.0, 20.0, 20.0), outcome(22.0, 24.0, 19.0), outcome(22.0, 21.0, 21.0))
    assert found == {"healed": pytest.approx(3 / 6), "damaged": pytest.approx(1 / 30)}


def _half(study, scores, which, name):
    base = scores.open(study.placements[0]).base["task"][which::2]
    return float(base[:, 0].sum() / base[:, 1].sum())


def test_a_text_of_another_language_is_said_and_not_refused(study, texts):
    foreign = Text("greek", ("αβγδε ζηθικ λμνξο πρστυ φχψω",) * 12)
    *_, table = study.ablate(study.names[0], TextLosses(foreign, texts[1], TOKENS), {AS_TRAINED: Gains()})
    assert "The base hardly knows greek (its perplexity is " in table["caveat"].iloc[0]


@pytest.mark.parametrize(
    ("content", "reason"), [("", "is empty"), ("abc\n", r"has \d tokens for this base: at least 256 are needed")]
)
def test_an_empty_or_tiny_text_is_one_sentence(study, texts, tmp_path, content, reason):
    (tmp_path / "tiny.txt").write_text(content)
    with pytest.raises(HiploraError, match=rf"tiny\.txt {reason}"):
        study.ablation(study.names[0], TextLosses(tmp_path / "tiny.txt", texts[1]))


def test_bad_input_is_one_sentence(study, texts, tmp_path):
    name = study.names[0]
    with pytest.raises(HiploraError, match=r"absent\.txt is not a file"):
        study.ablation(name, TextLosses(tmp_path / "absent.txt"))
    with pytest.raises(HiploraError, match="are the same text: pass one of the task, and another"):
        study.ablation(name, TextLosses(texts[0], texts[0]))
    with pytest.raises(HiploraError, match="tokens must be at least 256, got 10"):
        TextLosses(texts[0], tokens=10)
    with pytest.raises(HiploraError, match="has no exact scores: they belong to the demo world"):
        study.ablation(name)


def test_what_is_not_put_on_the_base_is_said(byte_bases, make_adapter, texts, tmp_path):
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], lora_bias=True, bias="none")
    make_adapter(byte_bases["llama"], tmp_path / "biased", config)
    study = hiplora.open(byte_bases["llama"], [tmp_path / "biased"], k=4)
    *_, table = study.ablate("biased", TextLosses(*texts), {AS_TRAINED: Gains()})
    assert "lora_bias is on: the biases of B are not in these numbers." in table["caveat"].iloc[0]


def test_an_embedding_is_changed_as_peft_changes_it(byte_bases, make_adapter, texts, tmp_path):
    config = peft.LoraConfig(r=2, lora_alpha=64, target_modules=["embed_tokens", "q_proj"])
    make_adapter(byte_bases["llama"], tmp_path / "embedded", config)
    study = hiplora.open(byte_bases["llama"], [tmp_path / "embedded"], k=4)
    *_, table = study.ablate("embedded", TextLosses(*texts, TOKENS), {AS_TRAINED: Gains()})
    model = merged(byte_bases["llama"], tmp_path / "embedded")
    expected = loss_of(model, byte_bases["llama"], texts[1], widths(texts)[1])
    assert table["kept_loss"].iloc[0] == pytest.approx(expected, abs=ROUNDING)
    assert abs(expected - table["base_kept_loss"].iloc[0]) > 100 * ROUNDING


def test_what_is_not_a_linear_map_cannot_be_scored():
    model = torch.nn.ModuleDict({"block": torch.nn.Conv1d(2, 2, 1)})
    with pytest.raises(HiploraError, match="block is not a linear map of the model that transformers makes of demo"):
        require_maps(model, ["block"], "demo")


def test_an_adapter_of_a_head_that_is_tied_to_the_embedding_is_refused(make_adapter, tmp_path):
    """Adding to the one weight would change both ends, and PEFT changes the head alone."""
    folder = tmp_path / "head"
    make_adapter(open_base("demo").path, folder, LoraConfig(r=2, target_modules=["lm_head"]))
    study = hiplora.open("demo", [folder])
    for act in (
        lambda: study.ablation("head", hiplora.ExactScores(20)),
        lambda: study.edit("head", pp=0.0),
        lambda: study.merged("sum"),
    ):
        with pytest.raises(HiploraError, match=r"lm_head, which shares its weight with model\.embed_tokens"):
            act()
