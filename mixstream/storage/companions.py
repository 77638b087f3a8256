"""Whole files of a dataset that are no shards, such as the index of a token file, mapped for reading."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mixstream.storage.original import Original
from mixstream.storage.spec import ObjectPart, ShardSpec, companion_name


class Companions:
    """The companions that this process has mapped, by name. For any thread; each is mapped until the process ends."""

    def __init__(self) -> None:
        self._mapped: dict[str, NDArray[np.uint8]] = {}

    def get(self, name: str, size: int, map_it: Callable[[ShardSpec], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Return a companion, mapped by `map_it` at the first call.

        A companion is, for storage, a range of a file, namely all of it.
        """
        if (data := self._mapped.get(name)) is not None:
            return data
        part = ObjectPart(name=name, size=size, begin=0)
        spec = ShardSpec(name=companion_name(name), size=size, check=None, compressed=None, part=part)
        return self._mapped.setdefault(name, map_it(spec))

    def names(self, version: Original | None) -> set[str]:
        """Return the names by which a cache keeps companions: those mapped here, and any of `version`'s files.

        Another process may have mapped those, and they count below its limit and ours.
        """
        return {companion_name(name) for name in (*self._mapped, *(version.files if version is not None else ()))}

    @property
    def bytes(self) -> int:
        """Bytes of all of them."""
        return sum(data.nbytes for data in list(self._mapped.values()))
