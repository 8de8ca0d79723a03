"""Get a layer's principal basis, and check that it is the one an adapter was trained on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hiplora.adapters.hiplora_format import check_factors, factors_hash, without_basis
from hiplora.errors import HiploraError
from hiplora.settings import HipLoraSettings

if TYPE_CHECKING:
    from hiplora.geometry import Moments
    from hiplora.spectrum import Spectrum


_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Basis:
    """The frozen basis of one module, float32 (METHOD.md sections 2 and 8).

    Attributes:
        Ut: (k, m), left singular vectors as rows.
        S: (k,), singular values, falling; in the geometry of the inputs per root mean square of an input's components,
            so that the unit of the core is that of the weights' geometry.
        Vt: (k, n), right singular vectors, or `Q_k^T` in the geometry of the inputs.
        entry: the module's entry in `base_weights`.
        Rinv: (k, k), `R^-1` of `K V'_k = Q_k R` in the unit of `S`; None in the geometry of the weights.
    """

    Ut: np.ndarray
    S: np.ndarray
    Vt: np.ndarray
    entry: dict[str, Any]
    Rinv: np.ndarray | None = None

    @classmethod
    def of(cls, spectrum: "Spectrum", weight_hash: str, moments: "Moments | None" = None) -> "Basis":
        """Return the basis that a spectrum gives.

        Args:
            spectrum: of the weight, or of `W0 K` where there are moments.
            weight_hash: content hash of the weight.
            moments: of the weight's inputs, not all zeros.
        """
        parts = {"Ut": spectrum.Ut, "S": spectrum.sigma, "Vt": spectrum.Vt}
        entry: dict[str, Any] = {"hash": weight_hash, "principal_rank": spectrum.k}
        if moments is not None:
            from hiplora.geometry.spectra import flow

            size = (moments.trace / moments.size) ** 0.5
            Qt, R = flow(spectrum.Vt, moments)
            parts |= {"S": spectrum.sigma / size, "Vt": Qt, "Rinv": np.linalg.inv(R / size)}
            entry["inputs"] = moments.digest
        parts = {name: np.ascontiguousarray(part, dtype=np.float32) for name, part in parts.items()}
        return cls(**parts, entry=entry | {"factors": factors_hash(parts.values())})


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


def fetch_basis(weight: Tensor, settings: HipLoraSettings, module: str, moments: "Moments | None" = None) -> Basis:
    """Return the principal basis of a weight, from the user's cache or computed.

    Args:
        weight: (m, n), out x in.
        settings: of the module; `principal_rank` is k, or the share of the squared norm that the k triplets must reach.
        module: its name, for the error.
        moments: of its inputs, for `geometry="inputs"`.

    Raises:
        HiploraError: the weight is all zeros or not finite, the cache cannot be written, or the inputs were not
            observed.
    """
    from hiplora.geometry.spectra import input_spectrum
    from hiplora.spectrum import content_hash, default_cache, spectrum_of

    rank, weight_hash = settings.principal_rank, content_hash(weight)
    k = rank if isinstance(rank, int) else None
    if settings.geometry == "weights":
        moments, spectrum = None, spectrum_of(weight, k)
    elif moments is None:
        raise HiploraError(
            f"The inputs of {module} were not observed, which geometry='inputs' needs: call "
            "hiplora.tuner.observe_inputs(model, ...) before the adapter is added, or exclude the module."
        )
    elif moments.size != weight.shape[1]:
        raise HiploraError(
            f"{module} takes {weight.shape[1]} inputs, and those observed have {moments.size}: observe this very model."
        )
    else:
        device = "cuda" if weight.is_cuda else "cpu"
        held = weight.double().cpu().numpy()
        spectrum = input_spectrum(held, moments, k, weight_hash, default_cache(), device)
    if k is None:
        reached = np.cumsum(spectrum.sigma**2) >= rank * spectrum.frobenius**2
        spectrum = spectrum.truncate(int(np.argmax(reached)) + 1 if reached.any() else spectrum.k)
    if moments is not None and moments.trace == 0:
        raise HiploraError(f"All observed inputs of {module} are zeros: exclude the module, or observe others.")
    if spectrum.sigma[0] == 0:
        raise HiploraError(f"The weight of {module} is all zeros and has no principal directions: exclude the module.")
    return Basis.of(spectrum, weight_hash, moments)


def refetch_basis(weight: Tensor, settings: HipLoraSettings, entry: Mapping[str, Any], module: str) -> Basis:
    """Return the basis that a saved adapter was trained on, from the cache or computed again.

    Args:
        weight: (m, n), out x in, already known to be the right one.
        settings: of the module.
        entry: the module's entry in `base_weights`.
        module: its name, for the error.

    Raises:
        HiploraError: the basis differs from the one the core was trained on, or is one of inputs.
    """
    from hiplora.spectrum import spectrum_of

    if "inputs" in entry:
        raise without_basis(module)

    # A share asks for all triplets, as it did in training: a truncated SVD could differ in the last digits.
    k = entry["principal_rank"]
    spectrum = spectrum_of(weight, k if isinstance(settings.principal_rank, int) else None).truncate(k)
    basis = Basis.of(spectrum, entry["hash"])
    check_factors((basis.Ut, basis.S, basis.Vt), entry, module)
    return basis


def is_basis_of(weight: Tensor, Ut: Tensor, S: Tensor, Vt: Tensor, Rinv: Tensor | None = None) -> bool:
    """Whether these are singular triplets of a weight, orthonormal and to float32 rounding.

    Two routines give different bits for one weight and both pass; the rounding of a weight to 16 bits does not.
    In the geometry of the inputs `W0 K V'_k = U_k S` and `K V'_k = Q_k R` give `W0 Q_k = U_k S R^-1`; the other half
    would take the inputs.

    Args:
        weight: (m, n), out x in.
        Ut: (k, m).
        S: (k,).
        Vt: (k, n).
        Rinv: (k, k), for a basis of inputs.
    """
    W, Ut, S, Vt = (part.cpu().double() for part in (weight, Ut, S, Vt))
    if (Ut.shape, Vt.shape) != ((len(S), len(W)), (len(S), W.shape[1])):
        return False
    eye = torch.eye(len(S), dtype=W.dtype)
    misses = [(Q @ Q.T - eye).abs().max() for Q in (Ut, Vt)]
    if Rinv is None:
        misses += [
            (Vt @ W.T - S[:, None] * Ut).norm(dim=1).max() / S[0],
            (Ut @ W - S[:, None] * Vt).norm(dim=1).max() / S[0],
        ]
    elif Rinv.shape != eye.shape:
        return False
    else:
        # Rounding of R^-1 and of V'_k reaches the product by the largest of both sides.
        Rinv = Rinv.cpu().double()
        misses.append((W @ Vt.T - Ut.T @ (S[:, None] * Rinv)).norm() / (S[0] * Rinv.norm()))
    # Float32 rounding of the triplets is 1e-7. NaN compares false.
    return all(bool(miss < 1e-6) for miss in misses)


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
