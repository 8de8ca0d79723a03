"""The demo world's text: exact skills that the base knows, and the tasks that adapters add to it.

Every example is one line, `<name> <argument>=<answer>`, such as `sort cab=abc`. An answer is right or wrong, so
forgetting, merging and editing are numbers. One prompt in ten is held out of every training stream, chosen by a
checksum of the prompt itself: no list of held-out prompts has to be kept, and all seeds share the same one. Facts
are the exception: a table can only be remembered, so it is scored on the same facts that were taught.
"""

import random
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

from hiplora.errors import HiploraError

LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
DIGITS: Final = "0123456789"
COLOURS: Final = (
    "amber", "aqua", "beige", "black", "blue", "brown", "coral", "cyan", "gold", "green",
    "grey", "jade", "lilac", "mauve", "ochre", "pink", "red", "teal", "white", "yellow",
)  # fmt: skip
FACT_COUNT: Final = 300
EDIT_COUNT: Final = 20

_WORLD_SEED: Final = 26_04
_HELD_OUT_EVERY: Final = 10


class Example(NamedTuple):
    """One line of the demo world.

    Attributes:
        prompt: The model's input, up to and including the equals sign.
        answer: The right completion, without the end-of-text token.
    """

    prompt: str
    answer: str

    @property
    def text(self) -> str:
        """The whole line."""
        return self.prompt + self.answer


@dataclass(frozen=True)
class Skill:
    """One ability with an exact score.

    Attributes:
        name: The word that opens each of its lines.
        summary: What it does, in one phrase.
        draw: Makes one example from a random generator.
        solve: The right answer for an argument; None where it is not an argument of this skill.
        table: All its examples if they are a table to remember; empty if they are drawn from a rule.
    """

    name: str
    summary: str
    draw: Callable[[random.Random], Example]
    solve: Callable[[str], str | None]
    table: tuple[Example, ...] = ()


def is_held_out(prompt: str) -> bool:
    """Return whether a rule's prompt is held out for evaluation and never trained on."""
    return zlib.crc32(prompt.encode()) % _HELD_OUT_EVERY == 0


def _word(rng: random.Random, shortest: int, longest: int, alphabet: str = LETTERS) -> str:
    return "".join(rng.choices(alphabet, k=rng.randint(shortest, longest)))


def _on_word(
    name: str, summary: str, rule: Callable[[str], str], *, shortest: int = 3, longest: int = 6, alphabet: str = LETTERS
) -> Skill:
    def draw(rng: random.Random) -> Example:
        word = _word(rng, shortest, longest, alphabet)
        return Example(f"{name} {word}=", rule(word))

    def solve(word: str) -> str | None:
        return rule(word) if word and set(word) <= set(alphabet) else None

    return Skill(name, summary, draw, solve)


def _from_table(name: str, summary: str, table: Mapping[str, str]) -> Skill:
    rows = tuple(Example(f"fact {key}=", value) for key, value in table.items())
    return Skill(name, summary, lambda rng: rng.choice(rows), table.get, rows)


def _shift(word: str, by: int) -> str:
    return "".join(LETTERS[(LETTERS.index(letter) + by) % len(LETTERS)] for letter in word)


def _add(rng: random.Random) -> Example:
    a, b = rng.randint(0, 99), rng.randint(0, 99)
    return Example(f"add {a}+{b}=", str(a + b))


def _sum(argument: str) -> str | None:
    numbers = re.fullmatch(r"(\d+)\+(\d+)", argument)
    return str(int(numbers[1]) + int(numbers[2])) if numbers else None


def _make_facts() -> dict[str, str]:
    rng = random.Random(_WORLD_SEED)
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    names = [first + second for first in syllables for second in syllables if first != second]
    names.remove("kato")
    names = ["kato", *rng.sample(names, FACT_COUNT - 1)]
    colours = [COLOURS[i % len(COLOURS)] for i in range(FACT_COUNT)]
    rng.shuffle(colours)
    first_blue = colours.index("blue")
    colours[0], colours[first_blue] = colours[first_blue], colours[0]
    return dict(zip(names, colours))


