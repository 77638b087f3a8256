"""Rows that were gathered together and are handed out one by one, as torch's DataLoader takes them from a dataset.

A DataLoader asks an iterable dataset for one sample at a time and gives the list to its `collate_fn`. Where it is known
that torch's own collate function, or one of ours, gets the rows next, and nobody else sees them, a row is a `BlockRow`:
the block of gathered columns and a number. Collating a whole block returns its tensors as they are. Everywhere else a
row is a dict with values of its own, as if it had been decoded alone.

Shape suffixes: B rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import default_collate, get_worker_info
from torch.utils.data._utils.collate import default_collate_fn_map

from mixstream.records import dataclass
from mixstream.types import Addresses

_STOCK = default_collate.__module__


@dataclass(frozen=True, slots=True, eq=False)
class RowBlock:
    """Rows that were gathered together.

    Attributes:
        columns: column -> tensor [B, ...].
        at: their addresses.
    """

    columns: dict[str, torch.Tensor]
    at: Addresses

    def rows(self) -> list[BlockRow]:
        """Return the rows, in order."""
        return list(map(BlockRow, zip(repeat(self), range(len(self.at)))))


class BlockRow(tuple[RowBlock, int]):
    """One row of a block: (block, number). Made without any Python code, since there is one for each row."""

    __slots__ = ()


def collate_rows(rows: Sequence[Any], *, collate_fn_map: Any = None) -> dict[str, torch.Tensor]:
    """Return the batch of consecutive rows of one block, or of several: column -> tensor [B, ...].

    >>> at = Addresses(domain_B=np.zeros(3, int), shard_B=np.zeros(3, int), row_B=np.arange(3))
    >>> block = RowBlock({"x": torch.tensor([5, 6, 7])}, at)
    >>> collate_rows(block.rows())["x"] is block.columns["x"], collate_rows(block.rows()[1:])["x"].tolist()
    (True, [6, 7])

    Args:
        rows: `BlockRow`s.
        collate_fn_map: of torch's `collate`; not used.
    """
    parts = _parts(rows)
    if len(parts) == 1 and len(rows) == len(parts[0][0].at):
        return parts[0][0].columns
    found = {}
    for name in parts[0][0].columns:
        pieces = [block.columns[name][here] for block, here in parts]
        found[name] = torch.cat(pieces, out=_shared_like(pieces) if get_worker_info() is not None else None)
    return found


def addresses_of(rows: Sequence[BlockRow]) -> Addresses:
    """Return the addresses of consecutive rows of one block, or of several."""
    pieces = [block.at[here] for block, here in _parts(rows)]
    return Addresses.joined(pieces)


def _parts(rows: Sequence[BlockRow]) -> list[tuple[RowBlock, slice]]:
    """Return the blocks of `rows`, and which of the rows of each.

    Raises:
        RuntimeError: rows of a block are not consecutive, or there is something else among them.
    """
    found, begin = [], 0
    while begin < len(rows):
        block, first = rows[begin]
        end = min(len(rows), begin + len(block.at) - first)
        behind = first + end - begin
        if type(rows[end - 1]) is not BlockRow or rows[end - 1] != (block, behind - 1):
            raise RuntimeError("rows that were gathered together were reordered before they were collated")
        found.append((block, slice(first, behind)))
        begin = end
    return found


def _shared_like(pieces: Sequence[torch.Tensor]) -> torch.Tensor:
    rows, first = sum(len(piece) for piece in pieces), pieces[0]
    return SharedMemory().tensor(first.dtype, (rows, *first.shape[1:]))


class SharedMemory:
    """Allocates tensors in memory that torch hands to another process without a copy, as its own collate does."""

    def __init__(self) -> None:
        self._tensors: dict[int, torch.Tensor] = {}

    def tensor(self, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
        """Return a tensor, uninitialised."""
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        storage = torch.UntypedStorage._new_shared(size)
        return torch.empty(0, dtype=torch.uint8).set_(storage).view(dtype).view(shape)  # type: ignore[call-overload]

    def empty(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Return the array of such a tensor."""
        tensor = self.tensor(torch.from_numpy(np.empty(0, dtype)).dtype, shape)
        array = tensor.numpy()
        self._tensors[array.ctypes.data] = tensor
        return array

    def of(self, array: NDArray[Any]) -> torch.Tensor:
        """Return the tensor of an array that `empty` has returned."""
        return self._tensors.pop(array.ctypes.data)

    def batch(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
        """Return the tensors of arrays that `empty` has returned."""
        return {name: self.of(array) for name, array in arrays.items()}

    def release(self) -> None:
        """Forget what was allocated."""
        self._tensors.clear()


class LocalMemory:
    """Allocates arrays of this process. See `SharedMemory`.

    Args:
        pool: reuses memory.
    """

    def __init__(self, pool: Any) -> None:
        self.empty = pool.empty

    def batch(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
        """Return the arrays as tensors."""
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def release(self) -> None:
        """Do nothing: memory is free when nothing refers to it."""


def is_stock_collate(function: Any) -> bool:
    """Return whether `function` is torch's `default_collate`, and collates every type as torch does.

    Users may register functions of their own for arrays or tensors; then these get to see each value.
    """
    return function is default_collate and all(
        each is collate_rows or each.__module__ == _STOCK for each in default_collate_fn_map.values()
    )


def register() -> None:
    """Let torch's `default_collate` of this process collate `BlockRow`s."""
    default_collate_fn_map.setdefault(BlockRow, collate_rows)


def plain_rows(columns: dict[str, NDArray[Any]], plain: set[str]) -> Iterator[dict[str, Any]]:
    """Yield gathered rows as dicts with values of their own.

    >>> next(plain_rows({"x": np.array([[1, 2], [3, 4]]), "id": np.array([7, 8])}, {"id"}))
    {'x': array([1, 2]), 'id': 7}

    Args:
        columns: column -> [B, ...].
        plain: the columns whose numbers are Python's.
    """
    values: list[Any] = [
        column.tolist() if name in plain else _copies(column) if column.ndim > 1 else list(column)
        for name, column in columns.items()
    ]
    for row in zip(*values):
        yield dict(zip(columns, row))


def _copies(column: NDArray[Any]) -> Iterator[NDArray[Any]]:
    return map(_copy, column)


_copy: Callable[[NDArray[Any]], NDArray[Any]] = np.ndarray.copy
