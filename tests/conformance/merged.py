"""A random adapter on a model, and PEFT's own answer to what it changes."""

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import peft
import torch

from hiplora.adapters import Placement


@dataclass(frozen=True)
class Trained:
    """An adapter on disk.

    Attributes:
        folder: where it was saved.
        deltas: `{parameter that changes: PEFT's merged weight minus the base's}`, float64.
    """

    folder: Path
    deltas: dict[str, np.ndarray]


def train(model: torch.nn.Module, config: peft.PeftConfig, folder: Path) -> Trained:
    """Put an adapter on a copy of a model, move all its parameters at random, save it, and merge it in float64."""
    model = copy.deepcopy(model)
    before = {name: value.detach().double().clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    adapted.save_pretrained(folder)
    return Trained(folder, merged_deltas(adapted.double(), before))


def merged_deltas(adapted: peft.PeftModel, before: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Return what merging an adapter changes of the weights before it, float64."""
    after = adapted.merge_and_unload().state_dict()
    changed = {name: (after[name].double() - before[name]).numpy() for name in before}
    return {name: delta for name, delta in changed.items() if delta.ndim > 1 and np.any(delta)}


def disagreements(placement: Placement, deltas: dict[str, np.ndarray]) -> dict[str, float]:
    """Return `{matrix: largest difference from PEFT, relative to the largest entry of PEFT's delta}`.

    One that PEFT changes and that has no row is off by infinity, and so is a row of one that PEFT leaves alone.
    """
    found = dict.fromkeys(deltas, np.inf)
    for weight, delta in placement:
        parameter, _, expert = weight.module.partition("[")
        name = parameter if parameter in deltas else f"{parameter}.weight"
        if name not in deltas:
            found[weight.module] = np.inf if delta.energy else 0.0
            continue
        theirs = deltas[name][int(expert[:-1])] if expert else deltas[name]
        theirs = theirs.T if weight.transposed else theirs.reshape(len(theirs), -1)
        error = float(np.abs(delta.dense() - theirs).max() / np.abs(theirs).max())
        found[name] = error if found[name] == np.inf else max(found[name], error)
    return found
