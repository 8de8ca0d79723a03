from types import SimpleNamespace

import numpy as np
import pytest

from tests import numerics


@pytest.fixture
def train(tmp_path):
    """Return `train(base, config, ...) -> folder, initial, changes`: an adapter that PEFT started, moved and saved.

    `changes` is `{module: dW}`, out x in, by PEFT's own merge in float64: what the model holds after it less what the
    base held. `errors` is `{module: error}`, relative to it: what PEFT rounds where a start changes the base.
    `initial` is the file of the weights at step 0. With `convert` PEFT makes an ordinary LoRA of it when it saves.
    """
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    def maps(model):
        return {
            name: (module.weight.T if isinstance(module, Conv1D) else module.weight).detach().double().numpy().copy()
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear | Conv1D)
        }

    def lora_layers(model):
        for name, layer in model.named_modules():
            if "default" in getattr(layer, "lora_A", ()):
                yield name.removeprefix("base_model.model."), layer

    def start_error(W0, layer):
        """`W0 - s B A` in float32."""
        A, B = (factors["default"].weight.detach().norm().item() for factors in (layer.lora_A, layer.lora_B))
        steps = layer.r["default"] + 3
        return numerics.gamma(steps, "float32") * (np.linalg.norm(W0) + abs(layer.scaling["default"]) * A * B)

    def train(base, config, *, prepare=lambda model: None, convert=False, move=0.05):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(base)
        before = maps(model)
        prepare(model)
        model = get_peft_model(model, config)
        errors = {name: start_error(before[name], layer) for name, layer in lora_layers(model)}
        folder, start = tmp_path / "adapter", tmp_path / "start"
        # PEFT's own recipe: it does not start from a start that changes the base again when it reads this one.
        init, model.peft_config["default"].init_lora_weights = config.init_lora_weights, True
        model.save_pretrained(start)
        model.peft_config["default"].init_lora_weights = init
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(move * torch.randn_like(parameter))
        model.save_pretrained(folder, path_initial_model_for_weight_conversion=str(start) if convert else None)
        after = maps(model.double().merge_and_unload())
        changes = {module: after[module] - W0 for module, W0 in before.items()}
        return SimpleNamespace(
            folder=folder,
            initial=start / "adapter_model.safetensors",
            changes=changes,
            errors={name: error / np.linalg.norm(changes[name]) for name, error in errors.items()},
        )

    return train


@pytest.fixture
def gap():
    """Return `gap(found, expected)`: how far two matrices are apart, relative to the second."""
    return lambda found, expected: np.linalg.norm(found - expected) / np.linalg.norm(expected)
