"""Ranks, and what they exchange: with `integrations` and `compat`, the only user of torch.distributed, at call time.

group       this process's rank and world size
mesh        the ranks of a DeviceMesh or ProcessGroup
exchange    sums and comparisons over all ranks, collective
notes       short notes for all ranks; no rank waits for another
"""

from typing import TYPE_CHECKING

from mixstream.lazy import lazily

if TYPE_CHECKING:
    from mixstream.distributed.exchange import Channel, Exchange, differences
    from mixstream.distributed.group import detect_world, job
    from mixstream.distributed.mesh import groups_of, part_of
    from mixstream.distributed.notes import RankNotes

__getattr__, __dir__ = lazily(
    __name__,
    {
        "exchange": ["Channel", "Exchange", "differences"],
        "group": ["detect_world", "job"],
        "mesh": ["groups_of", "part_of"],
        "notes": ["RankNotes"],
    },
)


__all__ = ["Channel", "Exchange", "RankNotes", "detect_world", "differences", "groups_of", "job", "part_of"]
