"""Formats: bytes in, arrays and values out. Other packages import from here only.

Nothing in this package opens a file, starts a thread or imports torch; callers read the bytes. (One exception: a JPEG
column stores the file of an image that Pillow opened from a JPEG file.) Bytes are untrusted: sizes are checked before
they are used, and every error names the file, the fact and the remedy. In the order of the flow:

    compression  a shard file <-> its compressed stream
    hashing      digests of files, by name
    container    the protocol of a format: its shards, where a row's bytes lie, what they decode to
    mds/         MDS version 2, as mosaicml-streaming writes and reads it; the index of all its formats
    shard_list   the entries of an index of many shards, as arrays, and their compact form (`shard_list_file`)
    split/       its JSON, CSV, TSV and XSV shards, of two files each
    mixed        shards of any of these formats
    columns/     columns of token ids in Parquet and Arrow files
    tokens/      files of bare tokens: Megatron, datatrove, dolma, llm.c, raw
    cuts         borders of documents in such files
    open         the index of a dataset becomes a container
    names        functions by the names that mosaicml-streaming gives them

A further format is a folder beside `mds/` that implements `Container`, and a line in `open`. In every format, columns
have MDS's names of encodings (`"ndarray:uint16:2048"`).
"""

from typing import TYPE_CHECKING

from mixstream.lazy import lazily

if TYPE_CHECKING:
    from mixstream.formats.compression import compress, compression_names, decompress, extension, is_compression
    from mixstream.formats.container import (
        PART,
        ComputesShards,
        Container,
        DocumentRows,
        FileInfo,
        FilePart,
        FixedStride,
        GatheredRows,
        OffsetTable,
        RowLayout,
        ShardEntry,
        SpanRows,
        SplitOffsets,
        TailRows,
        kind_of,
    )
    from mixstream.formats.cuts import CutRows, Cuts
    from mixstream.formats.entry import ShardInfo
    from mixstream.formats.hashing import ARRIVAL, hash_hex, hash_names, is_hash, quickest_hash
    from mixstream.formats.mds.container import MDS
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
    from mixstream.formats.mds.index import INDEX_HASHES, Index, check_index_hash, dump_index, parse_index
    from mixstream.formats.mds.large_index import read_blocks
    from mixstream.formats.mds.shard import encode_sample, encode_shard
    from mixstream.formats.mixed import decode_sample, join_files, read_offsets
    from mixstream.formats.names import (
        get_compression_extension,
        get_compressions,
        get_hash,
        get_hashes,
        get_index_basename,
    )
    from mixstream.formats.open import MANY, TokenStore, is_index_of_many, open_container
    from mixstream.formats.shard_list import (
        ShardList,
        content_facts,
        file_names,
        first_of_kinds,
        kinds_of,
        of_kinds,
        raw_bytes_of,
        raw_names,
        samples_of,
        zip_bytes_of,
    )
    from mixstream.formats.shard_list_file import dump_shard_list, load_shard_list
    from mixstream.formats.split.encodings import (
        get_json_encodings,
        get_xsv_encodings,
        is_json_encoded,
        is_json_encoding,
        is_xsv_encoding,
        xsv_decode,
        xsv_encode,
    )
    from mixstream.formats.split.info import SplitInfo
    from mixstream.formats.tokens import (
        DTYPES,
        FORMATS,
        SHARD_BYTES,
        Look,
        Options,
        TokenFile,
        TokenFiles,
        TokenIndex,
        dump_token_index,
        find_files,
        is_token_file,
        parse_token_index,
        sequence_starts,
        token_stem,
        whole_file,
    )

