"""The index of a dataset becomes a container: the one place where a format is chosen."""

from typing import TYPE_CHECKING

from mixstream.formats.container import Container
from mixstream.formats.mds.container import MDS
from mixstream.formats.mds.index import check_index_hash, parse_index
from mixstream.lazy import later

if TYPE_CHECKING:
    from mixstream.formats.columns.container import Columns
    from mixstream.formats.columns.index import parse_column_index
    from mixstream.formats.mixed import Mixed
    from mixstream.formats.tokens.container import TokenFiles
    from mixstream.formats.tokens.index import parse_token_index
else:
    (Columns,) = later("mixstream.formats.columns.container", "Columns")
    (parse_column_index,) = later("mixstream.formats.columns.index", "parse_column_index")
    (Mixed,) = later("mixstream.formats.mixed", "Mixed")
    (TokenFiles,) = later("mixstream.formats.tokens.container", "TokenFiles")
    (parse_token_index,) = later("mixstream.formats.tokens.index", "parse_token_index")


# How the index of a store of token files begins, and of one of columns (`tokens.index`, `columns.index`).
_TOKENS, _COLUMNS = b'{"mixstream_tokens":', b'{"mixstream_columns":'

MANY = 2 << 20
"""Bytes of an index from which on `read_blocks` should read it: some 7,000 shards."""

TokenStore = TokenFiles | Columns
"""The containers of files that have no index of their own: what is read of them follows from options. Both have
`index.kind`, `index.files` and `index.row`, `row_tokens`, `dropped`, `lists_borders` and `cuts`."""


def open_container(index: bytes, *, where: str, validate_hash: str | None = None) -> Container:
    """Return the container that an index describes.

    Args:
        index: the bytes of the dataset's index file.
        where: names the file in errors.
        validate_hash: name of the hash that the index is checked against, where it has one; `ARRIVAL` for the quickest
            that it has; None for none.

    Raises:
        IndexCorruptError: the index is invalid, or does not match its hash.
    """
    if index.startswith(_TOKENS):
        return TokenFiles.of(parse_token_index(index, where=where))
    if index.startswith(_COLUMNS):
        return Columns.of(parse_column_index(index, where=where))
    check_index_hash(index, validate_hash, where=where)
    parsed = parse_index(index, where=where)
    return MDS(parsed) if all(shard.meta is None for shard in parsed.shards) else Mixed(parsed)


def is_index_of_many(begin: bytes, size: int) -> bool:
    """Return whether an index has so many shards that `read_blocks` should read it.

    Args:
        begin: its first bytes.
        size: in bytes.
    """
    return size >= MANY and not begin.startswith((_TOKENS, _COLUMNS))
