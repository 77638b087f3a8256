"""Ranks, and what they exchange: with `integrations` and `compat`, the only user of torch.distributed, at call time.

group       this process's rank and world size
mesh        the ranks of a DeviceMesh or ProcessGroup
exchange    sums and comparisons over all ranks, collective
notes       short notes for all ranks; no rank waits for another
"""

from mixstream.distributed.exchange import Channel, Exchange, differences
from mixstream.distributed.group import detect_world, job
from mixstream.distributed.mesh import groups_of, part_of
from mixstream.distributed.notes import RankNotes

__all__ = ["Channel", "Exchange", "RankNotes", "detect_world", "differences", "groups_of", "job", "part_of"]
