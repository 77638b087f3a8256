"""The samples of Megatron-LM's `GPTDataset`: which tokens each of them has, and in which order they are read.

Rules. A copy of the published algorithm, which no release has changed: `_build_document_sample_shuffle_indices` of
megatron/core/datasets/gpt_dataset.py and `build_sample_idx` of helpers.cpp. Its randomness is one
`numpy.random.RandomState(seed)`, whose stream numpy has frozen. Arrays are O(samples + sequences x epochs), as there.

The sequences of all epochs, shuffled together, are one text. Sample i is its `seq_len + extra` tokens from token
i * seq_len on, so with the extra token a sample ends with the first token of the next one.

Shape suffixes: D sequences over all epochs, N samples, S sequences of the file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.plan.compiled import compiled
from mixstream.records import dataclass
from mixstream.types import Int64

_THRESHOLD = 0.80
"""The last epoch is shuffled with the others if at least this part of its samples is needed."""

Begins = NDArray[np.int32] | Int64


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """How often the sequences are read, and how many samples that makes.

    Two epochs of 10 tokens give 3 samples of 4 + 1 tokens, and 9 more tokens a fourth:

    >>> Epochs.of(tokens=10, num_samples=4, seq_len=4, extra=1)
    Epochs(count=2, samples=4, before_last=2, last_apart=False)

    Attributes:
        count: epochs.
        samples: whole samples in them; the tokens left over are not read.
        before_last: whole samples in all epochs but the last.
        last_apart: whether the last epoch is shuffled by itself.
    """

    count: int
    samples: int
    before_last: int
    last_apart: bool

    @classmethod
    def of(cls, *, tokens: int, num_samples: int | None, seq_len: int, extra: int) -> Epochs:
        """Return the epochs of a run.

        Args:
            tokens: of the sequences, once.
            num_samples: that the run needs at least; None for one epoch.
            seq_len: tokens of a sample, without the extra one.
            extra: 1 if samples have one token more, as is usual; or 0.

        Raises:
            ConfigError: there is no whole sample.
        """
        needed = 0 if num_samples is None else num_samples * seq_len + extra
        count = max(-(-needed // tokens), 1) if tokens else 0
        samples = (count * tokens - extra) // seq_len
        if samples < 1:
            raise ConfigError(
                f"{tokens:,} tokens hold no sample of seq_len={seq_len} (+{extra}): lower seq_len, give num_samples, "
                "or another split"
            )
        before = ((count - 1) * tokens - extra) // seq_len if count > 1 else 0
        apart = False
        if count > 1 and num_samples is not None:
            apart = num_samples - before < int(_THRESHOLD * ((tokens - extra) // seq_len))
        return cls(count=count, samples=samples, before_last=before, last_apart=apart)


@dataclass(frozen=True, kw_only=True)
class SampleIndex:
    """The samples of one dataset; the arrays are those of Megatron's cache files.

    Attributes:
        sequence_D: int32 [D], Megatron's document_index: the sequences of all epochs as they follow each other.
        begin_N2: int32 or int64 [N + 1, 2], its sample_index: where a sample begins, as a place in `sequence_D` and a
            token of the sequence there.
        shuffle_N: uint32 or int64 [N], its shuffle_index: the sample that is read as the n-th.
    """

    sequence_D: NDArray[np.int32]
    begin_N2: Begins
    shuffle_N: NDArray[np.uint32] | Int64

    @property
    def samples(self) -> int:
        """Samples."""
        return len(self.shuffle_N)


def build_sample_index(
    length_S: NDArray[np.int32], sequences: range, *, num_samples: int | None, seq_len: int, extra: int, seed: int
) -> SampleIndex:
    """Return the samples of a run.

    Three sequences of 3, 4 and 5 tokens, cut into samples of 4 (+1):

    >>> index = build_sample_index(np.array([3, 4, 5], dtype=np.int32), range(3), num_samples=None, seq_len=4, extra=1,
    ...                            seed=1234)
    >>> index.sequence_D.tolist(), index.begin_N2.tolist(), index.shuffle_N.tolist()
    ([0, 1, 2], [[0, 0], [1, 1], [2, 1]], [1, 0])

    Args:
        length_S: int32 [S], tokens of each sequence of the file.
        sequences: those that count.
        num_samples: that the run needs at least; None for one epoch.
        seq_len: tokens of a sample, without the extra one.
        extra: 1 or 0 further tokens.
        seed: of the only random generator, at most 2**32 - 1.

    Raises:
        ConfigError: there is no whole sample, or there are more sequences than Megatron can number.
    """
    if sequences.stop > np.iinfo(np.int32).max:
        raise ConfigError(
            f"{sequences.stop:,} sequences: Megatron numbers them in 32 bits; write them to several files"
        )
    tokens = int(length_S[sequences.start : sequences.stop].sum(dtype=np.int64))
    epochs = Epochs.of(tokens=tokens, num_samples=num_samples, seq_len=seq_len, extra=extra)
    random = np.random.RandomState(seed)
    together = epochs.count - epochs.last_apart
    sequence_D = np.tile(np.arange(sequences.start, sequences.stop, dtype=np.int32), epochs.count)
    first = together * len(sequences)
    random.shuffle(sequence_D[:first])
    if epochs.last_apart:
        random.shuffle(sequence_D[first:])
    most = max(len(sequence_D), int(length_S.max()))
    begin_N2: Any = np.empty((epochs.samples + 1, 2), np.int32 if most <= np.iinfo(np.int32).max else np.int64)
    sample_begins(length_S, sequence_D, seq_len, extra, begin_N2)
    wide = epochs.samples >= np.iinfo(np.uint32).max - 1
    shuffle_N: Any = np.arange(epochs.samples, dtype=np.int64 if wide else np.uint32)
    cut = epochs.before_last if epochs.last_apart else epochs.samples
    random.shuffle(shuffle_N[:cut])
    random.shuffle(shuffle_N[cut:])  # draws nothing if it is empty
    return SampleIndex(sequence_D=sequence_D, begin_N2=begin_N2, shuffle_N=shuffle_N)


# --- where samples begin --------------------------------------------------------------------------------------------


def sample_begins_reference(
    length_S: NDArray[np.int32], sequence_D: NDArray[np.int32], seq_len: int, extra: int, begin_N2: Begins
) -> None:
    """Fill `begin_N2` with the place in `sequence_D`, and the token there, at which each sample begins.

    A sample of which the one before took the last token begins behind it: with extra = 0, the token may therefore be
    the length of its sequence.
    """
    end_D = np.cumsum(length_S[sequence_D], dtype=np.int64)
    token_N = np.arange(len(begin_N2), dtype=np.int64) * seq_len
    place_N = np.searchsorted(end_D, token_N + extra, side="left")
    place_N[0] = 0
    begin_N2[:, 0] = place_N
    begin_N2[:, 1] = token_N - (end_D - length_S[sequence_D])[place_N]
    begin_N2[0, 1] = 0


@compiled(sample_begins_reference)
def sample_begins(length_S, sequence_D, seq_len, extra, begin_N2):  # type: ignore[no-untyped-def]
    """Compiled `sample_begins_reference`: one pass over the sequences."""
    place, token = 0, 0
    begin_N2[0, 0] = begin_N2[0, 1] = 0
    for n in range(1, len(begin_N2)):
        missing = seq_len + extra
        while True:
            left = length_S[sequence_D[place]] - token
            if left >= missing:
                token += missing - extra
                break
            missing -= left
            place += 1
            token = 0
        begin_N2[n, 0] = place
        begin_N2[n, 1] = token
