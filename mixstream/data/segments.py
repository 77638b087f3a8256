"""Where documents lie in the rows of one batch, as it is known on the host.

`cu_seqlens` and `max_seqlen` are of a whole batch, not of its rows. Rules: code that takes rows out of a batch rebuilds
them from here, without a wait for the device.

Shape suffixes: B rows, S tokens of a row, D segments.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.records import dataclass

IGNORED = -100
"""The label of a token that is not predicted, as torch's cross_entropy and all trainers have it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segments:
    """The segments of a batch: documents, parts of documents, and padding, row after row.

    Two rows of five tokens; the first has documents of 2 and 3 tokens, the second is one document:

    >>> both = Segments(ends_D1=np.array([0, 2, 5, 10], dtype=np.int32), rows=2)
    >>> both.longest, both.part(0, 1).ends_D1.tolist(), both.part(1, 2).ends_D1.tolist()
    (5, [0, 2, 5], [0, 5])
    >>> both.without_last().ends_D1.tolist()  # each row without its last token
    [0, 2, 4, 8]

    Attributes:
        ends_D1: int32 [D + 1], `cu_seqlens`: where each segment begins in the joined rows, and where the last one ends.
        rows: B.
        shifted: whether the labels of the batch are of the next tokens.
        labels: the column that says which losses count: labels, -100 where there is nothing to predict; or another one,
            a mask that is 0 there.
    """

    ends_D1: NDArray[np.int32]
    rows: int
    shifted: bool = False
    labels: str = "labels"

    @property
    def tokens(self) -> int:
        """Tokens of a row, S."""
        return int(self.ends_D1[-1]) // self.rows

    @property
    def longest(self) -> int:
        """Tokens of the longest segment, `max_seqlen`."""
        return int(np.diff(self.ends_D1).max(initial=0))

    def span(self, first: int, end: int) -> slice:
        """Return which entries of `ends_D1` are of the rows `first` to `end - 1`, the end of the last one among them.

        Raises:
            ConfigError: a segment reaches from one row into the next.
        """
        at = np.array([first, end], dtype=np.int64) * self.tokens
        low, high = np.searchsorted(self.ends_D1, at).tolist()
        if self.ends_D1[[low, high]].tolist() != at.tolist():
            raise ConfigError(
                f"cu_seqlens has a segment that goes on from row {first - 1 if first else end - 1} to the next, so the "
                "rows cannot be taken apart: split the batch before segments of several rows are joined"
            )
        return slice(low, high + 1)

    def part(self, first: int, end: int) -> Segments:
        """Return the segments of the rows `first` to `end - 1`, from token 0 on."""
        ends_D1 = self.ends_D1[self.span(first, end)]
        return replace(self, ends_D1=ends_D1 - ends_D1[0], rows=end - first)

    def without_last(self) -> Segments:
        """Return the segments of the rows without their last tokens; those of one token there are gone."""
        return replace(self, ends_D1=np.unique(self.ends_D1 - self.ends_D1 // self.tokens).astype(np.int32))
