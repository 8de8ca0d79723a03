"""Every method trains as many parameters as a LoRA of the rank asked for, within 5 %."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from hiplora.errors import HiploraError
from hiplora.sources import open_base
from hiplora.training import METHODS, RunConfig, match_parameters
from hiplora.training.methods import TOLERANCE, find_method
from hiplora.training.train import adapted_maps, match_on


def config(**fields):
    return RunConfig(**{"base": "demo", "task": "swap", **fields})


@pytest.fixture(scope="module")
def base():
    return open_base("demo")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("r", "k", "core"), [(8, 16, "full"), (4, 16, "diagonal"), (16, 32, "full"), (3, 5, "full")])
def test_count_is_that_of_the_model_and_within_tolerance(base, method, r, k, core):
    asked = config(method=method, r=r, principal_rank=k, core=core, lora_alpha=2 * r)
    found, match = match_on(base, asked)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base.path), found.peft_config(asked, match.ranks))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == match.parameters
    assert match.reference == r * sum(m + n for m, n in adapted_maps(base).values())
    assert abs(match.difference) <= TOLERANCE


@given(
    shapes=st.lists(st.tuples(st.integers(16, 400), st.integers(16, 400)), min_size=1, max_size=40),
    r=st.integers(2, 16),
    k=st.integers(1, 16),
    method=st.sampled_from(list(METHODS)),
)
def test_match_is_within_tolerance_or_refused(shapes, r, k, method):
    asked = config(method=method, r=r, principal_rank=k)
    named = {f"layers.{i}.map": shape for i, shape in enumerate(shapes)}
    try:
        match = match_parameters(find_method(method), named, asked)
    except HiploraError:
        smallest = sum(find_method(method).parameters(shape, 1, asked) for shape in shapes)
        reference = r * sum(m + n for m, n in shapes)
        # Refused only where one rank of one module is more than the tolerance, or no rank at all is small enough.
        assert smallest > reference * (1 - TOLERANCE) or max(map(sum, shapes)) > TOLERANCE * reference
        return
    assert abs(match.difference) <= TOLERANCE
    assert set(match.ranks) == set(named)
    assert max(match.ranks.values()) - min(match.ranks.values()) <= 1


@pytest.mark.parametrize("method", METHODS)
def test_names_of_a_base_are_not_patterns(method):
    """`re` would try for years to match the last of these."""
    ranks = dict.fromkeys(["layers.0.q_proj", "layers.1.q_proj"], 4) | {"layers.0.([a-z_.0-9]+)+X": 3}
    asked = find_method(method).peft_config(config(r=4, principal_rank=2), ranks)
    for pattern in (asked.rank_pattern, asked.alpha_pattern):
        assert [name for name in ranks if re.fullmatch(next(iter(pattern)), name)] == ["layers.0.([a-z_.0-9]+)+X"]


def test_one_rank_serves_all_modules_where_it_can(base):
    _, match = match_on(base, config(method="hiplora"))
    assert set(match.ranks.values()) == {7}


def test_ranks_that_differ_are_spread_over_the_layers(base):
    _, match = match_on(base, config(method="dora"))
    raised = [module for module, rank in match.ranks.items() if rank == max(match.ranks.values())]
    assert 0 < len(raised) < len(match.ranks)
    assert {module.split(".")[2] for module in raised} == {"0", "1", "2", "3"}


@pytest.mark.parametrize("method", METHODS)
def test_scaling_is_the_one_asked_for_in_every_module(base, method):
    asked = config(method=method, r=4, lora_alpha=12, principal_rank=5)
    found, match = match_on(base, asked)
    made = found.peft_config(asked, match.ranks)
    alphas = {module: made.alpha_pattern.get(re.escape(module), made.lora_alpha) for module in match.ranks}
    assert all(alphas[module] / rank == pytest.approx(3.0) for module, rank in match.ranks.items())


def test_core_larger_than_the_lora_is_refused(base):
    with pytest.raises(
        HiploraError,
        match="HiP-LoRA cannot train as few parameters as a LoRA of r=8 within 5%: use a smaller k than 64",
    ):
        match_on(base, config(principal_rank=64))


def test_rank_too_small_for_a_magnitude_is_refused(base):
    with pytest.raises(
        HiploraError, match="DoRA cannot train as few parameters as a LoRA of r=1 within 5%: use a larger r"
    ):
        match_on(base, config(method="dora", r=1))


def test_unknown_method_is_refused():
    with pytest.raises(HiploraError, match="Unknown method 'milora': choose one of lora, "):
        config(method="milora")


def test_loraplus_learns_b_sixteen_times_as_fast(small_run):
    from hiplora.training import step_table
    from hiplora.training.train import train

    plain, plus = (step_table([train(small_run(m, method=m, steps=2))]) for m in ("lora", "loraplus"))
    assert plus["learning_rate"].iloc[0] == pytest.approx(plain["learning_rate"].iloc[0] / 4)
