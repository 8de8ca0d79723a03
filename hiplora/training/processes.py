"""What a training of several processes shares: who writes, what the first one decided, and whole tensors."""

from typing import Any, TypeVar

from hiplora.errors import HiploraError

_T = TypeVar("_T")


def several() -> bool:
    """Return whether this process is one of several that train together."""
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def is_first() -> bool:
    """Return whether this is the process that writes: the only one, or that of rank 0."""
    if not several():
        return True
    import torch.distributed as dist

    return dist.get_rank() == 0


def from_first(value: _T) -> _T:
    """Return the first process's value in all of them; each must call this at the same point."""
    if not several():
        return value
    import torch.distributed as dist

    held: list[Any] = [value]
    dist.broadcast_object_list(held, src=0)
    return held[0]


def require_whole(model: Any) -> None:
    """Raise if the factors of an adapter cannot be put together from their parts.

    Sharded by FSDP2, each parameter is still a tensor of its own, and is gathered. FSDP1 and ZeRO-3 hold flat pieces
    in place of the parameters.

    Raises:
        HiploraError: the model is sharded in one of these ways.
    """
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.nn import Module

    if not isinstance(model, Module):
        return
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        raise HiploraError(
            "This model is sharded by FSDP1, which flattens the factors of an adapter into pieces that cannot be "
            "measured: set fsdp_version to 2."
        )
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        raise HiploraError(
            "This model is sharded by DeepSpeed ZeRO-3, which leaves empty parameters that cannot be measured: use "
            "ZeRO-2, or FSDP with fsdp_version 2."
        )
