"""Rows of Megatron's order: where the tokens of each lie in a whole `.bin`, computed for the rows of a batch.

The arrays are O(samples), and are mapped from a file that the processes of a machine share (`sample_file`).

Shape suffixes: B rows, D sequences over all epochs, N samples, S sequences of the file, R spans.
"""

from __future__ import annotations

import numpy as np

from mixstream.plan.megatron.sample_index import SampleIndex
from mixstream.records import dataclass
from mixstream.types import Int64


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceRows:
    """The rows of one shard, which is a whole `.bin`: row n is the sample that Megatron reads as the n-th.

    Three sequences of 3, 4 and 5 tokens lie in a file one behind the other. They are read as the third, the first, the
    second, in samples of 4 + 1 tokens, of which the second comes first:

    >>> index = SampleIndex(sequence_D=np.array([2, 0, 1], np.int32), shuffle_N=np.array([1, 0], np.uint32),
    ...                     begin_N2=np.array([[0, 0], [0, 4], [2, 0]], np.int32))
    >>> rows = SequenceRows(index=index, start_S1=np.array([0, 3, 7, 12]), extra=1)
    >>> count_B, start_R, tokens_R = rows.spans(np.array([0, 1]))
    >>> count_B.tolist(), start_R.tolist(), tokens_R.tolist()
    ([3, 1], [11, 0, 3, 7], [1, 3, 1, 5])

    Attributes:
        index: the samples.
        start_S1: int64 [S + 1], the token of the file at which each sequence begins; the last entry is the end.
        extra: 1 if a sample ends with the first token of the next one, else 0.
    """

    index: SampleIndex
    start_S1: Int64
    extra: int

    @property
    def rows(self) -> int:
        """Rows."""
        return self.index.samples

    def spans(self, row_B: Int64) -> tuple[Int64, Int64, Int64]:
        """Return the spans of some rows: how many each has, and their first tokens and numbers of tokens in the file.

        Every span is the tokens of one sequence; sequences without tokens have none. Arrays are int64: [B], [R], [R].
        """
        sample_B = self.index.shuffle_N[row_B].astype(np.int64)
        first_B2, last_B2 = (self.index.begin_N2[sample_B + i].astype(np.int64) for i in (0, 1))
        count_B = last_B2[:, 0] - first_B2[:, 0] + 1
        end_B = np.cumsum(count_B)
        place_R = np.arange(int(end_B[-1]) if len(end_B) else 0) + np.repeat(first_B2[:, 0] - end_B + count_B, count_B)
        sequence_R = self.index.sequence_D[place_R]
        start_R = self.start_S1[sequence_R]
        stop_R = self.start_S1[sequence_R + 1]
        stop_R[end_B - 1] = start_R[end_B - 1] + last_B2[:, 1] + self.extra
        start_R[end_B - count_B] += first_B2[:, 1]
        tokens_R = stop_R - start_R
        if not tokens_R.all():
            there_R = tokens_R > 0
            count_B = np.add.reduceat(there_R.astype(np.int64), end_B - count_B)
            start_R, tokens_R = start_R[there_R], tokens_R[there_R]
        return count_B, start_R, tokens_R
