"""Rows in a random order that a seed fixes, in bounded memory: an external sort by keyed hashes of row numbers.

    scatter  part of the rows ─► DIR/<part>/  key.npy row.npy end.npy data.bin, sorted by key
    gather   ranks [a, b) of all rows ─► of each scattered part the span of their keys, merged

The key of a row is a bijection of its number, so no two are equal, and the order is that of the keys: a function of the
seed and of the number of rows. It does not depend on the parts. Memory is that of the rows of one part.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from mixstream.storage import move_whole, sync

_ROWS = 1 << 20  # whose keys and sizes are in memory at once

Keys = NDArray[np.uint64]


def keys_of(rows_N: NDArray[np.int64], seed: int) -> Keys:
    """Return the keys of rows, uint64 [N]: the finaliser of splitmix64, a bijection, of the shifted row number.

    >>> import numpy as np
    >>> keys = keys_of(np.arange(1000), 7)
    >>> len(set(keys.tolist())), bool((keys == keys_of(np.arange(1000), 8)).any())
    (1000, False)
    """
    shift = np.uint64(xxhash.xxh3_64_intdigest(b"mixstream reshard", seed))
    with np.errstate(over="ignore"):
        keys = rows_N.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + shift
        keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def scatter(directory: Path, rows_N: NDArray[np.int64], samples: Sequence[bytes], seed: int) -> None:
    """Write rows, sorted by their keys, into a directory that is there whole or not at all."""
    keys_N = keys_of(rows_N, seed)
    order = np.argsort(keys_N)
    aside = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    np.save(aside / "key.npy", keys_N[order])
    np.save(aside / "row.npy", rows_N[order])
    ends = np.cumsum([0, *(len(samples[at]) for at in order)], dtype=np.int64)
    np.save(aside / "end.npy", ends)
    with (aside / "data.bin").open("wb") as file:
        file.writelines(samples[at] for at in order)
    for path in (*aside.iterdir(), aside):
        sync(path)
    shutil.rmtree(directory, ignore_errors=True)
    move_whole(aside, directory)


@dataclass(frozen=True, kw_only=True)
class Scattered:
    """All rows of a dataset, as `scatter` has written them; the parts are mapped, not read.

    Args:
        directories: of the parts.
    """

    directories: Sequence[Path]

    @cached_property
    def _keys(self) -> list[Keys]:
        return [_mapped(path / "key.npy") for path in self.directories]

    @property
    def rows(self) -> int:
        """The number of rows."""
        return sum(map(len, self._keys))

    def at(self, begin: int, end: int) -> tuple[NDArray[np.int64], list[bytes]]:
        """Return the numbers int64 [end - begin] and the samples of the rows of ranks [begin, end), in order."""
        keys, rows, samples = [], [], []
        for number, (low, high) in enumerate(self._spans(begin, end)):
            if low == high:
                continue
            path = self.directories[number]
            keys.append(self._keys[number][low:high])
            rows.append(_mapped(path / "row.npy")[low:high])
            ends = np.asarray(_mapped(path / "end.npy")[low : high + 1])
            with (path / "data.bin").open("rb") as file:
                file.seek(int(ends[0]))
                data = file.read(int(ends[-1] - ends[0]))
            steps = (ends - ends[0]).tolist()
            samples += [data[start:stop] for start, stop in pairwise(steps)]
        order = np.argsort(np.concatenate(keys)) if keys else np.zeros(0, np.int64)
        numbers = np.concatenate(rows)[order] if rows else np.zeros(0, np.int64)
        return numbers, [samples[at] for at in order]

    def sizes(self) -> Iterator[NDArray[np.int64]]:
        """Yield the sizes of all samples in order, a block of ranks at a time."""
        for begin in range(0, self.rows, _ROWS):
            spans = self._spans(begin, min(begin + _ROWS, self.rows))
            keys = [each[low:high] for each, (low, high) in zip(self._keys, spans)]
            sizes = [
                np.diff(_mapped(path / "end.npy")[low : high + 1]) for path, (low, high) in zip(self.directories, spans)
            ]
            yield np.concatenate(sizes)[np.argsort(np.concatenate(keys))]

    def _spans(self, begin: int, end: int) -> list[tuple[int, int]]:
        """Return what of each part has the ranks [begin, end)."""
        first, last = self._key_at(begin), self._key_at(end)
        return [(_below(keys, first), _below(keys, last)) for keys in self._keys]

    def _key_at(self, rank: int) -> int:
        """Return the smallest number that has `rank` keys below it."""
        low, high = 0, 1 << 64
        while low < high:
            middle = (low + high) // 2
            if sum(_below(keys, middle) for keys in self._keys) < rank:
                low = middle + 1
            else:
                high = middle
        return low


def _below(keys: Keys, key: int) -> int:
    return len(keys) if key >= 1 << 64 else int(np.searchsorted(keys, np.uint64(key)))


def _mapped(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r") if path.stat().st_size > _EMPTY else np.load(path)


_EMPTY = 128  # the header of a file of arrays; an empty one cannot be mapped
