"""Which ranks a torch DeviceMesh or ProcessGroup consists of, in numbers. Nothing is communicated.

Shape suffixes: R ranks of the job.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mixstream.distributed.group import default_group
from mixstream.errors import ConfigError
from mixstream.world import groups_like

_DATA = {"dp", "ddp", "fsdp", "efsdp", "hsdp", "ep", "data", "batch", "loss", "replicate", "shard"}
"""Words in the names of dimensions whose ranks read different rows."""
_MODEL = {"tp", "cp", "pp", "sp", "tensor", "context", "pipeline", "pipe", "sequence", "model"}
"""Words in the names of dimensions whose ranks read the same rows."""


class _Group(NamedTuple):
    """The ranks that a DeviceMesh or ProcessGroup gives to this rank.

    Attributes:
        members: these ranks.
        order_R: all ranks of the job, in the order of the mesh that it is a slice of.
        names: of its dimensions.
        sizes: of the dimensions of that mesh, by name.
    """

    members: list[int]
    order_R: list[int]
    names: list[str]
    sizes: dict[str, int]


def groups_of(replication: Any) -> int | tuple[int, ...]:
    """Return `replication` in numbers: as it is, or the number of each rank's group in a DeviceMesh or ProcessGroup.

    Nothing is communicated: a rank sees its own group, and all groups are alike (`world.groups_like`).

    Raises:
        ConfigError: its ranks are not all ranks of torch.distributed or this one is not in it, other ranks cannot be in
            groups of this kind, or by its names it is not the mesh of ranks that read the same rows.
    """
    if (found := _group_in(replication, "replication")) is None:
        return replication
    left_out = {name: n for name, n in found.sizes.items() if n > 1 and name not in found.names}
    left_out = {name: n for name, n in left_out.items() if _words(name) & _MODEL}
    if left_out:
        whole = [name for name in found.sizes if name in found.names or name in left_out]
        raise ConfigError(
            f"replication leaves out {_quoted([*left_out])} of the mesh ({', '.join(map(str, left_out.values()))} "
            "ranks), and the ranks of one model would read different rows: give all dimensions that share rows, mesh["
            f"{_quoted(whole)}]; or, if these do not, a ProcessGroup of the ranks that do"
        )
    if (group_R := groups_like(found.members, found.order_R)) is None:
        raise ConfigError(
            f"replication is the ranks {found.members}, and the others of {len(found.order_R)} ranks cannot be in "
            "groups like it: give a slice of a DeviceMesh of all ranks, or rank= and world_size= of the data-parallel "
            "group"
        )
    return tuple(group_R.tolist())


def part_of(loss_parts: Any, group_R: int | Sequence[int] | None) -> int | tuple[int, int]:
    """Return `loss_parts` in numbers: as it is, or (this rank's part, parts) of a DeviceMesh or ProcessGroup.

    Args:
        loss_parts: as given.
        group_R: the number of each rank's group, of ranks that read the same rows, or how many consecutive ranks do;
            None if no two do.

    Raises:
        ConfigError: this rank is not in it, or its ranks do not all read the same rows.
    """
    if (found := _group_in(loss_parts, "loss_parts")) is None:
        return loss_parts
    members, group = sorted(found.members), default_group()
    assert group is not None
    if isinstance(group_R, int):
        group_R = [rank // group_R for rank in range(group[1])]
    if group_R is not None and len({group_R[rank] for rank in members}) > 1:
        raise ConfigError(
            f"loss_parts is the ranks {members}, and they do not all read the same rows, as replication says: give for "
            'example replication=mesh["cp", "tp"], loss_parts=mesh["cp"]'
        )
    return members.index(group[0]), len(members)


def _group_in(given: Any, argument: str) -> _Group | None:
    """Return what a DeviceMesh or ProcessGroup, given as `argument`, says; None for anything else."""
    import torch.distributed as dist

    if not dist.is_available() or (group := default_group()) is None:
        return None
    from torch.distributed.device_mesh import DeviceMesh

    rank, every = group[0], list(range(group[1]))
    if given is dist.GroupMember.NON_GROUP_MEMBER:
        raise ConfigError(
            f"rank {rank} is not in the group given as {argument}: give each rank the group that it is in"
        )
    if isinstance(given, dist.ProcessGroup):
        found = _Group(dist.get_process_group_ranks(given), every, [], {})
        _check_names([getattr(given, "group_desc", "")], argument)  # of a mesh's, or of Megatron's
    elif isinstance(given, DeviceMesh):
        found = _in_mesh(given)
        if sorted(found.order_R) != every:
            raise ConfigError(
                f"the mesh of {argument} has the ranks {sorted(found.order_R)}, and the job has 0 to {every[-1]}: give "
                "a slice of a mesh of all ranks, or the ProcessGroup of this rank's group"
            )
        if not found.names and len(found.members) > 1:
            raise ConfigError(
                f"the mesh of {argument} has no names, so nothing says whether its {len(found.members)} ranks read the "
                "same rows: give it mesh_dim_names; or give mesh.getdefault_group(), if they do"
            )
        _check_names(found.names, argument)
    else:
        return None
    if rank not in found.members:
        raise ConfigError(
            f"rank {rank} is not in the {type(given).__name__} given as {argument}, which has the ranks {found.members}"
            ": give each rank the one that it is in"
        )
    return found


def _in_mesh(mesh: Any) -> _Group:
    """Return what a mesh says; a dimension that was flattened has its own name and those of which it is made."""
    root, members = _root(mesh), mesh.mesh.flatten().tolist()
    sizes: dict[str, int] = dict(zip(root.mesh_dim_names or (), root.mesh.shape))
    places = np.isin(root.mesh.numpy(), members).nonzero()
    within = [name for name, along in zip(sizes, places) if len(set(along.tolist())) > 1]
    names = [*dict.fromkeys([*(mesh.mesh_dim_names or ()), *within])]
    return _Group(members, root.mesh.flatten().tolist(), names, sizes)


def _root(mesh: Any) -> Any:
    """Return the mesh that `mesh` is a slice of."""
    if hasattr(mesh, "_get_root_mesh"):
        return mesh._get_root_mesh()
    from torch.distributed.device_mesh import _mesh_resources  # of earlier versions of torch

    return _mesh_resources.get_root_mesh(mesh)


def _check_names(names: Sequence[str], argument: str) -> None:
    """Check that dimensions of a mesh, or a group, are not those of data parallelism."""
    if wrong := [name for name in names if _words(name) & _DATA]:
        raise ConfigError(
            f"{argument} is given {_quoted(wrong)}, whose ranks read different rows, and is the ranks that read the "
            'same ones: give the other dimensions of the mesh, such as mesh["cp", "tp"]'
        )


def _words(name: str) -> set[str]:
    return set(name.lower().replace("-", "_").split("_"))


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
