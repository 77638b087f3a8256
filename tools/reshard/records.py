"""What of a resharding is done, at `OUT/.reshard/`, beside job.json (shared/output_job.py).

parts/<dataset>/0-16.json  the entries of shards 0 to 15, written after them
borders/<dataset>.json     where new shards begin, if that took reading
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from mixstream.formats import Index, ShardInfo, dump_index, parse_index

from ..shared.output_job import OutputJob, made_key

COMMAND = "reshard"
MADE = made_key(COMMAND)


@dataclass(frozen=True, kw_only=True)
class Records(OutputJob):
    """The records of one output."""

    command: str = COMMAND

    def part(self, name: str, shards: tuple[int, int], borders: Sequence[int]) -> Sequence[ShardInfo] | None:
        """Return the entries of a part that is done; None if it is not."""
        data = self.read(self._part(name, shards))
        if data is None:
            return None
        found = parse_index(data, where=self._part(name, shards))
        rows = [after - before for before, after in zip(borders[shards[0] :], borders[shards[0] + 1 : shards[1] + 1])]
        made = found.extra.get(MADE)
        sound = isinstance(made, dict) and made.get("identity") == self.identity
        return found.shards if sound and [info.samples for info in found.shards] == rows else None

    def record(self, name: str, shards: tuple[int, int], entries: Sequence[ShardInfo]) -> None:
        """Record a part whose shards are there; StateError if another job has claimed the output meanwhile."""
        self.check()
        index = Index(shards=tuple(entries), extra=self.made)
        self.write(self._part(name, shards), dump_index(index))

    def borders(self, name: str) -> list[int] | None:
        """Return the borders of the new shards that `keep_borders` has kept."""
        data = self.read(f"{self.ours}/borders/{_flat(name)}.json")
        return None if data is None else json.loads(data)

    def keep_borders(self, name: str, borders: Sequence[int]) -> None:
        """Keep the borders of the new shards of a dataset."""
        self.write(f"{self.ours}/borders/{_flat(name)}.json", json.dumps(list(borders)).encode())

    def _part(self, name: str, shards: tuple[int, int]) -> str:
        return f"{self.ours}/parts/{_flat(name)}/{shards[0]}-{shards[1]}.json"


def _flat(name: str) -> str:
    return name.replace("/", "%") or "%"
