"""Shadow prices of the stability budget, recorded while a model trains."""

from typing import Any

import torch
from torch import Tensor, nn

from hiplora.budget import shadow_price
from hiplora.errors import HiploraError
from hiplora.tuner.functional import budget_cost
from hiplora.tuner.layer import HipLoraLinear

_Key = tuple[int, str, str]
"""Position in the model, adapter, module: sorted like this, since backward passes visit the layers in another order."""


class ShadowPrices:
    """Records `-<dL/dC, C> / (2 cost)` of every HiP-LoRA layer that is being trained (METHOD.md section 3, our choice).

    `L` is the task loss and `C` the effective core, the one that the forward used: in the soft mode the penalty is not
    in it, and in the hard mode it is the scaled core, because the raw one has no radial part where the budget binds.
    The unit is that of the task loss per unit of cost: a positive price says by how much a little more budget, spent
    on more of the same change, would lower the loss. A loss scaled for float16 training scales all prices alike:
    they then only compare layers.

    It records the backward passes of forwards in training mode, at the cost of a few products of k x k elements per
    layer; the gradients stay bit for bit the same. A later recorder on the same model replaces an earlier one; a copy
    of the model has none.

    In an unchanged `transformers.Trainer`, call `step()` from a callback's `on_step_end`, and `prices()` when
    needed, for example in `on_log`.
    """

    def __init__(self, model: nn.Module) -> None:
        """Start recording.

        Args:
            model: with HiP-LoRA adapters on it, wrapped by PEFT or not.
        """
        layers = (layer for layer in model.modules() if isinstance(layer, HipLoraLinear))
        self._layers = {layer: position for position, layer in enumerate(layers)}
        self._sums: dict[_Key, Tensor] = {}
        self._samples = 0
        self._inner: dict[_Key, Tensor] = {}
        self._costs: dict[_Key, Tensor] = {}
        for layer in self._layers:
            layer.price_recorder = self._watch

    def __enter__(self) -> "ShadowPrices":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _watch(self, layer: HipLoraLinear, adapter: str, core: Tensor) -> Tensor:
        if not (layer.training and core.requires_grad):
            return core
        # The core may be the parameter itself, whose gradient includes the penalty: that of a view does not.
        core = core.view_as(core)
        key = self._layers[layer], adapter, layer.hiplora_records[adapter].module
        fixed, sigma = core.detach(), layer.hiplora_S[adapter]
        power = layer.hiplora_settings[adapter].budget_power

        @torch.no_grad()
        def record(grad: Tensor) -> None:
            if layer.price_recorder != self._watch:
                return
            self._inner[key] = self._inner.get(key, 0) + (grad * fixed).sum()
            self._costs[key] = budget_cost(fixed, sigma, power)

        core.register_hook(record)
        return core

    def step(self) -> None:
        """Call after each optimizer step; the sum of its backward passes is one sample.

        Micro-batches add up because the Trainer divides their losses accordingly. A step without a backward pass
        is not a sample; a layer that a batch did not reach has price 0 in it.
        """
        if not self._inner:
            return
        for key, inner in self._inner.items():
            self._sums[key] = self._sums.get(key, 0) + shadow_price(inner, self._costs[key])
        self._samples += 1
        self._inner.clear()
        self._costs.clear()

    def prices(self) -> dict[str, float]:
        """Return the mean price per module over the samples since the last call, and start again; `{}` without samples.

        Raises:
            HiploraError: two adapters were trained on one module.
        """
        sums, samples = dict(sorted(self._sums.items(), key=lambda item: item[0])), self._samples
        self._sums, self._samples = {}, 0
        if not sums:
            return {}
        modules = [module for _, _, module in sums]
        if len(set(modules)) < len(modules):
            adapters = " and ".join(sorted({adapter for _, adapter, _ in sums}))
            raise HiploraError(
                f"Shadow prices are those of one adapter, but {adapters} were trained: train one at a time, and "
                "ask for its prices before the next."
            )
        device = next(iter(sums.values())).device
        # One transfer for all layers.
        means = (torch.stack([price.to(device) for price in sums.values()]) / samples).tolist()
        return dict(zip(modules, means, strict=True))

    def state(self) -> dict[str, Any]:
        """Return the samples since the last call of `prices`, as an exact JSON object."""
        return {"samples": self._samples, "sums": [[*key, float(total)] for key, total in self._sums.items()]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the samples that `state` returned."""
        self._samples = state["samples"]
        self._sums = {(at, adapter, module): torch.tensor(total) for at, adapter, module, total in state["sums"]}

    def close(self) -> None:
        """Stop recording; the samples so far remain available."""
        for layer in self._layers:
            if layer.price_recorder == self._watch:
                del layer.price_recorder
