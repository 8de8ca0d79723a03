"""Merges of adapters of every kind, against the weights that PEFT itself merges."""

from itertools import combinations

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import hiplora
from hiplora import HipLoraConfig
from hiplora.adapters import place, read_adapter, save_lora
from hiplora.errors import HiploraError
from hiplora.merging import WAYS
from tests import numerics

KINDS = {
    "lora": lambda: peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"),
    "rslora": lambda: peft.LoraConfig(r=3, lora_alpha=6, use_rslora=True, target_modules=["q_proj", "up_proj"]),
    "patterns": lambda: peft.LoraConfig(
        r=2,
        lora_alpha=2,
        rank_pattern={"layers.0.self_attn.q_proj": 5},
        alpha_pattern={"v_proj": 7},
        target_modules=["q_proj", "v_proj"],
    ),
    "dora": lambda: peft.LoraConfig(r=2, lora_alpha=4, use_dora=True, target_modules=["q_proj", "down_proj"]),
    "hiplora": lambda: HipLoraConfig(r=2, lora_alpha=4, principal_rank=3, target_modules=["q_proj", "o_proj"]),
}


@pytest.fixture(scope="module")
def adapters(llama_base, make_adapter, tmp_path_factory):
    """`{kind: folder}`."""
    home = tmp_path_factory.mktemp("kinds")
    for seed, (kind, config) in enumerate(KINDS.items()):
        make_adapter(llama_base, home / kind, config(), seed=seed)
    return {kind: home / kind for kind in KINDS}


def changed_by_peft(base, folder):
    """Return `{module: W - W0}` after PEFT merged an adapter, in float64."""
    model = AutoModelForCausalLM.from_pretrained(base)
    before = {name: value.double() for name, value in model.state_dict().items()}
    after = peft.PeftModel.from_pretrained(model, folder).double().merge_and_unload().state_dict()
    moved = {name: (after[name] - before[name]).numpy() for name in before}
    return {name.removesuffix(".weight"): delta for name, delta in moved.items() if np.any(delta)}


@pytest.fixture(scope="module")
def expected(llama_base, adapters):
    """`{kind: {module: dW}}`."""
    return {kind: changed_by_peft(llama_base, folder) for kind, folder in adapters.items()}


@pytest.fixture(scope="module")
def study(llama_base, adapters):
    return hiplora.open(llama_base, adapters.values(), k=4)


def agree(merge, expected, error=numerics.EXACT):
    assert set(merge.modules) == set(expected)
    for module, delta in expected.items():
        # PEFT adds to a weight of size 1 and takes it off again.
        np.testing.assert_allclose(merge.delta(module).dense(), delta, rtol=0, atol=error * (1 + np.abs(delta).max()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", [how for how in WAYS if how != "iso-c"])
def test_one_adapter_is_that_adapter(study, expected, kind, how):
    # Iso-C changes a single update by definition, and a budget can cut one: it is wide here.
    density = {} if WAYS[how].density is None else {"density": 1.0}
    agree(study.at(epsilon=100.0).merged(how, names=[kind], **density), expected[kind])


@pytest.mark.parametrize(("first", "second"), combinations(KINDS, 2))
def test_a_sum_is_the_sum_of_what_peft_merges(study, expected, first, second):
    merge = study.merged(names=[first, second], weights=[0.5, -2.0])
    a, b = expected[first], expected[second]
    agree(merge, {module: 0.5 * a.get(module, 0) - 2.0 * b.get(module, 0) for module in a.keys() | b.keys()})


def test_all_kinds_add_up(study, expected):
    modules = {module for deltas in expected.values() for module in deltas}
    sums = {module: sum(deltas.get(module, 0) for deltas in expected.values()) for module in modules}
    agree(study.merged(), sums)


@pytest.mark.parametrize("how", ["sum", "core", "knots"])
def test_what_is_saved_is_what_peft_loads(study, llama_base, tmp_path, how):
    merge = study.merged(how, names=["lora", "rslora", "hiplora"])
    table = save_lora(place(study.base, merge), tmp_path / "merged")
    assert (table["error"] == 0).all()
    # The factors are kept in float32.
    agree(merge, changed_by_peft(llama_base, tmp_path / "merged"), 8 * numerics.unit_roundoff("float32"))
    assert read_adapter(tmp_path / "merged").config["task_type"] is None


def test_a_merge_is_studied_like_any_update(study):
    merge = study.merged("core", weights=[1, 1, 1, 1, 1])
    both = study.on([*study.updates, merge])
    assert merge.name == "core(lora, rslora, patterns, dora, hiplora)"
    rows = both.layers()
    assert (rows["adapter"] == merge.name).sum() == len(merge.modules)
    assert merge.name in both.report()
    assert both.compare("lora", merge.name)["cosine"].notna().any()


def test_a_merge_can_be_edited_and_merged_again(study):
    merge = study.merged(names=["lora", "rslora"])
    again = study.on([merge, study["patterns"]]).merged()
    module = "model.layers.0.self_attn.q_proj"
    total = sum(study[name].delta(module).dense() for name in ("lora", "rslora", "patterns"))
    np.testing.assert_allclose(again.delta(module).dense(), total, rtol=0, atol=1e-12)


@pytest.mark.parametrize("geometry", ["weights", "inputs"])
def test_a_joint_budget_holds_in_the_geometry_of_the_study(geometry):
    study = hiplora.open("demo", ["swap-lora", "rot-lora"], k=16, epsilon=0.02, geometry=geometry)
    summed, held = (study.on([study.merged(how)]).layers() for how in ("sum", "core"))
    assert (summed["tightness"] > 1).any()
    np.testing.assert_allclose(held["tightness"], np.minimum(summed["tightness"], 1), rtol=1e-5)


def test_the_joint_budget_is_the_smallest_of_the_updates_own(study):
    merge = study.merged("core")
    shared = "model.layers.0.self_attn.q_proj"
    assert merge.epsilon(shared) == study["hiplora"].epsilon(shared) == 0.05
    assert study.at(epsilon=0.3).merged("core").epsilon(shared) == 0.3


def test_an_adapter_of_weight_zero_has_no_budget(study):
    merge = study.merged("core", weights=[1, 1, 1, 1, 0])
    assert merge.epsilon("model.layers.0.self_attn.q_proj") == study.merged("core", names=["lora"]).epsilon(
        "model.layers.0.self_attn.q_proj"
    )


def test_draws_do_not_change_with_the_name(llama_base, lora_folder, changed_copy, tmp_path):
    def halved(tensors):
        return {key: value / 2 for key, value in tensors.items()}

    name, module = lora_folder.name, "model.layers.0.self_attn.q_proj"
    (tmp_path / "other").mkdir()
    alone = hiplora.open(llama_base, [lora_folder], k=4)
    both = hiplora.open(llama_base, [lora_folder, changed_copy(lora_folder, f"other/{name}", halved)], k=4)
    assert both.names[0] != name
    first, again = (each.merged("dare", names=each.names[:1]).delta(module).dense() for each in (alone, both))
    np.testing.assert_array_equal(first, again)
    assert ((both.merged("dare", names=both.names[1:]).delta(module).dense() != 0) != (first != 0)).any()


def test_the_identity_of_a_merge_tells_all_that_changes_it(study):
    names = ["lora", "rslora"]
    merges = [
        study.merged(names=names),
        study.merged(names=names, weights=[1, 0.5]),
        study.merged("ties", names=names),
        study.merged("ties", names=names, density=0.5),
        study.merged("dare", names=names),
        study.merged("dare", names=names, seed=1),
        study.merged("core", names=names),
        study.at(k=3).merged("core", names=names),
        study.at(epsilon=0.2).merged("core", names=names),
    ]
    assert len({merge.identity for merge in merges}) == len(merges)
    assert study.merged(names=names).identity == study.at(k=3).merged(names=names).identity


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"how": "best"}, "how must be one of sum, core, ties"),
        ({"names": []}, "There is nothing to merge: name at least one adapter."),
        ({"weights": [1]}, "1 weight for 5 adapters: give one weight for each adapter."),
        ({"names": ["lora"], "weights": [1, 2]}, "2 weights for 1 adapter: give one weight"),
        ({"names": ["lora"], "weights": [np.nan]}, "A weight must be a finite number, got nan."),
        ({"names": ["lora", "lora"]}, "lora is given twice: name each adapter once"),
        ({"names": ["lora", "gone"]}, "The study has no update 'gone'"),
        ({"how": "ties", "density": 0.0}, "density must be above 0 and at most 1, got 0.0."),
        ({"how": "tsv", "density": 0.5}, "tsv keeps all entries, so it has no density"),
        ({"how": "dare", "seed": -1}, "seed must be a whole number of at least 0, got -1."),
    ],
)
def test_bad_input_is_one_sentence(study, arguments, sentence):
    with pytest.raises(HiploraError, match=sentence):
        study.merged(**arguments)


