"""What was read of an update, in numbers and in words."""

import json

import numpy as np
import peft
import pytest

from hiplora.adapters import read_adapter
from hiplora.measures import inspect
from hiplora.sources import open_base


@pytest.fixture
def rich(llama_base, make_adapter, tmp_path):
    """Return a LoRA with a bias, a norm and a head trained beside it."""
    config = peft.LoraConfig(
        r=2, lora_alpha=6, target_modules=["q_proj"], modules_to_save=["lm_head", "input_layernorm"],
        init_lora_weights=False,
    )  # fmt: skip
    make_adapter(llama_base, tmp_path / "rich", config)
    return read_adapter(tmp_path / "rich")


def test_every_tensor_of_the_file_is_accounted_for(rich):
    table = inspect(rich).tensors
    assert sorted(table["tensor"]) == sorted(rich.tensors.shapes)
    parts = table.groupby("part")["tensor"].count().to_dict()
    assert parts == {"the update": 4, "trained whole": 1, "a tensor that is not a matrix, kept whole": 2}
    assert list(table["read"]) == [part != "a tensor that is not a matrix, kept whole" for part in table["part"]]


def test_without_a_base_it_tells_what_needs_none(rich):
    found = inspect(rich)
    rows = found.modules.set_index("module")
    for module in rich.modules[:2]:
        s = np.linalg.svd(rich.delta(module).dense(), compute_uv=False)
        assert rows.loc[module, "norm"] == pytest.approx(np.linalg.norm(s))
        assert rows.loc[module, "scale"] == 3
        assert rows.loc[module, "reason"] == ""
    assert rows.loc["lm_head", "reason"] == "its update depends on the base's weights: name the base"
    assert found.effect == "unknown"
    assert found.headline == "3 modules; 5 of 7 tensors count in its numbers."


def test_on_its_base_it_tells_what_fits_and_what_changes(rich, llama_base):
    found = inspect(rich, open_base(llama_base))
    assert found.headline == f"2 of 3 modules fit {llama_base.name}; 5 of 7 tensors count in its numbers."
    assert found.effect == "part"
    assert found.modules.set_index("module")["reason"]["lm_head"] == (
        "it was trained whole, and an embedding is not a linear map"
    )


def test_on_another_base_it_says_why_nothing_fits(rich, gpt2_base):
    found = inspect(rich, open_base(gpt2_base))
    assert found.problem.startswith(f"{rich.source} belongs to another base")
    assert (found.effect, found.effect_words) == ("none", "none: it does not fit")
    assert found.headline.startswith("0 of 3 modules fit")
    assert found.lines[-1] == f"  {found.problem}"


def test_an_update_of_zeros_is_said_to_change_nothing(llama_base, make_adapter, tmp_path):
    make_adapter(llama_base, tmp_path / "fresh", peft.LoraConfig(r=2, lora_alpha=0, target_modules=["q_proj"]))
    assert inspect(read_adapter(tmp_path / "fresh")).effect_words == "changes nothing"


def test_the_text_names_scale_ranks_and_what_was_left_out(rich):
    text = "\n".join(inspect(rich).lines)
    assert "rich (LoRA): 3 modules; 5 of 7 tensors count in its numbers." in text
    assert "scale of the factors' product: 3\n" in text
    assert "self_attn.q_proj: 2 maps, rank 2, norm " in text
    assert "not measured: lm_head: its update depends on the base's weights" in text
    assert "input_layernorm.weight and 1 more: a tensor that is not a matrix, kept whole" in text


def test_as_data_it_is_strict_json_with_none_for_what_is_not_known(rich):
    data = json.loads(json.dumps(inspect(rich).to_dict(), allow_nan=False))
    head = next(row for row in data["modules"] if row["module"] == "lm_head")
    assert (head["norm"], head["scale"], head["rank"]) == (None, None, None)
    assert data["settings"]["lora_alpha"] == 6
    assert len(data["tensors"]) == 7


def test_a_whole_model_is_inspected_like_any_update(llama_base):
    found = inspect(read_adapter(llama_base), open_base(llama_base))
    assert found.method == "full model"
    assert found.effect == "none"
    assert "model.embed_tokens" in set(found.tensors[~found.tensors["read"]]["module"])


def test_two_modules_of_one_weight_have_one_row_and_a_reason(llama_base, make_adapter, tmp_path):
    config = peft.LoraConfig(r=2, target_modules=["embed_tokens", "lm_head", "q_proj"], init_lora_weights=False)
    make_adapter(llama_base, tmp_path / "tied", config)
    found = inspect(read_adapter(tmp_path / "tied"), open_base(llama_base))
    reasons = found.modules.set_index("module")["reason"]
    assert sum("changes the same weight of the base" in reason for reason in reasons) == 1
