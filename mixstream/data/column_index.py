"""Files with a column of token ids get an index.

Rules. It is made from footers and positions of lists, many files at once, and has O(row groups). Files that do not
belong together are refused, and so is what would lose tokens, masks or labels without a word.
"""

import warnings
from collections.abc import Sequence

from mixstream.errors import ConfigError, IndexCorruptError, StoreNotFoundError
from mixstream.formats import Look, Options
from mixstream.formats.columns import (
    ColumnFacts,
    ColumnIndex,
    begins_with_lists_of,
    check_others,
    dump_column_index,
)
from mixstream.formats.columns.describe import describe

_LARGE = 1 << 30  # bytes of tokens of a row group


def make_column_index(look: Look, names: Sequence[str], options: Options, *, listed: bool, shard_bytes: int) -> bytes:
    """Return the index of the files `names`; see `storage.IndexMaker`.

    Args:
        look: the files of the store.
        names: in the order in which they are read.
        options: what the user says of them.
        listed: whether the directory names the files, and not the user.
        shard_bytes: as in `ColumnIndex`.

    Raises:
        ConfigError: files do not belong together, or have no rows; options contradict them.
        ShardCorruptError: a file is damaged.
        IndexCorruptError: a file that is listed is not there.
    """

    def look_at(name: str) -> ColumnFacts:
        try:
            known = look.info(name)
        except StoreNotFoundError as error:
            if not listed:
                raise
            raise IndexCorruptError(
                f"{look.place}/{name} is listed, and is not there: the dataset is not complete; copy it again"
            ) from error
        with look.open(name) as file:
            return describe(file, name, known, options.column, where=f"{look.place}/{name}")

    facts = look.each(look_at, names)
    first = _common(look, facts, options)
    index = ColumnIndex(
        kind=first.kind,
        column=first.column,
        dtype=first.dtype,
        seq_len=options.seq_len,
        overlap=options.overlap,
        every=_every(look, facts, options),
        shard_bytes=shard_bytes,
        files=tuple(each.file for each in facts),
    )
    _check_rows(look, index)
    _warn_of_large_groups(look, index)
    if options.column is None:
        with look.open(first.file.name) as file:
            check_others(file, first, where=f"{look.place}/{first.file.name}")
    return dump_column_index(index)


def _common(look: Look, facts: Sequence[ColumnFacts], options: Options) -> ColumnFacts:
    """Return the first file that has lists, after a check that all files are of one kind."""
    if not facts:
        raise IndexCorruptError(f"{look.place}: no files are listed, so there is nothing to read")
    first = next((each for each in facts if any(group.lists for group in each.file.groups)), facts[0])
    for each in facts:
        for what, mine, others in (
            ("are of the kind", each.kind, first.kind),
            ("have token ids in the column", each.column, first.column),
            ("have token ids of", each.dtype, first.dtype),
        ):
            if mine != others:
                raise ConfigError(
                    f"{look.place}: the files {what} {mine} ({each.file.name}) and {others} ({first.file.name}): give "
                    "a Stream for each, or write them alike"
                )
    if options.dtype not in (None, first.dtype):
        raise ConfigError(
            f"{look.place}: dtype={options.dtype!r} is given, and column {first.column!r} has {first.dtype}: leave "
            "dtype out"
        )
    return first


def _every(look: Look, facts: Sequence[ColumnFacts], options: Options) -> int | None:
    """Return the length of all lists if they were packed into rows; None if they are documents.

    Raises:
        ConfigError: rows of `seq_len` would begin anywhere in the lists.
    """
    lengths = {each.every for each in facts if each.every is not None}
    lists = sum(group.lists for each in facts for group in each.file.groups)
    if len(lengths) != 1 or (length := lengths.pop()) < 1 or lists < 2:
        return None
    for each in facts:
        if any(group.lists for group in each.file.groups):
            with look.open(each.file.name) as file:
                if not begins_with_lists_of(file, each, length, where=f"{look.place}/{each.file.name}"):
                    return None
            break
    asked = options.seq_len
    if asked is None or asked + options.overlap == length:
        return length
    if not options.overlap and (length % asked == 0 or asked % length == 0):
        return length
    raise ConfigError(
        f"{look.place}: all {lists:,} lists have {length} tokens, so they are rows already, and seq_len={asked} with "
        f"overlap={options.overlap} would cut them anywhere: leave both out, or give seq_len={length}"
    )


def _check_rows(look: Look, index: ColumnIndex) -> None:
    """Refuse files without a row."""
    longest = max(index.files, key=lambda file: file.tokens)
    if not longest.tokens:
        raise ConfigError(f"{look.place}: column {index.column!r} has no tokens in any of {len(index.files)} files")
    if index.row is not None and longest.tokens < index.row[1]:
        raise ConfigError(
            f"{look.place}: the longest of {len(index.files)} files, {longest.name}, has {longest.tokens:,} tokens, "
            f"and a row of seq_len={index.seq_len} takes {index.row[1]}: give a smaller seq_len"
        )


def _warn_of_large_groups(look: Look, index: ColumnIndex) -> None:
    """Warn of row groups that cost much time and memory, since no part of one can be decoded by itself."""
    if index.kind != "parquet":
        return
    size, name = max((group.tokens * index.itemsize, file.name) for file in index.files for group in file.groups)
    if size > _LARGE:
        warnings.warn(
            f"{look.place}/{name} has a row group of {size:,} bytes of tokens: a shard is decoded from the beginning "
            "of its row group, so reading takes much time and memory; write the file with row groups of about 64 MiB "
            "(row_group_size=...)",
            RuntimeWarning,
            stacklevel=2,
        )
