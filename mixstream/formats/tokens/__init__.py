"""Files of bare tokens, of programs that train language models, read as they are. In the order of the flow:

    look       the protocol by which files are looked at; what a user says of them
    kinds      the table of formats, and which of them a store has
    megatron   `.bin` and `.idx`
    datatrove  `.ds`, `.ds.index` and `.ds.metadata`, of datatrove and nanotron
    olmo       `.npy` without header and `.csv.gz`, of dolma and OLMo
    llmc       `.bin` with a header, of llm.c and modded-nanogpt
    raw        `.bin` and `.npy` without one, and numpy's `.npy`
    index      what is known of a store's files, as JSON
    container  its shards: parts of the files, as rows or as documents

A further format is a module with `describe` (and `cuts`, if it stores borders) and a line in the table of `kinds`.
"""

from typing import TYPE_CHECKING

from mixstream.lazy import lazily

if TYPE_CHECKING:
    from mixstream.formats.tokens.container import CutsOf, TokenFiles, whole_file
    from mixstream.formats.tokens.index import (
        SHARD_BYTES,
        TokenFile,
        TokenIndex,
        dump_token_index,
        parse_token_index,
    )
    from mixstream.formats.tokens.kinds import FORMATS, find_files, is_token_file, token_stem
    from mixstream.formats.tokens.look import DTYPES, Look, Options
    from mixstream.formats.tokens.megatron import sequence_starts

__getattr__, __dir__ = lazily(
    __name__,
    {
        "container": ["CutsOf", "TokenFiles", "whole_file"],
        "index": ["SHARD_BYTES", "TokenFile", "TokenIndex", "dump_token_index", "parse_token_index"],
        "kinds": ["FORMATS", "find_files", "is_token_file", "token_stem"],
        "look": ["DTYPES", "Look", "Options"],
        "megatron": ["sequence_starts"],
    },
)


__all__ = [
    "DTYPES",
    "FORMATS",
    "SHARD_BYTES",
    "CutsOf",
    "Look",
    "Options",
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
]
