"""This process among those of the job: torch.distributed's default process group, else the environment."""

import os

from mixstream.errors import ConfigError
from mixstream.world import World


def detect_world(rank: int | None = None, world_size: int | None = None, nodes: int | None = None) -> World:
    """Return the world of the arguments, else of torch.distributed if initialised, else of RANK and WORLD_SIZE.

    Raises:
        ConfigError: rank, world_size and nodes do not belong together.
    """
    if (rank is None) != (world_size is None):
        raise ConfigError(f"give both rank and world_size or neither; got rank={rank}, world_size={world_size}")
    if nodes is not None and world_size is None:
        raise ConfigError(f"nodes={nodes} goes with rank and world_size: give these too, or leave out nodes")
    if rank is not None and world_size is not None:
        return World(rank=rank, size=world_size, nodes=1 if nodes is None else nodes)
    rank, world_size = default_group() or (int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    per_node = int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size)))  # if unset: one machine
    return World(rank=rank, size=world_size, nodes=max(world_size // max(per_node, 1), 1))


def job(world: World) -> tuple[int, int]:
    """Return this process's rank and the number of processes in the job, of which some may be replicas."""
    return default_group() or (world.rank, world.size)


def default_group() -> tuple[int, int] | None:
    """Return (rank, size) of the default process group; None if there is none."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return None
    return dist.get_rank(), dist.get_world_size()
