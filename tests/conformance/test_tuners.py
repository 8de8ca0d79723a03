"""Each tuner of PEFT's, on Linear and on Conv1D, against PEFT's own merged weights minus the base, in float64."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers as hf
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from safetensors.torch import load_file, save_file

from hiplora.adapters import place, read_adapter
from hiplora.adapters.tuners import REFUSED
from hiplora.adapters.tuners import TUNERS as READ
from hiplora.errors import HiploraError
from hiplora.sources import open_base
from tests.conformance.architectures import ARCHITECTURES
from tests.conformance.merged import disagreements, merged_deltas, train
from tests.conformance.tuners import TUNERS, config_of

TEXT: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip
MODELS: dict[str, tuple[Callable[[], hf.PreTrainedModel], list[str]]] = {
    "Linear": (lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT)), ["q_proj", "v_proj", "down_proj"]),
    "Conv1D": (
        lambda: hf.GPT2LMHeadModel(
            hf.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64, n_positions=32, bos_token_id=0, eos_token_id=0)
        ),
        ["c_attn", "mlp.c_proj"],
    ),
}
ON_CONV1D = [
    "LoRA", "rsLoRA", "DoRA", "PiSSA", "PiSSA DoRA", "MiCA", "AdaLoRA", "DEFT", "FourierFT", "GraLoRA", "HiRA",
    "(IA)³", "PVeRA", "RandLoRA", "VB-LoRA", "VeRA", "WaveFT",
]  # fmt: skip
"""The others cannot be put on Conv1D."""
_REFUSALS = {"BD-LoRA": AttributeError}
"""What PEFT raises in place of a sentence."""
# A product that PEFT forms in float64 and adds to a weight, and takes off again: rounded as a part of the weight.
ROUNDING = 1e-11
# PEFT takes a weight apart in single precision, from the float32 weight or its float64 copy.
SINGLE = 1e-5
FROM_A_WEIGHT = ("PiSSA", "OLoRA", "KaSA", "PSOFT", "DEFT", "OSF")
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ranks and alphas by pattern": ("LoHa", {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {r"layers.1.*": 9}}),
    "factors that fit each other otherwise": ("LoKr", {"decompose_factor": 2, "decompose_both": True}),
    "lambdas by pattern": ("DeLoRA", {"lambda_pattern": {"q_proj": 3}, "rank_pattern": {"down_proj": 2}}),
    "frequencies by pattern": ("FourierFT", {"n_frequency_pattern": {"q_proj": 20}, "random_loc_seed": 5}),
    "proportional frequencies": ("WaveFT", {"proportional_parameters": True}),
    "blocks by pattern": ("C3A", {"block_size_pattern": {"q_proj": 8}}),
    "feedforward by a regular expression": ("(IA)³", {"feedforward_modules": ".*down_proj"}),
    "a shared block": ("OFT", {"block_share": True, "coft": True}),
    "several butterfly factors": ("BOFT", {"boft_n_butterfly_factor": 2}),
    "only the top vectors": ("VB-LoRA", {"save_only_topk_weights": True}),
    "indices found again": ("SuperTuning", {"save_precomputed_indices": False}),
    "a share of the directions": ("OSF", {"effective_rank": 0.25, "rank_pattern": {"q_proj": 4}}),
    "one layer only": ("VeRA", {"layers_to_transform": [1]}),
    "embeddings too": ("DoRA", {"target_modules": ["embed_tokens", "q_proj"]}),
    "tokens too": ("LoRA", {"trainable_token_indices": [3, 9]}),
    "a head trained whole": ("LoHa", {"modules_to_save": ["lm_head"]}),
}


@pytest.fixture(scope="module", params=MODELS)
def form(request, tmp_path_factory):
    """Return the name of a form of map, a model of such maps, its folder, and names of maps."""
    torch.manual_seed(0)
    build, targets = MODELS[request.param]
    model, folder = build(), tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return request.param, model, folder, targets


@pytest.mark.parametrize("tuner", TUNERS)
def test_every_row_is_what_pefts_merge_adds(form, tuner, tmp_path):
    name, model, base, targets = form
    config = config_of(tuner, targets)
    if name == "Conv1D" and tuner not in ON_CONV1D:
        if tuner == "OSF":
            # PEFT puts it on nothing, and says nothing.
            assert train(model, config, tmp_path).deltas == {}
            return
        if tuner == "OLoRA":
            # PEFT trains and saves it, and cannot merge it.
            with pytest.raises(RuntimeError, match="must match the size"):
                train(model, config, tmp_path)
            with pytest.raises(HiploraError, match="was initialized by olora"):
                read_adapter(tmp_path)
            return
        with pytest.raises(_REFUSALS.get(tuner, (TypeError, ValueError, NotImplementedError))):
            peft.get_peft_model(copy.deepcopy(model), config)
        return
    trained = train(model, config, tmp_path)
    found = disagreements(place(open_base(base), read_adapter(trained.folder)), trained.deltas)
    assert len(found) == 2 * len(targets)
    assert max(found.values()) < (SINGLE if tuner.startswith(FROM_A_WEIGHT) else ROUNDING)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """Return a model of Linear maps whose head is its own, and its folder."""
    torch.manual_seed(0)
    model, folder = hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT, tie_word_embeddings=False)), tmp_path_factory.mktemp("l")
    model.save_pretrained(folder)
    return model, folder


@pytest.mark.parametrize("variant", VARIANTS)
def test_settings_that_change_the_update(llama, variant, tmp_path):
    (model, base), (tuner, settings) = llama, VARIANTS[variant]
    trained = train(model, config_of(tuner, ["q_proj", "v_proj", "down_proj"], **settings), tmp_path)
    placement = place(open_base(base), read_adapter(trained.folder))
    found = disagreements(placement, trained.deltas)
    assert len(found) >= 3
    # The weights of the top vectors are saved in place of what they were made from, rounded.
    single = tuner.startswith(FROM_A_WEIGHT) or "save_only_topk_weights" in settings
    assert max(found.values()) < (SINGLE if single else ROUNDING)


def test_ranks_that_adalora_dropped(llama, tmp_path):
    model, base = llama
    adapted = peft.get_peft_model(copy.deepcopy(model), config_of("AdaLoRA", ["q_proj", "v_proj"], tinit=1, tfinal=1))
    before = {name: value.detach().double().clone() for name, value in model.state_dict().items()}
    before = {name: value for name, value in before.items() if "q_proj" in name or "v_proj" in name}
    for step in range(1, 10):
        torch.manual_seed(step)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn_like(parameter)
                parameter.grad = torch.randn_like(parameter)
        adapted.base_model.update_and_allocate(step)
    adapted.save_pretrained(tmp_path)
    kept = [sum(each) for each in json.loads((tmp_path / "adapter_config.json").read_text())["rank_pattern"].values()]
    assert sum(kept) == 2 * 4
    expected = merged_deltas(peft.PeftModel.from_pretrained(copy.deepcopy(model).double(), tmp_path), before)
    assert max(disagreements(place(open_base(base), read_adapter(tmp_path)), expected).values()) < ROUNDING


def test_an_adapter_that_acts_on_late_tokens_only_is_read_and_named(llama, tmp_path):
    trained = train(llama[0], config_of("LoRA", ["q_proj"]), tmp_path)
    _change_config(tmp_path, alora_invocation_tokens=[1, 2])
    placement = place(open_base(llama[1]), read_adapter(tmp_path))
    assert max(disagreements(placement, trained.deltas).values()) < ROUNDING
    assert read_adapter(tmp_path).caveats == [
        "It is an aLoRA: its update acts on the tokens from the invocation sequence on only."
    ]


def test_a_head_left_as_it_was_is_not_called_trained(llama, tmp_path):
    config = config_of("LoRA", ["q_proj"], modules_to_save=["lm_head", "embed_tokens"])
    peft.get_peft_model(copy.deepcopy(llama[0]), config).save_pretrained(tmp_path)
    placement = place(open_base(llama[1]), read_adapter(tmp_path))
    assert len(placement.weights) == 2
    assert placement.left_out == dict.fromkeys(
        ["lm_head", "model.embed_tokens"], "it is a copy of the base's own weight, unchanged"
    )


def test_an_embedding_trained_whole_is_left_out_by_name(llama, tmp_path):
    trained = train(llama[0], config_of("LoHa", ["q_proj"], modules_to_save=["embed_tokens"]), tmp_path)
    placement = place(open_base(llama[1]), read_adapter(trained.folder))
    assert placement.left_out == {"model.embed_tokens": "it was trained whole, and an embedding is not a linear map"}


def test_projections_that_were_not_saved_are_asked_for(llama, tmp_path):
    train(llama[0], config_of("VeRA", ["q_proj"], save_projection=False), tmp_path)
    with pytest.raises(HiploraError, match=r"lacks vera_A, which all modules of a VeRA share: .*save_projection=True"):
        read_adapter(tmp_path)


def test_every_tuner_of_peft_is_read_or_refused_by_its_reason(tmp_path):
    here = {"LORA", "TRAINABLE_TOKENS", "HIPLORA"}
    assert {kind.value for kind in peft.PEFT_TYPE_TO_CONFIG_MAPPING} <= here | set(READ) | set(REFUSED)
    assert not set(READ) & set(REFUSED)
    assert {kind: tuner.prefix for kind, tuner in READ.items()} == {
        kind: PEFT_TYPE_TO_PREFIX_MAPPING[kind] for kind in READ
    }
    assert {kind for kind, _ in TUNERS.values()} == set(READ) | {"LORA"}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("PREFIX_TUNING", "changes no weight"), ("FROD", "merge it with PEFT"), ("XLORA", "depends on the input")],
)
def test_the_others_say_why_they_are_not_read(tmp_path, kind, reason):
    save_file({"prompt_embeddings": torch.zeros(2, 2)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": kind}))
    with pytest.raises(HiploraError, match=rf"adapter_config.json says peft_type {kind}: .*{reason}"):
        read_adapter(tmp_path)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"r": 3}, r"its tensor model.*hada_w1_. is .*, and .* for a weight of 32 x 32"),
        ({"r": 10**9}, r"PEFT cannot put its LoHa on a weight of 32 x 32 \(r is 1000000000\)"),
        ({"r": -1}, r"PEFT cannot put its LoHa on a weight of 32 x 32 \(.*positive"),
        ({"alpha": "much"}, "PEFT cannot put its LoHa on a weight of 32 x 32"),
        (
            {"rank_pattern": {"(": 3}},
            r"adapter_config.json has '\(' in rank_pattern, which is not a regular expression",
        ),
    ],
)
def test_settings_that_do_not_fit_are_named_before_any_memory_is_taken(llama, tmp_path, settings, reason):
    train(llama[0], config_of("LoHa", ["q_proj"]), tmp_path)
    _change_config(tmp_path, **settings)
    with pytest.raises(HiploraError, match=reason):
        place(open_base(llama[1]), read_adapter(tmp_path))


def test_a_tensor_too_many_or_too_few_is_named(llama, tmp_path):
    train(llama[0], config_of("LoHa", ["q_proj"]), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    lost = next(key for key in tensors if key.endswith("hada_w2_b"))
    save_file({key: value for key, value in tensors.items() if key != lost}, file)
    placement = place(open_base(llama[1]), read_adapter(tmp_path))
    assert list(placement.left_out.values()) == [f"the file lacks its tensor {lost.removeprefix('base_model.model.')}"]
    save_file(tensors | {lost.replace("w2_b", "w9"): torch.zeros(2, 2)}, file)
    placement = place(open_base(llama[1]), read_adapter(tmp_path))
    assert "PEFT does not know its tensor" in next(iter(placement.left_out.values()))


def test_reading_leaves_the_callers_random_numbers_alone(llama, tmp_path):
    trained = train(llama[0], config_of("RandLoRA", ["q_proj"]), tmp_path)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    _ = [delta.energy for _, delta in place(open_base(llama[1]), read_adapter(trained.folder))]
    assert torch.equal(torch.rand(1), expected)


def _change_config(folder: Path, **settings: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize(
    ("tuner", "settings"),
    [
        ("LoRA", {}), ("DoRA", {}), ("AdaLoRA", {}), ("LoHa", {}), ("LoHa", {"use_effective_conv2d": True}),
        ("LoKr", {}), ("LoKr", {"use_effective_conv2d": True}), ("OFT", {}), ("BOFT", {}), ("HRA", {}), ("(IA)³", {}),
    ],
)  # fmt: skip
def test_a_convolution_is_what_pefts_merge_adds(tuner, settings, tmp_path):
    torch.manual_seed(0)
    model = ARCHITECTURES["ViT"]()
    model.save_pretrained(tmp_path / "base")
    trained = train(model, config_of(tuner, ["projection"], **settings), tmp_path / "adapter")
    found = disagreements(place(open_base(tmp_path / "base"), read_adapter(trained.folder)), trained.deltas)
    assert list(found) == ["vit.embeddings.patch_embeddings.projection.weight"]
    assert max(found.values()) < ROUNDING
