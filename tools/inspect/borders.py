"""Where documents begin and end in a row of tokens: from the sidecar of convert, else from the token that ends them.

With end token 9, the row `5 6 9 7 9 8` has the segments `5 6 9`, `7 9` and `8`. Only the sidecar knows whether the
first one begins in this row, and which document each of them is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """The tokens of one document in a row.

    Attributes:
        begin: of its tokens in the row.
        end: one more than the last.
        begins: whether the document begins here; None if that is not known.
        ends: whether it ends here.
        names: what is known of the document, by name.
    """

    begin: int
    end: int
    begins: bool | None
    ends: bool
    names: tuple[tuple[str, str], ...] = ()


def by_end_token(ids: NDArray[np.integer], eos: int, bos: int | None = None) -> tuple[Segment, ...]:
    """Return the segments of a row, int [tokens], by the tokens that end and begin documents.

    >>> [(each.begin, each.end, each.ends) for each in by_end_token(np.array([5, 6, 9, 7, 9, 8]), 9)]
    [(0, 3, True), (3, 5, True), (5, 6, False)]
    """
    ends = (np.flatnonzero(ids == eos) + 1).tolist()
    edges = [0, *ends, *([len(ids)] if not ends or ends[-1] < len(ids) else [])]
    segments = []
    for number, (begin, end) in enumerate(pairwise(edges) if len(ids) else ()):
        begins = True if number else (None if bos is None else bool(ids[begin] == bos))
        segments.append(Segment(begin=begin, end=end, begins=begins, ends=bool(ids[end - 1] == eos)))
    return tuple(segments)


def names_of(**values: object) -> tuple[tuple[str, str], ...]:
    """Return names and values of a segment, without those that are None.

    >>> names_of(id="a", record=None)
    (('id', 'a'),)
    """
    return tuple((name, str(value)) for name, value in values.items() if value is not None)


def is_row(value: object) -> bool:
    """Whether a value of a sample is a row of tokens."""
    return isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "iu"


def covers(segments: Sequence[Segment], tokens: int) -> bool:
    """Whether segments follow each other and hold all tokens of a row; those of a damaged sidecar may not."""
    at = 0
    for each in segments:
        if each.begin != at or each.end <= at:
            return False
        at = each.end
    return at == tokens
