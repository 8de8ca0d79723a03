import numpy as np
import pytest
from peft import LoraConfig
from safetensors.numpy import load_file, save_file

from hiplora.adapters import INITIAL_FILE, read_adapter
from hiplora.errors import HiploraError
from tests import numerics


def corda(model, config):
    import torch
    from peft.tuners.lora.corda import preprocess_corda

    preprocess_corda(model, config, run_model=lambda: [model(torch.randint(40, (1, 16))) for _ in range(20)])


def lora_ga(model, config):
    import torch
    from peft.tuners.lora import preprocess_loraga

    tokens = torch.arange(160).reshape(10, 16) % 37
    preprocess_loraga(model, config, lambda: model(tokens, labels=tokens).loss.backward())


# Not "all-linear", which CorDA's and LoRA-GA's preparations do not know.
MAPS = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]
PREPARE = {"corda": corda, "lora_ga": lora_ga}


@pytest.fixture
def start(train, llama_base):
    """Return `start(init, base, **fields) -> trained`, with `initial.safetensors` beside the adapter."""

    def start(init, base=llama_base, *, keep=True, convert=False, move=0.05, **fields):
        from peft import LoraGAConfig

        if init == "lora_ga":
            fields["lora_ga_config"] = LoraGAConfig()
        settings = {"r": 4, "lora_alpha": 12, "target_modules": MAPS} | fields
        config = LoraConfig(init_lora_weights=init, **settings)
        prepare = PREPARE.get(init, lambda model, config: None)
        trained = train(base, config, prepare=lambda model: prepare(model, config), convert=convert, move=move)
        if keep:
            trained.initial.rename(trained.folder / INITIAL_FILE)
        return trained

    return start


