"""Originals on local disk that are mapped where they are: whether they were written to since.

Rules: a file that was put in the place of a mapped one changes no mapping. A file that is written to changes it at
once, and is an error unless a hash shows that its bytes are right.
"""

import os
from collections.abc import Callable
from pathlib import Path

from mixstream.storage.mapping import map_file
from mixstream.storage.original import Original
from mixstream.storage.spec import ShardSpec
from mixstream.storage.stores.local import info_of


class InPlace:
    """The originals that were mapped, by the names of their shards. Used by any thread."""

    def __init__(self) -> None:
        self._mapped: dict[str, tuple[str, os.stat_result]] = {}
        self._companions: list[tuple[str, ShardSpec]] = []  # files that no shard is read from, looked at in turn
        self._turn = 0

    def __bool__(self) -> bool:
        return bool(self._mapped)

    def add(self, spec: ShardSpec, path: str, found: os.stat_result, *, is_companion: bool = False) -> None:
        """Note that an original was mapped.

        Args:
            spec: of the shard.
            path: of the original.
            found: its status then.
            is_companion: whether it is a companion of shards: it is looked at whenever one of them is.
        """
        if is_companion and spec.name not in self._mapped:
            self._companions.append((spec.name, spec))
        self._mapped[spec.name] = path, found

    def of_companions(self) -> "InPlace":
        """Return the companions that were mapped, without the shards."""
        made = InPlace()
        for name, companion in self._companions:
            made.add(companion, *self._mapped[name], is_companion=True)
        return made

    def check(self, name: str, spec: Callable[[], ShardSpec], version: Original | None) -> None:
        """Check that the original of a shard was not written to since it was mapped, and one of the companions.

        Raises:
            StoreChangedError: it was, and no hash shows that it is right.
        """
        self._check(name, spec, version)
        if self._companions:
            self._turn = (self._turn + 1) % len(self._companions)
            name, companion = self._companions[self._turn]
            self._check(name, lambda: companion, version)

    def _check(self, name: str, spec: Callable[[], ShardSpec], version: Original | None) -> None:
        if version is None or (known := self._mapped.get(name)) is None:
            return
        path, before = known
        try:
            found = os.stat(path)  # noqa: PTH116 - called for every shard of a batch
        except OSError:
            return
        same_file = (found.st_dev, found.st_ino) == (before.st_dev, before.st_ino)
        if not same_file or (found.st_size, found.st_mtime_ns) == (before.st_size, before.st_mtime_ns):
            return
        proof, original = spec().proof, spec().original
        if original not in version.repaired and (proof is None or not proof(map_file(Path(path)).data)):
            raise version.rewritten(original, info_of(found))
        self._mapped[name] = path, found
