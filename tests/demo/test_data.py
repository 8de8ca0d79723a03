import pytest

from hiplora.demo.data import IGNORED, AnswerCollator, SkillDataset
from hiplora.demo.skills import SKILLS, Example
from hiplora.demo.tokenizer import build_tokenizer


def test_loss_falls_on_the_answer_and_the_end_token_only():
    tokenizer = build_tokenizer()
    examples = [Example("rev abc=", "cba"), Example("add 34+58=", "92")]
    batch = AnswerCollator(tokenizer)(examples)
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape == (2, 14)
    for example, labels, ids, mask in zip(examples, batch["labels"], batch["input_ids"], batch["attention_mask"]):
        assert tokenizer.decode(labels[labels != IGNORED]) == example.answer + tokenizer.eos_token
        assert tokenizer.decode(ids[mask == 1]) == tokenizer.bos_token + example.text + tokenizer.eos_token
        assert (ids[mask == 0] == tokenizer.pad_token_id).all()


def test_examples_depend_on_seed_and_index_alone():
    weights = {SKILLS["copy"]: 1.0, SKILLS["add"]: 3.0}
    dataset = SkillDataset(weights, 400, seed=1)
    assert [dataset[i] for i in reversed(range(400))] == [dataset[i] for i in range(400)][::-1]
    assert [SkillDataset(weights, 400, seed=2)[i] for i in range(400)] != [dataset[i] for i in range(400)]
    assert len(list(dataset)) == len(dataset) == 400
    with pytest.raises(IndexError):
        dataset[400]


def test_weights_set_how_often_a_skill_is_drawn():
    dataset = SkillDataset({SKILLS["copy"]: 1.0, SKILLS["add"]: 3.0}, 4000, seed=0)
    share = sum(example.prompt.startswith("add") for example in dataset) / len(dataset)
    assert 0.72 < share < 0.78
