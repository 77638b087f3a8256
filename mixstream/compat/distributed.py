"""`streaming.base.distributed`: the rank from the environment, and collectives that do nothing in a job of one process.

mixstream itself finds its rank with `mixstream.distributed.detect_world`, which asks torch.distributed first.
"""

import os
from typing import Any, TypeVar

from mixstream.errors import RanksDisagreeError

T = TypeVar("T")


def get_rank() -> int:
    """Return RANK, 0 if it is not set."""
    return int(os.environ.get("RANK", "0"))


def get_world_size() -> int:
    """Return WORLD_SIZE, 1 if it is not set."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def get_local_rank() -> int:
    """Return LOCAL_RANK, 0 if it is not set."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def get_local_world_size() -> int:
    """Return LOCAL_WORLD_SIZE, 1 if it is not set."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def barrier() -> None:
    """Wait for all ranks, if torch.distributed is initialised."""
    if (dist := _initialised()) is not None:
        dist.barrier()


def broadcast(tensor: Any, src: int) -> None:
    """Replace `tensor` by that of rank `src`, in place, if torch.distributed is initialised."""
    if (dist := _initialised()) is not None:
        dist.broadcast(tensor, src)


def all_gather(tensor_list: list[Any], tensor: Any) -> None:
    """Fill `tensor_list` with the tensors of all ranks, if torch.distributed is initialised."""
    if (dist := _initialised()) is not None:
        dist.all_gather(tensor_list, tensor)


def all_gather_object(obj: T) -> list[T]:
    """Return the objects of all ranks, in their order.

    Raises:
        RanksDisagreeError: WORLD_SIZE is above 1 and torch.distributed is not initialised.
    """
    ranks = get_world_size()
    if (dist := _initialised()) is not None:
        found: list[Any] = [None] * ranks
        dist.all_gather_object(found, obj)
        return found
    if ranks > 1:
        raise RanksDisagreeError(
            f"The world_size({ranks}) > 1, but the distributed package is not available or has not been initialized: "
            "no rank can see the others' objects; call torch.distributed.init_process_group() first"
        )
    return [obj]


def maybe_init_dist() -> bool:
    """Initialise torch.distributed if WORLD_SIZE is above 1 and it is not initialised; return whether this was done."""
    import torch
    import torch.distributed as dist

    if get_world_size() == 1 or not dist.is_available() or dist.is_initialized():
        return False
    backend = "nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend=backend, rank=get_rank(), world_size=get_world_size())
    return True


def _initialised() -> Any:
    import torch.distributed as dist

    return dist if dist.is_available() and dist.is_initialized() else None
