import random

import pytest

from hiplora.demo.skills import (
    ALL_FACTS,
    EDIT_COUNT,
    EDITS,
    FACT_COUNT,
    FACTS,
    SKILLS,
    TASKS,
    UNEDITED_FACTS,
    evaluation_examples,
    find,
    is_held_out,
    training_example,
)
from hiplora.errors import HiploraError

RULES = [name for name in (*SKILLS, *TASKS) if not find(name).table]


def solve(prompt: str) -> str:
    """The right answer, worked out independently of the generators."""
    name, argument = prompt.removesuffix("=").split(" ")
    match name:
        case "copy":
            return argument
        case "rev":
            return "".join(reversed(argument))
        case "sort":
            return "".join(sorted(argument))
        case "next":
            return argument.translate(str.maketrans("abcdefghijklmnopqrstuvwxyz", "bcdefghijklmnopqrstuvwxyza"))
        case "max":
            return str(max(int(digit) for digit in argument))
        case "len":
            return str(len(argument))
        case "add":
            return str(sum(int(term) for term in argument.split("+")))
        case "swap":
            letters = list(argument)
            letters[0], letters[-1] = letters[-1], letters[0]
            return "".join(letters)
        case "rot":
            return (argument * 2)[1 : len(argument) + 1]
    raise AssertionError(prompt)


def draws(name: str, seed: int, count: int = 300):
    rng = random.Random(seed)
    return [training_example(find(name), rng) for _ in range(count)]


@pytest.mark.parametrize("name", RULES)
def test_every_answer_follows_its_rule(name):
    for example in [*draws(name, 1), *evaluation_examples(name, 100)]:
        assert example.prompt.startswith(f"{name} ")
        assert example.answer == solve(example.prompt)


@pytest.mark.parametrize("name", [*SKILLS, *TASKS])
def test_a_seed_fixes_the_examples_and_another_seed_changes_them(name):
    assert draws(name, 7) == draws(name, 7)
    assert draws(name, 7) != draws(name, 8)
    assert evaluation_examples(name, 10, seed=3) == evaluation_examples(name, 10, seed=3)
    assert evaluation_examples(name, 10, seed=3) != evaluation_examples(name, 10, seed=4)


@pytest.mark.parametrize("name", RULES)
def test_no_evaluation_prompt_can_be_trained_on(name):
    evaluated = {example.prompt for example in evaluation_examples(name, 300)}
    trained = {example.prompt for example in draws(name, 5, 3000)}
    assert len(evaluated) == 300
    assert not evaluated & trained
    assert all(map(is_held_out, evaluated))


def test_the_examples_named_in_the_documentation():
    assert FACTS["kato"] == "blue"
    assert len(FACTS) == FACT_COUNT == 300
    assert len(ALL_FACTS.table) == FACT_COUNT


def test_edits_change_their_facts_and_leave_the_rest():
    assert len(EDITS) == EDIT_COUNT == 20
    assert all(FACTS[name] != colour for name, colour in EDITS.items())
    assert set(UNEDITED_FACTS) | set(EDITS) == set(FACTS)
    assert not set(UNEDITED_FACTS) & set(EDITS)
    scored_as_fact = {example.prompt for example in evaluation_examples("fact", 1000)}
    scored_as_edit = {example.prompt for example in evaluation_examples("edit", 1000)}
    assert len(scored_as_fact) == 280
    assert not scored_as_fact & scored_as_edit


def test_what_cannot_be_asked_for_is_refused_in_a_sentence():
    with pytest.raises(HiploraError, match="'fly' is not a skill"):
        evaluation_examples("fly")
    with pytest.raises(HiploraError, match="at least 1, not 0"):
        evaluation_examples("copy", 0)
