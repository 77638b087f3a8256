"""Functions by the names of mosaicml-streaming."""

import hashlib

import pytest

from mixstream import formats
from mixstream.formats.names import (
    get_compression_extension,
    get_compressions,
    get_hash,
    get_hashes,
    get_index_basename,
)


def test_the_names_of_mosaicml_streaming_give_what_ours_give() -> None:
    assert get_index_basename() == "index.json"
    assert {"sha1", "md5", "sha256", "xxh64", "xxh3_128"} <= get_hashes() == {*formats.hash_names()}
    assert get_hash("sha256", b"rows") == hashlib.sha256(b"rows").hexdigest()
    assert {"zstd", "zstd:7", "gz", "br:11"} <= get_compressions()
    assert "none" not in get_compressions()
    assert [get_compression_extension(name) for name in ("zstd:7", "gz", "br")] == ["zstd", "gz", "br"]
    with pytest.raises(ValueError, match="rot13"):
        get_hash("rot13", b"")
