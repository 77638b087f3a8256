"""Formats: bytes in, arrays and values out. No file is opened, no thread started, no torch imported.

The one format is MDS version 2 (`mds/`), as mosaicml-streaming writes and reads it; `compression` and `hashing` are
what its shards are wrapped in. What other layers need is re-exported here.
"""

from mixstream.formats.compression import compress, decompress, extension, is_compression
from mixstream.formats.container import Container, FileInfo, OffsetTable, RowLayout, ShardEntry
from mixstream.formats.hashing import hash_hex, hash_names, is_hash
from mixstream.formats.mds.container import MDS
from mixstream.formats.mds.encodings import (
    fixed_array,
    get_mds_encoded_size,
    get_mds_encodings,
    is_mds_encoding,
    is_mds_encoding_safe,
    mds_decode,
    mds_encode,
    ndarray_dtype,
)
from mixstream.formats.mds.index import (
    INDEX_HASHES,
    Index,
    ShardInfo,
    check_index_hash,
    dump_index,
    parse_index,
)
from mixstream.formats.mds.shard import decode_sample, encode_sample, encode_shard, read_offsets

__all__ = [
    "INDEX_HASHES",
    "MDS",
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
    "parse_index",
    "read_offsets",
]