def test_an_adapter_under_two_names_is_given_twice(llama_base, lora_folder):
    one, other = read_adapter(lora_folder), read_adapter(lora_folder)
    study = hiplora.open(llama_base, [one, other], k=4)
    with pytest.raises(HiploraError, match="plain-lora is given twice"):
        study.merged()


def test_biases_are_refused_not_dropped(gpt2_base, make_adapter, tmp_path):
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, lora_bias=True)
    make_adapter(gpt2_base, tmp_path / "biased", config)
    study = hiplora.open(gpt2_base, [tmp_path / "biased"], k=4)
    with pytest.raises(HiploraError, match=r"biased also trained .*lora_B\.bias, which is a bias \(lora_bias\)"):
        study.merged()


def test_trained_norms_and_embeddings_are_refused_not_dropped(llama_base, make_adapter, tmp_path, changed_copy):
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    make_adapter(llama_base, tmp_path / "saves", config)
    with pytest.raises(HiploraError, match=r"also changes model\.embed_tokens, which a merge would lose"):
        hiplora.open(llama_base, [tmp_path / "saves"], k=4).merged()
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], bias="lora_only")
    make_adapter(llama_base, tmp_path / "plain", config)
    tensors = load_file(tmp_path / "plain" / "adapter_model.safetensors")
    save_file(
        tensors | {"base_model.model.model.norm.weight": torch.ones(32)},
        tmp_path / "plain" / "adapter_model.safetensors",
    )
    with pytest.raises(HiploraError, match=r"also trained base_model\.model\.model\.norm\.weight, which is a tensor"):
        hiplora.open(llama_base, [tmp_path / "plain"], k=4).merged()


def test_a_layer_used_several_times_is_refused(llama_base, make_adapter, tmp_path):
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], layer_replication=[[0, 2], [1, 2]])
    make_adapter(llama_base, tmp_path / "own", config)
    with pytest.raises(HiploraError, match="changes a layer that is used several times"):
        hiplora.open(llama_base, [tmp_path / "own"], k=4).merged()


def test_adapters_that_name_different_bases_are_told(llama_base, lora_folder, make_adapter, tmp_path):
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], base_model_name_or_path="other-base")
    make_adapter(llama_base, tmp_path / "stranger", config)
    path = tmp_path / "stranger" / "adapter_config.json"
    path.write_text(path.read_text().replace(str(llama_base), "someone/other-base"))
    merge = hiplora.open(llama_base, [lora_folder, tmp_path / "stranger"], k=4).merged()
    assert "name different bases (other-base, tiny-llama)" in merge.caveats[-1]
