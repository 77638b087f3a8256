"""Which shards a store of columns has: parts of its files, of a usual size.

Rules. A shard has rows, or documents, of one file. Rows go on over the borders of row groups and batches: only what a
FILE has behind its last whole row is in no shard. A shard begins where the first row begins in a row group, so that few
of them are read for two shards; one that is too large for that is cut between rows. Where rows are bytes of the file as
they are, shards are ranges of it, else they are computed (`make`).
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate

from mixstream.formats.columns.index import ColumnFile, ColumnIndex, Group
from mixstream.records import dataclass

_LARGEST = (
    4  # shards that are computed from parts of one row group are larger, since each has to read what is before it
)
_LEAST = 1 << 20  # bytes of a batch, on average, from which on batches are worth a shard each


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnShard:
    """A part of a file.

    Attributes:
        file: number of the file.
        part: its number among the file's shards.
        first: of the file's rows, or lists, the first that it has.
        samples: how many it has.
        token: of the file, the first that it has.
        tokens: how many it has.
        groups: of the file, those that have its tokens.
        begin: byte of the file at which its tokens stand as they are; None if it is computed.
        ends: of documents that may end in it, at most.
    """

    file: int
    part: int
    first: int
    samples: int
    token: int
    tokens: int
    groups: range
    begin: int | None
    ends: int


def shards_of(index: ColumnIndex) -> Iterator[ColumnShard]:
    """Yield the shards of a store, in order.

    Lists of 3, 0 and 6 tokens in two row groups, as rows of 4 that take one token of the next; one token is left over:

    >>> groups = (Group(2, 3), Group(1, 6))
    >>> file = ColumnFile(name="a.parquet", bytes=99, version="", number=0, length=None, wide=False, place=(0, 0, 0),
    ...                   groups=groups)
    >>> index = ColumnIndex(kind="parquet", column="tokens", dtype="uint16", seq_len=4, overlap=1, every=None,
    ...                     shard_bytes=6, files=(file,))
    >>> [(shard.samples, shard.token, shard.tokens, shard.groups) for shard in shards_of(index)]
    [(1, 0, 5, range(0, 2)), (1, 4, 5, range(1, 2))]
    """
    for number, file in enumerate(index.files):
        if index.row is None:
            yield from _documents(index, number, file)
        elif _is_direct(index, file):
            yield from _direct(index, number, file)
        else:
            yield from _rows(index, number, file)


def left_over(index: ColumnIndex) -> int:
    """Return how many tokens at the ends of files are in no row."""
    if index.row is None:
        return 0
    stride, size = index.row
    tails = [
        file.tokens - (stride * (rows - 1) + size if (rows := _count(file, index.row)) else 0) for file in index.files
    ]
    return sum(tails)


def _count(file: ColumnFile, row: tuple[int, int]) -> int:
    stride, size = row
    return max((file.tokens - size) // stride + 1, 0)


def _is_direct(index: ColumnIndex, file: ColumnFile) -> bool:
    """Return whether all rows of a file lie in batches as they are, in pieces that are worth a shard each.

    Where lists are documents their ends belong to the shard, so it is computed.
    """
    assert index.row is not None
    stride, size = index.row
    groups = [group for group in file.groups if group.tokens]
    return (
        index.every is not None
        and stride == size
        and all(group.values >= 0 for group in groups)
        and all(group.tokens % stride == 0 for group in groups[:-1])
        and (len(groups) <= 1 or file.tokens * index.itemsize >= _LEAST * len(groups))
    )


def _direct(index: ColumnIndex, number: int, file: ColumnFile) -> Iterator[ColumnShard]:
    assert index.row is not None
    size = index.row[1]
    step = max(index.shard_bytes // (size * index.itemsize), 1)
    first = part = 0
    for at, group in enumerate(file.groups):
        rows = group.tokens // size
        for begin in range(0, rows, step):
            taken = min(step, rows - begin)
            yield ColumnShard(
                file=number,
                part=part,
                first=first + begin,
                samples=taken,
                token=(first + begin) * size,
                tokens=taken * size,
                groups=range(at, at + 1),
                begin=group.values + begin * size * index.itemsize,
                ends=0,
            )
            part += 1
        first += rows


def _documents(index: ColumnIndex, number: int, file: ColumnFile) -> Iterator[ColumnShard]:
    token = first = 0
    for part, groups in enumerate(_packed(index, file.groups)):
        lists = sum(group.lists for group in file.groups[groups.start : groups.stop])
        tokens = sum(group.tokens for group in file.groups[groups.start : groups.stop])
        yield ColumnShard(
            file=number,
            part=part,
            first=first,
            samples=lists,
            token=token,
            tokens=tokens,
            groups=groups,
            begin=None,
            ends=lists,
        )
        token, first = token + tokens, first + lists


def _packed(index: ColumnIndex, groups: Sequence[Group]) -> Iterator[range]:
    """Yield neighbouring groups with lists, of no more tokens together than a shard has, or one alone."""
    begin = tokens = lists = 0
    for at, group in enumerate(groups):
        if lists and (tokens + group.tokens) * index.itemsize > index.shard_bytes:
            yield range(begin, at)
            begin, tokens, lists = at, 0, 0
        tokens, lists = tokens + group.tokens, lists + group.lists
    if lists:
        yield range(begin, len(groups))


def _rows(index: ColumnIndex, number: int, file: ColumnFile) -> Iterator[ColumnShard]:
    assert index.row is not None
    stride, size = index.row
    total = _count(file, index.row)
    begins = list(accumulate((group.tokens for group in file.groups), initial=0))
    part = 0
    for groups in _packed(index, file.groups):
        first, last = (min(-(-begins[at] // stride), total) for at in (groups.start, groups.stop))
        for begin, end in _pieces(index, file, groups, first, last):
            token, tokens = begin * stride, (end - 1 - begin) * stride + size
            taken = _overlapping(begins, token, token + tokens, groups.start)
            yield ColumnShard(
                file=number,
                part=part,
                first=begin,
                samples=end - begin,
                token=token,
                tokens=tokens,
                groups=taken,
                begin=None,
                ends=0
                if index.every is not None  # then lists are not documents
                else sum(
                    min(file.groups[at].lists, min(begins[at + 1], token + tokens) - max(begins[at], token))
                    for at in taken
                ),
            )
            part += 1


def _pieces(index: ColumnIndex, file: ColumnFile, groups: range, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield the rows [begin, end) of each shard, of those that begin in `groups`."""
    assert index.row is not None
    if first == last:
        return
    # Batches that are not compressed are read at any place.
    is_cheap = all(file.groups[at].values >= 0 for at in groups)
    most = index.shard_bytes * (1 if is_cheap else _LARGEST)
    taken = (last - first) * index.row[0] * index.itemsize
    pieces = min(-(-taken // most), last - first)
    for piece in range(pieces):
        yield first + (last - first) * piece // pieces, first + (last - first) * (piece + 1) // pieces


def _overlapping(begins: Sequence[int], begin: int, end: int, at: int) -> range:
    """Return the groups that have the tokens [begin, end), from the group `at` on."""
    while begins[at + 1] <= begin:
        at += 1
    stop = at
    while begins[stop] < end:
        stop += 1
    return range(at, stop)
