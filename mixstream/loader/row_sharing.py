"""Which ranks read the same rows: what a user gives as `replication` and `loss_parts`, in numbers.

A mesh or process group is looked at once, when the dataset is made, and not kept: datasets are sent to worker
processes, which have none.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from mixstream.arguments import whole
from mixstream.errors import ConfigError
from mixstream.lazy import later
from mixstream.records import dataclass
from mixstream.world import World

if TYPE_CHECKING:
    from mixstream.distributed.mesh import groups_of, part_of
else:
    groups_of, part_of = later("mixstream.distributed.mesh", "groups_of", "part_of")


@dataclass(frozen=True, kw_only=True)
class RowSharing:
    """The ranks that read the same rows.

    Args:
        groups: how many consecutive ranks do, or the number of each rank's group; None if no two ranks do.
        parts: how many consecutive ranks have the parts of their rows' losses, or (part, parts) of this rank.
    """

    groups: int | tuple[int, ...] | None = None
    parts: int | tuple[int, int] = 1

    @classmethod
    def of(cls, replication: Any, loss_parts: Any, *, given_world: tuple[int | None, ...]) -> Self:
        """Return it in numbers.

        Raises:
            ConfigError: they are not the ranks of one job, or do not belong together.
        """
        groups = None if replication is None else groups_of(replication)
        groups = groups if groups is None or (isinstance(groups, tuple) and groups) else _count("replication", groups)
        parts = 1 if loss_parts is None else part_of(loss_parts, groups)
        parts = parts if isinstance(parts, tuple) else _count("loss_parts", parts)
        if groups is None and parts != 1 and given_world[1] is None:
            raise ConfigError(
                "loss_parts are the ranks that have the losses of parts of the same rows, and without replication "
                'every rank reads rows of its own: give replication too, for example mesh["cp", "tp"]'
            )
        return cls(groups=groups, parts=parts)

    @property
    def replicas(self) -> int | None:
        """How many ranks read the same rows; None if that was not given."""
        return len(self.groups) // (max(self.groups) + 1) if isinstance(self.groups, tuple) else self.groups

    def of_run(self, world: World) -> World:
        """Return the ranks of the run, among which `world`, the ranks of the job, are counted once for each row."""
        if self.groups is not None:
            return world.replicated(self.groups, self.parts)
        part, parts = self.parts if isinstance(self.parts, tuple) else (world.rank % self.parts, self.parts)
        return replace(world, part=part, parts=parts) if parts > 1 else world


def _count(name: str, given: Any) -> int:
    advice = "or a DeviceMesh or ProcessGroup that this rank is in, once init_process_group was called"
    return whole(name, given, least=1, of="ranks", advice=advice)
