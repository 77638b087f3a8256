"""The documents in a few rows, by the sidecar of convert: where each begins and ends, and what is known of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mixstream.documents import Documents
from mixstream.errors import ConfigError, MixstreamError
from mixstream.storage import Retry

from ..shared.datasets import Dataset
from ..shared.safe_text import shortened
from .borders import Segment, covers, names_of

_NAMES = ("id", "file", "record", "length")
_HIDDEN = {*_NAMES, "document", "row", "token", "tokens", "begin", "bytes", "hash"}
_MOST = 120  # characters of a value
_MOST_ROWS = 16


def segments_of_rows(dataset: Dataset, rows: Mapping[int, int], retry: Retry) -> dict[int, tuple[Segment, ...]]:
    """Return the segments of rows, without rows of which the sidecar does not know all tokens.

    Args:
        dataset: the dataset.
        rows: number of a row in the dataset to the number of its tokens.
        retry: attempts and timeout of each request.

    Raises:
        MixstreamError: the sidecar cannot be read.
    """
    documents = Documents.of(dataset.store, dataset.about, retry=retry)
    if documents is None:
        return {}
    found: dict[int, tuple[Segment, ...]] = {}
    for row, tokens in list(rows.items())[:_MOST_ROWS]:
        if row >= documents.rows:
            continue
        seq_len = documents.seq_len or tokens
        segments = tuple(segment for segment in _segments(documents.lines(row, row + 1), row, seq_len))
        if covers(segments, tokens):
            found[row] = segments
    return found


def caught_segments(
    dataset: Dataset, rows: Mapping[int, int], retry: Retry, notes: list[str]
) -> dict[int, tuple[Segment, ...]]:
    """Return the segments of rows; if the sidecar cannot be read, none, and a note."""
    try:
        return segments_of_rows(dataset, rows, retry)
    except ConfigError as error:
        notes.append(str(error))
    except (MixstreamError, OSError, ValueError) as error:
        notes.append(f"the documents of {dataset.shown} cannot be read: {error}")
    return {}


def _segments(table: Any, row: int, seq_len: int) -> Iterator[Segment]:
    """The segments of a row, in it; lines are cut at the borders of the row."""
    for line in table.to_pylist():
        place = (line["row"] - row) * seq_len + line["token"]
        begin, end = max(place, 0), min(place + line["tokens"], seq_len)
        before = line["begin"] + begin - place
        if end <= begin:
            continue
        kept = {name: value for name, value in line.items() if name not in _HIDDEN}
        named = names_of(document=line["document"], **{name: line[name] for name in _NAMES}, **kept)
        yield Segment(
            begin=begin,
            end=end,
            begins=before == 0,
            ends=before + end - begin >= line["length"],
            names=tuple((name, shortened(value, _MOST)) for name, value in named),
        )
