import random

import pytest
from transformers import AutoTokenizer

from hiplora.demo.skills import ALL_FACTS, SKILLS, TASKS, find, training_example
from hiplora.demo.tokenizer import VOCABULARY, build_tokenizer


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer().save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def test_all_text_of_the_demo_survives_the_round_trip(reloaded):
    rng = random.Random(0)
    lines = [training_example(find(name), rng).text for name in (*SKILLS, *TASKS) for _ in range(100)]
    lines += [example.text for example in ALL_FACTS.table]
    for line in lines:
        ids = reloaded(line).input_ids
        assert len(ids) == 1 + len(line)
        assert ids[0] == reloaded.bos_token_id
        assert reloaded.unk_token_id not in ids
        assert reloaded.decode(ids, skip_special_tokens=True) == line


def test_ids_are_the_vocabulary_in_order(reloaded):
    assert reloaded.convert_ids_to_tokens(range(len(VOCABULARY))) == list(VOCABULARY)
    assert len(reloaded) == len(VOCABULARY) == len(set(VOCABULARY))


def test_a_foreign_character_is_one_unknown_token(reloaded):
    assert reloaded("copy Äß=").input_ids.count(reloaded.unk_token_id) == 2


def test_the_shipped_tokenizer_is_the_one_that_the_code_builds(tokenizer):
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    assert tokenizer("swap kato=").input_ids == build_tokenizer()("swap kato=").input_ids