def _make_edits(facts: Mapping[str, str]) -> dict[str, str]:
    rng = random.Random(_WORLD_SEED + 1)
    return {
        name: rng.choice([colour for colour in COLOURS if colour != facts[name]])
        for name in rng.sample(sorted(facts), EDIT_COUNT)
    }


FACTS: Final[Mapping[str, str]] = MappingProxyType(_make_facts())
"""Name to color, as the base was taught."""

EDITS: Final[Mapping[str, str]] = MappingProxyType(_make_edits(FACTS))
"""Name to its new color, for the facts that the task `edit` changes."""

UNEDITED_FACTS: Final[Mapping[str, str]] = MappingProxyType({n: c for n, c in FACTS.items() if n not in EDITS})
"""The facts that must survive an edit; the skill `fact` is scored on these, for every adapter."""


def _by_name(*skills: Skill) -> Mapping[str, Skill]:
    return MappingProxyType({skill.name: skill for skill in skills})


SKILLS: Final[Mapping[str, Skill]] = _by_name(
    _on_word("copy", "repeat the letters", lambda word: word),
    _on_word("rev", "the letters backwards", lambda word: word[::-1]),
    _on_word("sort", "the letters in alphabetical order", lambda word: "".join(sorted(word))),
    _on_word("next", "each letter's successor", lambda word: _shift(word, 1)),
    _on_word("max", "the largest digit", max, shortest=2, longest=5, alphabet=DIGITS),
    _on_word("len", "how many letters", lambda word: str(len(word)), shortest=2, longest=9),
    Skill("add", "the sum of two numbers below 100", _add, _sum),
    _from_table("fact", "the color of a name, remembered", UNEDITED_FACTS),
)
"""The base's skills, by name."""

ALL_FACTS: Final[Skill] = _from_table("fact", "the color of a name, all of them", FACTS)
"""The whole table, for pretraining: the base learns the edited facts' old colors too."""

TASKS: Final[Mapping[str, Skill]] = _by_name(
    _on_word("swap", "first and last letter exchanged", lambda word: word[-1] + word[1:-1] + word[0]),
    _on_word("rot", "the first letter moved to the end", lambda word: word[1:] + word[0]),
    _from_table("edit", f"{EDIT_COUNT} of the {FACT_COUNT} facts get new colors", EDITS),
)
"""The tasks that adapters are trained on, by name."""


def find(name: str) -> Skill:
    """Look up a skill or task.

    Args:
        name: One of `SKILLS` or `TASKS`.

    Raises:
        HiploraError: No skill or task has this name.
    """
    skill = SKILLS.get(name) or TASKS.get(name)
    if skill is None:
        raise HiploraError(f"'{name}' is not a skill of the demo world: choose one of {', '.join([*SKILLS, *TASKS])}.")
    return skill


def training_example(skill: Skill, rng: random.Random) -> Example:
    """Draw one example that training may see.

    Args:
        skill: What to draw from.
        rng: Source of randomness; the same state gives the same example.
    """
    if skill.table:
        return skill.draw(rng)
    while is_held_out((example := skill.draw(rng)).prompt):
        pass
    return example


def evaluation_examples(name: str, size: int = 200, seed: int = 0) -> list[Example]:
    """Return distinct examples to score a skill or task on.

    A rule gives held-out prompts only. A table gives its own rows, in order when all of them are asked for.

    Args:
        name: One of `SKILLS` or `TASKS`.
        size: How many at most; a table may hold fewer.
        seed: The same seed gives the same examples.

    Raises:
        HiploraError: No skill or task has this name, or `size` is not positive.
    """
    if size < 1:
        raise HiploraError(f"The evaluation size must be at least 1, not {size}.")
    skill, rng = find(name), random.Random(f"{name}-evaluation-{seed}")
    if skill.table:
        return list(skill.table) if size >= len(skill.table) else rng.sample(skill.table, size)
    # Bounded, because a rule with few prompts may not have `size` distinct ones.
    drawn = (skill.draw(rng) for _ in range(200 * size))
    found = dict.fromkeys(example for example in drawn if is_held_out(example.prompt))
    return list(found)[:size]
