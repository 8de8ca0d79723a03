"""Patterns of a config: PEFT's rule for those that people write, and an end to those that would never end."""

import json
import re
import resource
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from hiplora import HipLoraConfig
from hiplora.adapters import read_adapter
from hiplora.adapters.patterns import match_patterns
from hiplora.errors import HiploraError
from hiplora.tuner.export import export_lora

KINDS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
         "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip
MODULES = [f"model.layers.{layer}.{kind}" for layer in range(80) for kind in KINDS]


def matches(pattern, module):
    return module in match_patterns({pattern: 1}, [module], "rank_pattern")


@pytest.mark.parametrize(("pattern", "module", "expected"), [
    ("q_proj", "model.layers.0.self_attn.q_proj", True),
    ("q_proj", "model.layers.0.self_attn.qq_proj", False),
    ("self_attn.q_proj", "model.layers.0.self_attn.q_proj", True),
    (r"layers\.0\..*", "model.layers.0.self_attn.q_proj", True),
    ("^model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.q_proj", True),
    ("layers.0", "model.layers.0.self_attn.q_proj", False),
    ("^(?!.*gate).*_proj", "model.layers.0.mlp.gate_proj", False),
])  # fmt: skip
def test_patterns_follow_pefts_own_rule(pattern, module, expected):
    assert matches(pattern, module) is expected
    assert (get_pattern_key([pattern], module) == pattern) is expected


@st.composite
def module_and_its_end(draw):
    """A module's name, and its end from anywhere in a word on: `proj` of `layers.0.q_proj`."""
    words = st.sampled_from(
        ["model", "layers", "0", "11", "self_attn", "mlp", "q_proj", "up_proj", "lm_head", "x-1", "é"]
    )
    module = ".".join(draw(st.lists(words, min_size=1, max_size=5)))
    starts = [0, *(at + 1 for at, character in enumerate(module) if character == ".")]
    return module, module[draw(st.one_of(st.sampled_from(starts), st.integers(0, len(module) - 1))) :]


@st.composite
def module_and_pattern(draw):
    """A module's name, and a pattern made of its end, which may mean it or not."""
    module, end = draw(module_and_its_end())
    words = [
        draw(st.sampled_from([
            word, re.escape(word), f"(?:{word}|other)", f"(other|{word})?", f"{word}|other", f"(?=.){word}",
            f"(?!x){word}", f"{word}(?<=j)", f"(?i:{word.upper()})", f"{word}+", rf"\b{word}\b", f"^{word}", f"{word}$",
            ".*", ".+?", "[^.]+", r"\w+", r"\d{1,2}", "[a-z_]*", "[a-z_]{2,9}",
        ]))
        for word in end.split(".")
    ]  # fmt: skip
    return module, draw(st.sampled_from([".", r"\.", ".*", "(.*)"])).join(words)


@settings(max_examples=300)
@given(module_and_pattern())
def test_ordinary_patterns_mean_what_they_mean_to_peft(case):
    module, pattern = case
    assert matches(pattern, module) is (re.match(rf"(.*\.)?({pattern})$", module) is not None)


@given(module_and_its_end())
def test_names_mean_what_they_mean_to_peft(case):
    module, end = case
    for pattern in (end, re.escape(end), f"^{re.escape(end)}", f"{end}$"):
        assert matches(pattern, module) is (re.match(rf"(.*\.)?({pattern})$", module) is not None)


def test_the_first_pattern_counts():
    patterns = {"q_proj": 1, ".*layers.0.*": 2, "k_proj": 3}
    found = match_patterns(patterns, MODULES[:9], "rank_pattern")
    assert found == {
        MODULES[0]: ("q_proj", 1),
        **dict.fromkeys(MODULES[1:7], (".*layers.0.*", 2)),
        MODULES[7]: ("q_proj", 1),
        MODULES[8]: ("k_proj", 3),
    }


def test_a_pattern_for_every_module_of_a_large_model_is_used():
    patterns = {f"^{re.escape(module)}": number for number, module in enumerate(MODULES)}
    assert list(match_patterns(patterns, MODULES, "rank_pattern").values()) == list(patterns.items())


