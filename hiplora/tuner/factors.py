"""Get a layer's principal basis, and check that it is the one an adapter was trained on."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hiplora.adapters.hiplora_format import check_factors, factors_hash
from hiplora.errors import HiploraError
from hiplora.settings import HipLoraSettings

if TYPE_CHECKING:
    from hiplora.spectrum import Spectrum


_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def oriented_weight(base: nn.Module, module: str) -> Tensor:
    """Return the weight of a linear map as (m, n), out x in; a view for Conv1D.

    Args:
        base: nn.Linear or Conv1D.
        module: its name, for the errors.

    Raises:
        HiploraError: another kind of layer, or a weight that is quantized or not in memory.
    """
    if not isinstance(base, nn.Linear | Conv1D):
        raise HiploraError(
            f"{module} is a {type(base).__name__}, and HiP-LoRA adapts nn.Linear and Conv1D: leave it out of "
            "target_modules."
        )
    weight = base.weight.detach()
    if weight.is_meta:
        raise HiploraError(f"The weight of {module} is not in memory (meta device): load the base model whole first.")
    if weight.dtype not in _DTYPES or weight.ndim != 2:
        raise HiploraError(f"The weight of {module} is quantized ({weight.dtype}): load the base in 16 or 32 bits.")
    return weight.T if isinstance(base, Conv1D) else weight


def check_ranks(settings: HipLoraSettings, shape: tuple[int, int], module: str) -> None:
    """Raise if r or k is larger than the layer.

    Args:
        settings: of the module.
        shape: (m, n).
        module: its name, for the error.

    Raises:
        HiploraError: a rank is too large; names the value.
    """
    k = settings.principal_rank
    for name, value in (("r", settings.r), ("principal_rank", k if isinstance(k, int) else 1)):
        if value > min(shape):
            raise HiploraError(
                f"{name}={value} is larger than {module}, which is {shape[0]} x {shape[1]}: use at most {min(shape)}, "
                f"or set a smaller one for it in {'rank_pattern' if name == 'r' else 'principal_rank_pattern'}."
            )


def fetch_basis(weight: Tensor, principal_rank: int | float, module: str) -> "Spectrum":
    """Return the leading triplets of a weight, from the user's cache or computed.

    Args:
        weight: (m, n), out x in.
        principal_rank: k, or the share of `||W||_F^2` that the k triplets must reach.
        module: its name, for the error.

    Raises:
        HiploraError: the weight is all zeros or not finite, or the cache cannot be written.
    """
    from hiplora.spectrum import spectrum_of

    if isinstance(principal_rank, int):
        spectrum = spectrum_of(weight, principal_rank)
    else:
        spectrum = spectrum_of(weight)
        reached = np.cumsum(spectrum.sigma**2) >= principal_rank * spectrum.frobenius**2
        spectrum = spectrum.truncate(int(np.argmax(reached)) + 1 if reached.any() else spectrum.k)
    if spectrum.sigma[0] == 0:
        raise HiploraError(f"The weight of {module} is all zeros and has no principal directions: exclude the module.")
    return spectrum


def refetch_basis(weight: Tensor, settings: HipLoraSettings, entry: Mapping[str, Any], module: str) -> "Spectrum":
    """Return the basis that a saved adapter was trained on, from the cache or computed again.

    Args:
        weight: (m, n), out x in, already known to be the right one.
        settings: of the module.
        entry: the module's entry in `base_weights`.
        module: its name, for the error.

    Raises:
        HiploraError: the basis differs from the one the core was trained on.
    """
    from hiplora.spectrum import spectrum_of

    # A share asks for all triplets, as it did in training: a truncated SVD could differ in the last digits.
    k = entry["principal_rank"]
    spectrum = spectrum_of(weight, k if isinstance(settings.principal_rank, int) else None).truncate(k)
    check_factors(spectrum.Ut, spectrum.sigma, spectrum.Vt, entry, module)
    return spectrum


def is_basis_of(weight: Tensor, Ut: Tensor, S: Tensor, Vt: Tensor) -> bool:
    """Whether these are singular triplets of a weight, orthonormal and to float32 rounding.

    Two routines give different bits for one weight and both pass; the rounding of a weight to 16 bits does not.

    Args:
        weight: (m, n), out x in.
        Ut: (k, m).
        S: (k,).
        Vt: (k, n).
    """
    W, Ut, S, Vt = (part.cpu().double() for part in (weight, Ut, S, Vt))
    if (Ut.shape, Vt.shape) != ((len(S), len(W)), (len(S), W.shape[1])):
        return False
    eye = torch.eye(len(S), dtype=W.dtype)
    misses = [(Q @ Q.T - eye).abs().max() for Q in (Ut, Vt)]
    misses += [
        (Vt @ W.T - S[:, None] * Ut).norm(dim=1).max() / S[0],
        (Ut @ W - S[:, None] * Vt).norm(dim=1).max() / S[0],
    ]
    # Float32 rounding of the triplets is 1e-7. NaN compares false.
    return all(bool(miss < 1e-6) for miss in misses)


def entry_of(spectrum: "Spectrum") -> dict[str, Any]:
    """Return the entry of a basis in `base_weights`."""
    return {
        "hash": spectrum.weight_hash,
        "principal_rank": spectrum.k,
        "factors": factors_hash(spectrum.Ut, spectrum.sigma, spectrum.Vt),
    }


def check_base(weight: Tensor, entry: Mapping[str, Any], module: str, adapter: str) -> None:
    """Raise unless a weight is the one that an adapter was trained on, bit for bit and in the same dtype.

    Args:
        weight: (m, n), out x in.
        entry: the module's entry in `base_weights`.
        module: its name, for the error.
        adapter: the adapter's name, for the error.

    Raises:
        HiploraError: it is a different one.
    """
    from hiplora.spectrum import content_hash

    if content_hash(weight) != entry["hash"]:
        raise HiploraError(
            f"Adapter {adapter!r} was trained on another weight than this base's {module} ({tuple(weight.shape)}, "
            f"{str(weight.dtype).removeprefix('torch.')}): load the base it was trained on, in the same dtype, or "
            "export the adapter as LoRA."
        )
