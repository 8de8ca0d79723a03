import pytest
import torch

from hiplora.demo.base import new_model
from hiplora.demo.scoring import exact_match, greedy_answers, score
from hiplora.demo.skills import SKILLS, Example, evaluation_examples
from hiplora.errors import HiploraError


def test_the_single_pass_score_is_what_token_by_token_decoding_gives(base, tokenizer):
    # `swap` is unknown to the base and `add` imperfect: there are wrong answers to agree on, too.
    for name in ("sort", "add", "swap", "edit"):
        examples = evaluation_examples(name, 60)
        answers = greedy_answers(base, tokenizer, [example.prompt for example in examples])
        decoded = sum(answer == example.answer for answer, example in zip(answers, examples)) / len(examples)
        assert exact_match(base, tokenizer, examples) == pytest.approx(decoded)


def test_batched_decoding_equals_generate_one_by_one(base, tokenizer):
    prompts = ["copy abc=", "rev kato=", "fact kato=", "len abcdefgh="]
    one_by_one = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")
        new = base.generate(**ids, do_sample=False, max_new_tokens=12)[0, ids.input_ids.shape[1] :]
        one_by_one.append(tokenizer.decode(new, skip_special_tokens=True))
    assert greedy_answers(base, tokenizer, prompts) == one_by_one
    assert greedy_answers(base, tokenizer, []) == []


def test_one_wrong_or_missing_character_is_a_wrong_answer(base, tokenizer):
    right = [Example("copy abc=", "abc"), Example("rev kato=", "otak")]
    assert exact_match(base, tokenizer, right) == 1.0
    assert exact_match(base, tokenizer, [Example("copy abc=", "abd"), *right[1:]]) == 0.5
    assert exact_match(base, tokenizer, [Example("copy abc=", "ab"), Example("copy abc=", "abca")]) == 0.0


def test_an_untrained_model_scores_nothing_and_keeps_its_mode(tokenizer):
    model = new_model(seed=0).train()
    scores = score(model, tokenizer, ["copy", "rev", "fact"], size=50)
    assert max(scores.values()) < 0.1
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_scores_come_in_the_order_asked_for(base, tokenizer):
    assert list(score(base, tokenizer, ["rev", "copy"], size=4)) == ["rev", "copy"]
    assert list(score(base, tokenizer, size=4)) == list(SKILLS)
    with pytest.raises(HiploraError, match="'fly'"):
        score(base, tokenizer, ["fly"])


def test_the_weights_of_a_new_model_come_from_its_seed():
    first, same, other = (new_model(seed).state_dict()["model.layers.0.mlp.up_proj.weight"] for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