# `re` takes years for each of the first four. What `regex` can tell to match nothing is allowed; nothing else is.
FOREVER = [
    "([a-z_.0-9]+)+X",
    r"(.+?)(.+?)(.+?)(.+?)(.+?)(.+?)(.+?)\3\4\5\6\7\8[A-Z]",
    r"(?:.|\w|[a-z]|\w\w)*[^a-z]",
    ".*" * 200 + "[^a-z]",
    "(?:.?){99}(?:.?){9}[^a-z]",
    "((?:.*){50}){2}[^a-z]",
    "((((((.*)*)*)*)*)*)*[^a-z]",
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("pattern", FOREVER)
def test_a_pattern_that_would_never_end_does(pattern):
    started = time.thread_time()
    try:
        said = str(match_patterns({pattern: 1}, MODULES, "alpha_pattern"))
    except HiploraError as error:
        said = str(error)
    assert said == "{}" or said.endswith(
        "in alpha_pattern, which takes too long to match: write the names of the modules."
    )
    assert time.thread_time() - started < 2


@pytest.mark.timeout(60)
def test_many_patterns_that_take_their_time_have_one_limit_together(monkeypatch):
    """Each match stays below the limit of one, so a lower one for all shows that times add up on any machine."""
    monkeypatch.setattr("hiplora.adapters.patterns._SECONDS", 0.0)
    monkeypatch.setattr("hiplora.adapters.patterns._SECONDS_EACH", 0.0)
    patterns = {f"(?:.*){{20}}(?:.*){{2}}[^a-z]{number}": number for number in range(10)}
    with pytest.raises(HiploraError, match="takes too long to match"):
        match_patterns(patterns, MODULES[:7], "rank_pattern")


@pytest.fixture
def little_memory():
    """Half a gigabyte more than there is now."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2**29, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    "pattern", ["((a{1000}){1000}){1000}", "a{65535}" * 80, "a{4294967294}", "(ab{2147483647}){9}"]
)
def test_counted_repeats_take_neither_time_nor_memory(pattern):
    started = time.thread_time()
    with pytest.raises(HiploraError, match="in rank_pattern, which repeats too many characters by its counts: write"):
        matches(pattern, "a")
    assert time.thread_time() - started < 0.1


@pytest.mark.parametrize(("pattern", "reason"), [
    ("a" * 1001, "has more than 1000 characters: write several shorter ones"),
    ("(", r"is not a regular expression \(missing \), unterminated subpattern\): correct it"),
    (r"\p{L}", r"is not a regular expression \(bad escape \\p\): correct it"),
    ("(?R)", r"is not a regular expression \(unknown extension \?R\): correct it"),
    ("(" * 450 + "a" + ")" * 450, "has too many parentheses inside each other: write a simpler one"),
])  # fmt: skip
def test_what_peft_would_refuse_or_nobody_writes_is_one_sentence(pattern, reason):
    with pytest.raises(HiploraError, match=f"^adapter_config.json has '.*' in rank_pattern, which {reason}.$"):
        matches(pattern, "a")


def test_a_module_with_an_endless_name_is_one_sentence():
    with pytest.raises(HiploraError, match=r"has a module 'a\.a\..*…' of more than 1000 characters: save it again"):
        matches("a." * 400, "a." * 1_000_000)


ENDLESS = FOREVER[1]
SENTENCE = "adapter_config.json has .* in {}, which takes too long to match: write the names of the modules"


@pytest.mark.timeout(60)
def test_a_lora_with_an_endless_pattern_is_refused_with_its_folder(write_adapter, rng):
    tensors = {f"base_model.model.{m}.lora_{f}.weight": rng.normal(size=(3, 3)) for m in MODULES[:7] for f in "AB"}
    adapter = read_adapter(write_adapter("odd", tensors, alpha_pattern={ENDLESS: 3}))
    with pytest.raises(HiploraError, match=f"odd: {SENTENCE.format('alpha_pattern')}"):
        adapter.delta(MODULES[0])


@pytest.mark.timeout(60)
def test_a_pattern_that_means_no_module_changes_nothing(write_adapter, rng):
    A, B = rng.normal(size=(2, 3, 3))
    tensors = {f"base_model.model.{MODULES[0]}.lora_{name}.weight": array for name, array in (("A", A), ("B", B))}
    adapter = read_adapter(write_adapter("odd", tensors, lora_alpha=6, alpha_pattern={FOREVER[0]: 9}))
    np.testing.assert_allclose(adapter.delta(MODULES[0]).dense(), 6 / 3 * B @ A)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern", "principal_rank_pattern", "epsilon_pattern"])
def test_a_hip_lora_with_an_endless_pattern_is_neither_opened_nor_exported(field, llama_base, make_adapter, tmp_path):
    folder = tmp_path / "odd"
    make_adapter(llama_base, folder, HipLoraConfig(r=2, principal_rank=4, target_modules=["q_proj"]))
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: {ENDLESS: 3}}))
    for work in (read_adapter, lambda folder: export_lora(folder, tmp_path / "out")):
        with pytest.raises(HiploraError, match=f"odd: {SENTENCE.format(field)}"):
            work(folder)
