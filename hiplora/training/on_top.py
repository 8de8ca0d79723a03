"""Train on top of earlier adapters: the base with their updates added, and what they leave of each layer's budget."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from hiplora.adapters import Placement, Update, place, read_adapter
from hiplora.card import CARD_FILE
from hiplora.errors import HiploraError
from hiplora.files import hashes_of
from hiplora.geometry import seen
from hiplora.measures import ledger_table
from hiplora.merging.beside import unmergeable
from hiplora.settings import LEAST_EPSILON, HipLoraSettings
from hiplora.sources import BaseModel
from hiplora.spectrum import BaseSpectra
from hiplora.training.config import RunConfig


def earlier_updates(base: BaseModel, config: RunConfig) -> list[Placement]:
    """Return the updates that a run is trained on top of, in their order.

    Args:
        base: of the run.
        config: names them, and the method.

    Raises:
        HiploraError: one cannot be read, does not fit the base, changes more than matrices, or is named twice; or the
            method is DoRA.
    """
    if config.on_top and config.method == "dora":
        raise HiploraError(
            "DoRA learns the size of each row of the weights that it is loaded on, which earlier adapters change: "
            "choose another method on top of them."
        )
    found: dict[Any, Placement] = {}
    spectra = BaseSpectra(base)
    for name in config.on_top:
        placement = place(base, read_adapter(name))
        for weight in placement.weights:
            own = placement.names[weight.module]
            known = placement.update.weight_hash(own)
            if known is not None and known != spectra.weight_hash(weight):
                raise HiploraError(
                    f"{name} was trained on another {own} than that of {base.name}: train on top of adapters of this "
                    "very base."
                )
        placement.require_apart()
        if placement.update.identity in found:
            raise HiploraError(f"{name} is named twice: name each earlier adapter once.")
        if reason := unmergeable(placement):
            raise HiploraError(reason)
        found[placement.update.identity] = placement
    return list(found.values())


def add_updates(model: Any, placements: Sequence[Placement]) -> None:
    """Add updates to the frozen weights of a model in memory, one weight at a time, in float32.

    Args:
        model: of transformers, with or without an adapter on it.
        placements: the updates on its base.

    Raises:
        HiploraError: a module is not a linear map of the model.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    modules = {name.removeprefix("base_model.model."): module for name, module in model.named_modules()}
    for placement in placements:
        for module in placement.places:
            layer = modules.get(module)
            layer = getattr(layer, "base_layer", layer)
            weight = getattr(layer, "weight", None)
            delta = torch.from_numpy(placement.delta(module).dense())
            delta = delta.T if isinstance(layer, Conv1D) else delta
            if not isinstance(layer, torch.nn.Linear | Conv1D) or weight is None or weight.shape != delta.shape:
                raise HiploraError(
                    f"{placement.update.name} changes {module}, which is not a linear map of the model in memory: "
                    "train on top of adapters of linear maps."
                )
            whole = torch.promote_types(weight.dtype, torch.float32)
            weight.data.copy_((weight.to(whole) + delta.to(weight.device, whole)).to(weight.dtype))


def digest_of(update: Update) -> str:
    """Return the hashes of an update's files as one text: of its weights, and of its config, which tells the scale."""
    found = hashes_of(update.folder)
    return " ".join(digest for name, digest in found.items() if name != CARD_FILE)


def budgets_left(spectra: BaseSpectra, placements: Sequence[Placement], config: RunConfig) -> dict[str, float]:
    """Return `{module: epsilon}`: what earlier updates leave of `config.epsilon`, for any next one.

    See `hiplora.measures.ledger_table`. A spent budget leaves the smallest epsilon that there is.

    Args:
        spectra: of the base, in the geometry of the run.
        placements: the earlier updates.
        config: `principal_rank`, `epsilon` and `budget_power`.

    Raises:
        HiploraError: an update holds NaN.
    """
    earlier = [seen(placement, spectra) for placement in placements]
    table = ledger_table(spectra, earlier, config.principal_rank, epsilon=config.epsilon, power=config.budget_power)
    last = table[table["position"] == len(earlier)]
    left = (last["left"].fillna(1.0) * config.epsilon).clip(lower=LEAST_EPSILON)
    return dict(zip(last["module"], left.tolist(), strict=True))


def within_what_is_left(config: RunConfig, spectra: BaseSpectra, earlier: Sequence[Placement]) -> HipLoraSettings:
    """Return the settings of a run's adapter: `epsilon` of each module is what earlier updates leave of it.

    Args:
        config: of the run.
        spectra: as for `budgets_left`.
        earlier: updates; the settings stay as they are without one.

    Raises:
        HiploraError: as `budgets_left`.
    """
    if not earlier:
        return config
    own = {each.name: getattr(config, each.name) for each in fields(HipLoraSettings)}
    return HipLoraSettings(**own | {"epsilon_pattern": budgets_left(spectra, earlier, config)})