CASES = {
    "PiSSA": ("pissa", {}),
    "PiSSA by iteration": ("pissa_niter_4", {}),
    "PiSSA, rsLoRA": ("pissa", {"use_rslora": True}),
    "PiSSA, patterns": ("pissa", {"rank_pattern": {"q_proj": 7}, "alpha_pattern": {"up_proj": 3}}),
    "PiSSA, r larger than k_proj": ("pissa", {"r": 20}),
    "PiSSA, rsLoRA, r larger by a pattern": ("pissa", {"rank_pattern": {"k_proj": 20}, "use_rslora": True}),
    "OLoRA": ("olora", {}),
    "OLoRA, rsLoRA": ("olora", {"use_rslora": True}),
    "CorDA": ("corda", {}),
    "LoRA-GA": ("lora_ga", {}),
    "LoRA-GA, rsLoRA": ("lora_ga", {"use_rslora": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_update_is_that_of_the_base_before_the_start(case, start, gap):
    init, fields = CASES[case]
    trained = start(init, **fields)
    adapter = read_adapter(trained.folder)
    assert len(adapter.modules) == 14
    for module in adapter.modules:
        delta, expected = adapter.delta(module), trained.changes[module]
        assert gap(delta.dense(), expected) < trained.errors[module], module
        assert adapter.shape(module) == delta.shape == expected.shape
    assert (adapter.method, adapter.caveats, adapter.needs_weight(adapter.modules[0])) == (
        case.partition(",")[0].partition(" ")[0],
        [],
        False,
    )


@pytest.mark.parametrize("init", ["pissa", "corda", "lora_ga"])
def test_conv1d_updates_are_out_x_in(init, start, gpt2_base, gap):
    trained = start(init, gpt2_base, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    adapter = read_adapter(trained.folder)
    assert len(adapter.modules) == 6
    for module in adapter.modules:
        assert gap(adapter.delta(module).dense(), trained.changes[module]) < trained.errors[module], module


def test_olora_on_conv1d_is_refused_since_peft_starts_it_elsewhere_than_at_the_base(start, gpt2_base):
    """Of a square map, the only shape that its factors fit there: at step 0 the model is not the base."""
    trained = start("olora", gpt2_base, move=0.0, target_modules=r".*attn\.c_proj", fan_in_fan_out=True)
    moved = trained.changes["transformer.h.0.attn.c_proj"]
    assert np.linalg.norm(moved) > 0.1
    with pytest.raises(HiploraError, match="adapter was initialized by OLoRA on Conv1D, which PEFT gets wrong"):
        read_adapter(trained.folder)


def test_before_the_first_step_the_update_is_zero(start):
    adapter = read_adapter(start("pissa", move=0.0).folder)
    for module in adapter.modules:
        delta = adapter.delta(module)
        assert delta.energy == 0
        assert not delta.singular_values.any()


def test_a_small_update_is_not_lost_beside_the_part_of_the_base(start):
    adapter = read_adapter(start("pissa", move=1e-6).folder)
    for module in adapter.modules:
        delta = adapter.delta(module)
        assert delta.energy == pytest.approx(np.sum(delta.dense() ** 2), rel=numerics.EXACT)


@pytest.mark.parametrize("init", ["pissa_niter_16", "corda", "lora_ga"])
def test_without_its_start_it_is_refused_and_told_what_is_missing(init, write_adapter, rng):
    folder = write_adapter("moved", {
        "base_model.model.a.lora_A.weight": rng.normal(size=(2, 5)),
        "base_model.model.a.lora_B.weight": rng.normal(size=(5, 2)),
    }, init_lora_weights=init)  # fmt: skip
    with pytest.raises(
        HiploraError,
        match=f"moved was initialized by {init}, which changes the base too, .*initial weights beside them as "
        r"initial\.safetensors, or save it with PEFT's path_initial_model_for_weight_conversion",
    ):
        read_adapter(folder)


def test_loftq_is_refused_whatever_lies_beside_it(write_adapter, rng):
    tensors = {f"base_model.model.a.lora_{factor}.weight": rng.normal(size=(3, 3)) for factor in "AB"}
    folder = write_adapter("moved", tensors, init_lora_weights="loftq")
    save_file(tensors, folder / INITIAL_FILE)
    with pytest.raises(HiploraError, match="moved was initialized by loftq, which changes the base too, by quantizing"):
        read_adapter(folder)


def test_a_dora_whose_start_came_from_data_is_refused(write_adapter, rng):
    tensors = {f"base_model.model.a.lora_{factor}.weight": rng.normal(size=(3, 3)) for factor in "AB"}
    folder = write_adapter("both", tensors, init_lora_weights="corda", use_dora=True)
    save_file(tensors, folder / INITIAL_FILE)
    with pytest.raises(HiploraError, match="both is a DoRA initialized by corda, and its start cannot be made again"):
        read_adapter(folder)


@pytest.mark.parametrize("damage", ["missing", "another shape"])
def test_a_start_of_another_run_is_named(start, damage):
    folder = start("pissa").folder
    tensors = load_file(folder / INITIAL_FILE)
    key = next(key for key in tensors if "lora_B" in key)
    taken = tensors.pop(key)
    if damage == "another shape":
        tensors[key] = taken[:, :2].copy()
    save_file(tensors, folder / INITIAL_FILE)
    with pytest.raises(HiploraError, match=r"initial\.safetensors does not hold .*lora_B\.weight in the shape"):
        read_adapter(folder)


def test_nan_in_the_start_is_named_with_its_file(start):
    folder = start("pissa").folder
    tensors = load_file(folder / INITIAL_FILE)
    for tensor in tensors.values():
        tensor[:] = np.nan
    save_file(tensors, folder / INITIAL_FILE)
    adapter = read_adapter(folder)
    with pytest.raises(HiploraError, match=r"initial\.safetensors: .* holds NaN"):
        adapter.delta(adapter.modules[0])


def test_one_that_peft_converted_is_an_ordinary_lora(start, gap):
    trained = start("pissa", keep=False, convert=True)
    adapter = read_adapter(trained.folder)
    assert adapter.method == "LoRA"
    for module in adapter.modules:
        assert gap(adapter.delta(module).dense(), trained.changes[module]) < trained.errors[module]
