"""One line through the demo's models: against PEFT's own answers and a dense recomputation."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from hiplora.card import Card
from hiplora.demo import SKILLS, TASKS, adapter_path, base_path
from hiplora.demo.sentence import (
    BASE,
    END,
    Probe,
    answer_table,
    broken_by,
    compare,
    compare_letters,
    fork,
    instruction,
    layer_effects,
    right_answer,
    telling_lines,
)
from hiplora.demo.skills import EDITS, FACTS, evaluation_examples
from hiplora.errors import HiploraError
from tests import numerics
from tests.measures.dense_reference import bases

NAMES = ("swap-lora", "swap-hiplora")
PROMPT = "sort mvnuf="


@pytest.fixture(scope="module")
def probe():
    return Probe(base_path(), [adapter_path(name) for name in NAMES])


@pytest.fixture(scope="module")
def models(base):
    found = {BASE: base}
    for name in NAMES:
        # A fresh base: PEFT wraps the model's layers in place.
        fresh = AutoModelForCausalLM.from_pretrained(base_path(), local_files_only=True)
        found[name] = PeftModel.from_pretrained(fresh, adapter_path(name)).eval()
    return found


@pytest.mark.parametrize("prompt", [PROMPT, "swap abcd=", "add 39+4="])
def test_answers_are_those_that_peft_generates(probe, models, tokenizer, prompt):
    given = probe.answers([prompt]).set_index("model")["answer"]
    ids = torch.tensor([tokenizer(prompt).input_ids])
    for name, model in models.items():
        made = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )[0, ids.shape[1] :]  # fmt: skip
        assert given[name] == tokenizer.decode(made, skip_special_tokens=True)


def test_next_tokens_have_the_probabilities_of_the_model(probe, models, tokenizer):
    table = probe.next_tokens(PROMPT + "fmn")
    ids = torch.tensor([tokenizer(PROMPT + "fmn").input_ids])

    def probabilities(model):
        return model(input_ids=ids).logits[0, -1].softmax(-1)

    for name, model in models.items():
        error = numerics.outputs_error(model, probabilities)
        with torch.no_grad():
            p = probabilities(model)
        for row in table[table["model"] == name].itertuples():
            assert row.probability == pytest.approx(float(p[tokenizer.convert_tokens_to_ids(row.token)]), abs=error)
        assert tokenizer.convert_ids_to_tokens(int(p.argmax())) in set(table["token"])


def test_end_of_an_answer_is_named(probe):
    table = probe.next_tokens("copy abcd=abcd")
    base = table[table["model"] == BASE]
    assert base.loc[base["probability"].idxmax(), "token"] == END


@pytest.mark.parametrize("name", NAMES)
def test_effects_are_those_of_the_dense_update_on_the_inputs_of_the_adapted_model(probe, models, tokenizer, name):
    layer = models[name].base_model.model.model.layers[2].mlp.down_proj
    seen = []
    handle = layer.register_forward_pre_hook(lambda _, received: seen.append(received[0][0].double().numpy()))
    with torch.no_grad():
        models[name](input_ids=torch.tensor([tokenizer(PROMPT).input_ids]))
    handle.remove()
    x, W0 = seen[0].T, layer.get_base_layer().weight.detach().double().numpy()
    dW = copy.deepcopy(layer).double().get_delta_weight("default").detach().numpy()
    U, _, V = bases(W0, 16)
    P, Q = U @ U.T, V @ V.T
    blocks = {"principal": P @ dW @ Q, "residual": (np.eye(len(P)) - P) @ dW @ (np.eye(len(Q)) - Q)}
    blocks["mixed"] = dW - blocks["principal"] - blocks["residual"]
    table = probe.effects(PROMPT)
    row = table[(table["adapter"] == name) & (table["module"] == "model.layers.2.mlp.down_proj")].iloc[0]
    # The inputs come from the same float32 model; the outputs are its products, and the bases are kept in float32.
    output = np.linalg.norm(W0 @ x)
    of_output = numerics.gamma(W0.shape[1], "float32") * np.linalg.norm(W0) * np.linalg.norm(x) / output
    turned = 4 * numerics.basis_error(W0, 16) * np.linalg.norm(dW, 2) * np.linalg.norm(x) / output
    assert row["output"] == pytest.approx(output, rel=of_output)
    for block, matrix in blocks.items():
        expected = np.linalg.norm(matrix @ x) / output
        assert row[block] == pytest.approx(expected, abs=expected * of_output + turned)


def test_hip_lora_has_no_mixed_blocks_and_lora_has(probe):
    largest = probe.effects(PROMPT).groupby("adapter")["mixed"].max()
    # Both channels change an output by less than itself, and their bases are kept in float32.
    assert largest["swap-hiplora"] < 2 * numerics.kept_error(16)
    assert largest["swap-lora"] > 0.01


def test_effects_of_a_layer_are_those_of_its_maps_together(probe):
    table = probe.effects(PROMPT)
    part = table[(table["adapter"] == "swap-lora") & (table["layer"] == 1)]
    together = layer_effects(table).set_index(["adapter", "layer"]).loc[("swap-lora", 1)]
    for block in ("principal", "mixed", "residual"):
        changed = np.linalg.norm(part[block] * part["output"])
        assert together[block] == pytest.approx(changed / np.linalg.norm(part["output"]))


def test_probing_leaves_the_models_as_they_were(probe):
    before = probe.next_tokens(PROMPT)
    probe.effects(PROMPT)
    assert probe.next_tokens(PROMPT).equals(before)


@pytest.mark.parametrize("name", [*SKILLS, *TASKS])
def test_right_answer_of_every_example_is_its_own(name):
    task = "edit" if name == "edit" else ""
    for example in evaluation_examples(name, 40):
        assert right_answer(example.prompt, task) == example.answer


@pytest.mark.parametrize("line", ["foo abc=", "rev =", "rev ab1=", "add 3+x=", "fact nobody=", "add 1=", "=", "rev"])
def test_a_line_of_no_skill_has_no_right_answer(line):
    assert right_answer(line) is None


def test_after_an_edit_the_new_colour_is_right_and_for_the_base_the_old_one():
    name = next(iter(EDITS))
    assert right_answer(f"fact {name}=", "edit") == EDITS[name]
    assert right_answer(f"fact {name}=") == right_answer(f"fact {name}=", "swap") == FACTS[name]


def test_answers_stand_beside_what_the_cards_measured(probe):
    table = answer_table(probe, PROMPT, "swap").set_index("model")
    assert set(table["right_answer"]) == {"fmnuv"}
    assert (table["correct"] == (table["answer"] == "fmnuv")).all()
    assert table["skill_score"][BASE] == Card.read(base_path()).skills["sort"]
    for name in NAMES:
        card = Card.read(adapter_path(name))
        assert table["retention"][name] == card.retention
        assert table["task_score"][name] == card.task_score
        assert table["skill_score"][name] == card.skills["sort"]
    assert answer_table(probe, "swap abcd=", "swap").set_index("model")["skill_score"]["swap-lora"] == 1.0


def test_telling_lines_are_broken_by_one_adapter_only(probe):
    table = compare(probe, size=6)
    assert len(table) == 6 * len(SKILLS)
    for prompt in telling_lines(table, *NAMES):
        given = answer_table(probe, prompt, "swap").set_index("model")["correct"]
        assert given[NAMES[0]] != given[NAMES[1]]


def test_a_line_is_broken_only_if_the_base_gets_it_right():
    right = [(base, a, b) for base in (True, False) for a in (True, False) for b in (True, False)]
    table = pd.DataFrame(right, columns=[BASE, *NAMES])
    assert broken_by(table, *NAMES).tolist() == ["none", "second", "first", "both", *["base"] * 4]


def test_broken_lines_are_those_whose_answer_is_no_longer_the_right_one(probe):
    table = compare(probe, size=6)
    table["by"] = broken_by(table, *NAMES)
    for by, rows in table.groupby("by"):
        given = answer_table(probe, rows["prompt"].iloc[0], "swap").set_index("model")["correct"]
        assert [given[name] for name in NAMES] == {
            "first": [False, True], "second": [True, False], "both": [False, False], "none": [True, True],
        }[by]  # fmt: skip
        assert given[BASE]


@pytest.mark.parametrize("name", [*SKILLS, *TASKS])
def test_every_line_of_the_demo_world_is_an_instruction(name):
    prompt = evaluation_examples(name, 1)[0].prompt
    words = instruction(prompt)
    assert prompt[:-1].partition(" ")[2] in words
    assert "continue" not in words


def test_a_line_of_no_skill_is_continued():
    assert instruction("copy jedt=") == "repeat jedt"
    assert instruction("foo abc=") == "continue foo abc="
    assert instruction("copy=") == "continue copy="


@pytest.mark.parametrize(
    ("answer", "right", "letters", "found"),
    [("jedh", "jedt", "jedh", "1110"), ("ab", "abc", "ab_", "110"), ("abc", "ab", "abc", "110"), ("", "a", "_", "0")],
)
def test_letters_are_compared_place_by_place(answer, right, letters, found):
    compared = compare_letters(answer, right)
    assert "".join(letter for letter, _ in compared) == letters
    assert [same for _, same in compared] == [digit == "1" for digit in found]


def test_without_a_telling_line_each_skill_gives_one(probe):
    table = compare(probe, size=1).assign(**dict.fromkeys(NAMES, True))
    assert [line.partition(" ")[0] for line in telling_lines(table, *NAMES)] == list(SKILLS)


@pytest.mark.parametrize(
    ("answers", "text"),
    [(["jedt", "jedh"], "x=jed"), (["a", "b"], "x="), (["ab", "ab"], "x="), (["ab", "abc"], "x=ab")],
)
def test_fork_is_the_text_after_which_answers_part(answers, text):
    assert fork("x=", answers) == text


def test_a_typed_line_becomes_a_prompt(probe):
    assert probe.prompt("  rev abc") == probe.prompt("rev abc=cba") == "rev abc="


@pytest.mark.parametrize(("line", "words"), [("", "empty"), ("=abc", "empty"), ("rev " + "a" * 60, "too long")])
def test_a_line_that_cannot_be_asked_gets_one_sentence(probe, line, words):
    with pytest.raises(HiploraError, match=words):
        probe.prompt(line)