__getattr__, __dir__ = lazily(
    __name__,
    {
        "compression": ["compress", "compression_names", "decompress", "extension", "is_compression"],
        "container": [
            "ComputesShards",
            "Container",
            "DocumentRows",
            "FileInfo",
            "FilePart",
            "FixedStride",
            "GatheredRows",
            "OffsetTable",
            "PART",
            "RowLayout",
            "ShardEntry",
            "SpanRows",
            "SplitOffsets",
            "TailRows",
            "kind_of",
        ],
        "cuts": ["CutRows", "Cuts"],
        "entry": ["ShardInfo"],
        "hashing": ["ARRIVAL", "hash_hex", "hash_names", "is_hash", "quickest_hash"],
        "mds.encodings": [
            "fixed_array",
            "fixed_row_tokens",
            "get_mds_encoded_size",
            "get_mds_encodings",
            "is_mds_encoding",
            "is_mds_encoding_safe",
            "mds_decode",
            "mds_encode",
            "ndarray_dtype",
        ],
        "mds.index": ["INDEX_HASHES", "Index", "check_index_hash", "dump_index", "parse_index"],
        "mds.container": ["MDS"],
        "mds.large_index": ["read_blocks"],
        "mds.shard": ["encode_sample", "encode_shard"],
        "mixed": ["decode_sample", "join_files", "read_offsets"],
        "names": ["get_compression_extension", "get_compressions", "get_hash", "get_hashes", "get_index_basename"],
        "open": ["MANY", "TokenStore", "is_index_of_many", "open_container"],
        "shard_list": [
            "ShardList",
            "content_facts",
            "file_names",
            "first_of_kinds",
            "kinds_of",
            "of_kinds",
            "raw_bytes_of",
            "raw_names",
            "samples_of",
            "zip_bytes_of",
        ],
        "shard_list_file": ["dump_shard_list", "load_shard_list"],
        "split.encodings": [
            "get_json_encodings",
            "get_xsv_encodings",
            "is_json_encoded",
            "is_json_encoding",
            "is_xsv_encoding",
            "xsv_decode",
            "xsv_encode",
        ],
        "split.info": ["SplitInfo"],
        "tokens": [
            "DTYPES",
            "FORMATS",
            "Look",
            "Options",
            "SHARD_BYTES",
            "TokenFile",
            "TokenFiles",
            "TokenIndex",
            "dump_token_index",
            "find_files",
            "is_token_file",
            "parse_token_index",
            "sequence_starts",
            "token_stem",
            "whole_file",
        ],
    },
)


__all__ = [
    "ARRIVAL",
    "DTYPES",
    "FORMATS",
    "INDEX_HASHES",
    "MANY",
    "MDS",
    "PART",
    "SHARD_BYTES",
    "ComputesShards",
    "Container",
    "CutRows",
    "Cuts",
    "DocumentRows",
    "FileInfo",
    "FilePart",
    "FixedStride",
    "GatheredRows",
    "Index",
    "Look",
    "OffsetTable",
    "Options",
    "RowLayout",
    "ShardEntry",
    "ShardInfo",
    "ShardList",
    "SpanRows",
    "SplitInfo",
    "SplitOffsets",
    "TailRows",
    "TokenFile",
    "TokenFiles",
    "TokenIndex",
    "TokenStore",
    "check_index_hash",
    "compress",
    "compression_names",
    "content_facts",
    "decode_sample",
    "decompress",
    "dump_index",
    "dump_shard_list",
    "dump_token_index",
    "encode_sample",
    "encode_shard",
    "extension",
    "file_names",
    "find_files",
    "first_of_kinds",
    "fixed_array",
    "fixed_row_tokens",
    "get_compression_extension",
    "get_compressions",
    "get_hash",
    "get_hashes",
    "get_index_basename",
    "get_json_encodings",
    "get_mds_encoded_size",
    "get_mds_encodings",
    "get_xsv_encodings",
    "hash_hex",
    "hash_names",
    "is_compression",
    "is_hash",
    "is_index_of_many",
    "is_json_encoded",
    "is_json_encoding",
    "is_mds_encoding",
    "is_mds_encoding_safe",
    "is_token_file",
    "is_xsv_encoding",
    "join_files",
    "kind_of",
    "kinds_of",
    "load_shard_list",
    "mds_decode",
    "mds_encode",
    "ndarray_dtype",
    "of_kinds",
    "open_container",
    "parse_index",
    "parse_token_index",
    "quickest_hash",
    "raw_bytes_of",
    "raw_names",
    "read_blocks",
    "read_offsets",
    "samples_of",
    "sequence_starts",
    "token_stem",
    "whole_file",
    "xsv_decode",
    "xsv_encode",
    "zip_bytes_of",
]
