"""`streaming.base.array.Array`: integer, slice and list indexing for classes that have `size` and `get_item`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mixstream.errors import ConfigError


class Array:
    """Base of classes that are indexed as numpy arrays are. Subclasses define `size` and `get_item`.

    >>> class Squares(Array):
    ...     size = 10
    ...
    ...     def get_item(self, idx):
    ...         return idx * idx
    >>> Squares()[-1], Squares()[2:5], Squares()[[0, [3, 4]]]
    (81, [4, 9, 16], [0, [9, 16]])
    """

    @property
    def size(self) -> int:
        """Number of items."""
        raise NotImplementedError(f"{type(self).__name__} defines no `size`")

    def get_item(self, idx: int) -> Any:
        """Return item `idx`, 0 <= idx < size."""
        raise NotImplementedError(f"{type(self).__name__} defines no `get_item`")

    def __getitem__(self, at: int | slice | Sequence[int] | np.ndarray) -> Any:
        """Return an item; for a slice, list or array, a list of items, nested as the list is.

        Raises:
            ConfigError: `at` is something else.
        """
        if isinstance(at, int | np.integer):
            return self.get_item(at + self.size if -self.size <= at < 0 else at)
        if isinstance(at, slice):
            return [self.get_item(idx) for idx in range(*at.indices(self.size))]
        if isinstance(at, list | np.ndarray):
            return [self[part] for part in at]
        raise ConfigError(f"Unsupported argument type passed to __getitem__: {type(at)}.")
