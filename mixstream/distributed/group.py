"""This process among those of the job: torch.distributed's default process group, else the environment.

A forked child inherits the group of its parent, and the connections with it. It may ask for its rank, and must not
communicate: the other ranks, and the store, would take its words for those of its parent.
"""

import os
import sys
from typing import Any

from mixstream.arguments import shown
from mixstream.errors import ConfigError, ForkedError
from mixstream.world import World

NO_STORE = (RuntimeError, TypeError)
"""What is raised if the store of notes has gone, with the process that had it, or if a backend has none (MPI)."""


def detect_world(rank: int | None = None, world_size: int | None = None, nodes: int | None = None) -> World:
    """Return the world of the arguments, else of torch.distributed if initialised, else of RANK and WORLD_SIZE.

    Raises:
        ConfigError: rank, world_size and nodes do not belong together.
    """
    if (rank is None) != (world_size is None):
        raise ConfigError(
            f"give both rank and world_size or neither; got rank={shown(rank)}, world_size={shown(world_size)}"
        )
    if nodes is not None and world_size is None:
        raise ConfigError(f"nodes={shown(nodes)} goes with rank and world_size: give these too, or leave out nodes")
    if rank is not None and world_size is not None:
        return World(rank=rank, size=world_size, nodes=1 if nodes is None else nodes)
    rank, world_size = default_group() or (int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    per_node = int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size)))  # if unset: one machine
    return World(rank=rank, size=world_size, nodes=max(world_size // max(per_node, 1), 1))


def job(world: World) -> tuple[int, int]:
    """Return this process's rank and the number of processes in the job, of which some may be replicas."""
    return default_group() or (world.rank, world.size)


class _Inherited:
    """The default process group that this process has from the one that it was forked from; None if none."""

    group: Any = None


def _after_fork() -> None:
    if (dist := sys.modules.get("torch.distributed")) is not None and dist.is_available() and dist.is_initialized():
        _Inherited.group = dist.group.WORLD


os.register_at_fork(after_in_child=_after_fork)


def is_inherited() -> bool:
    """Return whether the default process group is that of the process that this one was forked from."""
    if _Inherited.group is None:
        return False
    import torch.distributed as dist

    return dist.is_initialized() and dist.group.WORLD is _Inherited.group


def check_not_inherited() -> None:
    """Check that this process may communicate by the default process group.

    Raises:
        ForkedError: the group is that of the process that it was forked from.
    """
    if is_inherited():
        raise ForkedError(
            f"this process, {os.getpid()}, was forked from a rank of torch.distributed and has that rank's "
            "connections: what both send would be mixed up. Give the dataset rank=0, world_size=1 if this process "
            "reads alone, or start it before init_process_group"
        )


def default_group() -> tuple[int, int] | None:
    """Return (rank, size) of the default process group; None if there is none."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return None
    return dist.get_rank(), dist.get_world_size()
