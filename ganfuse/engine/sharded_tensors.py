"""Tensors of which each process holds a part, as `fully_shard` makes parameters (PyTorch's DTensor)."""

from typing import Any

from torch import Tensor

__all__ = ["is_sharded", "own_part", "shard_like", "whole"]


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds a part of the tensor only."""
    return hasattr(tensor, "full_tensor")


def own_part(tensor: Tensor) -> Tensor:
    """What this process has of a tensor, in the same memory. It may be empty."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined, no-any-return]


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor, gathered from all processes if it is sharded. They must all ask."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined, no-any-return]


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor that all processes have, sharded as another one is."""
    if not is_sharded(like) or is_sharded(tensor):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    like_any: Any = like
    return distribute_tensor(tensor.to(like.device), like_any.device_mesh, like_any.placements)
