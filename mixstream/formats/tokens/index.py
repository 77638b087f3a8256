"""The index of a token store: a small JSON document that is made from the store's files, since they have none.

    {"mixstream_tokens": {"kind", "seq_len", "overlap", "shard_bytes", "files": [{"name", "bytes", "version", ...}]}}

Rules: it has all that decides which shards there are, and what tells one version of the files from another; it is
O(files), whatever the number of documents. Equal files and options give equal bytes.
"""

import msgspec
import numpy as np

from mixstream.errors import IndexCorruptError

SHARD_BYTES = 1 << 26
"""Bytes of a shard, about: files are cut into shards of this size, which are fetched, evicted and shuffled each as a
whole. It is part of a store's identity: with another number, rows have another order."""


class BorderFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file that says where the documents of a token file begin or end.

    Args:
        name: below the directory of the store.
        bytes: its size.
        version: what the store says of its version.
    """

    name: str
    bytes: int
    version: str


class TokenFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of tokens that follow each other.

    Args:
        name: below the directory of the store.
        bytes: its size.
        version: what the store says of its version.
        dtype: of the tokens, which are little-endian.
        begin: byte at which the first token stands.
        tokens: how many there are.
        borders: where its documents begin or end; None if that is not stored.
    """

    name: str
    bytes: int
    version: str
    dtype: str
    begin: int
    tokens: int
    borders: BorderFile | None

    @property
    def itemsize(self) -> int:
        """Bytes of a token."""
        return np.dtype(self.dtype).itemsize


class TokenIndex(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A store of token files, and how it is read.

    Args:
        kind: name of the files' format (`kinds.FORMATS`).
        seq_len: tokens from the begin of a row to that of the next; None if samples are documents.
        overlap: tokens of a row beyond that, which are also the first ones of the next row: 0 or 1.
        shard_bytes: `SHARD_BYTES`, when the index was made.
        files: in the order of their names.
    """

    kind: str
    seq_len: int | None
    overlap: int
    shard_bytes: int
    files: tuple[TokenFile, ...]

    @property
    def row(self) -> tuple[int, int] | None:
        """Tokens from the begin of a row to that of the next, and tokens of a row; None if samples are documents."""
        return None if self.seq_len is None else (self.seq_len, self.seq_len + self.overlap)


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    mixstream_tokens: TokenIndex


_decode = msgspec.json.Decoder(_Document).decode  # made here: threads that are the first to decode one type can crash


def dump_token_index(index: TokenIndex) -> bytes:
    """Return the bytes of an index: the same for equal indexes."""
    return msgspec.json.encode(_Document(index))


def parse_token_index(data: bytes, *, where: str) -> TokenIndex:
    """Return the index that `dump_token_index` wrote; `where` names the file in errors.

    Raises:
        IndexCorruptError: it is none.
    """
    try:
        return _decode(data).mixstream_tokens
    except msgspec.DecodeError as error:
        raise IndexCorruptError(
            f"{where}: not the index of token files ({error}); another version of mixstream may have made it: remove it"
        ) from error
