"""Formats: bytes in, arrays and values out. Other packages import from here only.

Nothing in this package opens a file, starts a thread or imports torch; callers read the bytes. (One exception: a JPEG
column stores the file of an image that Pillow opened from a JPEG file.) Bytes are untrusted: sizes are checked before
they are used, and every error names the file, the fact and the remedy. In the order of the flow:

    compression  a shard file <-> its compressed stream
    hashing      digests of files, by name
    container    the protocol of a format: its shards, where a row's bytes lie, what they decode to
    mds/         MDS version 2, as mosaicml-streaming writes and reads it
    open         the index of a dataset becomes a container

A further format is a folder beside `mds/` that implements `Container`, and a line in `open`. In every format, columns
have MDS's names of encodings (`"ndarray:uint16:2048"`).
"""

from mixstream.formats.compression import compress, decompress, extension, is_compression
from mixstream.formats.container import Container, FileInfo, OffsetTable, RowLayout, ShardEntry
from mixstream.formats.hashing import hash_hex, hash_names, is_hash
from mixstream.formats.mds.encodings import (
    fixed_array,
    fixed_row_tokens,
    get_mds_encoded_size,
    get_mds_encodings,
    is_mds_encoding,
    is_mds_encoding_safe,
    mds_decode,
    mds_encode,
    ndarray_dtype,
)
from mixstream.formats.mds.index import INDEX_HASHES, Index, ShardInfo, check_index_hash, dump_index, parse_index
from mixstream.formats.mds.shard import decode_sample, encode_sample, encode_shard, read_offsets
from mixstream.formats.open import open_container

__all__ = [
    "INDEX_HASHES",
    "Container",
    "FileInfo",
    "Index",
    "OffsetTable",
    "RowLayout",
    "ShardEntry",
    "ShardInfo",
    "check_index_hash",
    "compress",
    "decode_sample",
    "decompress",
    "dump_index",
    "encode_sample",
    "encode_shard",
    "extension",
    "fixed_array",
    "fixed_row_tokens",
    "get_mds_encoded_size",
    "get_mds_encodings",
    "hash_hex",
    "hash_names",
    "is_compression",
    "is_hash",
    "is_mds_encoding",
    "is_mds_encoding_safe",
    "mds_decode",
    "mds_encode",
    "ndarray_dtype",
    "open_container",
    "parse_index",
    "read_offsets",
]
