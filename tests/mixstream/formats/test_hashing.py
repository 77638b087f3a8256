import hashlib

import pytest
import xxhash

from mixstream.errors import ConfigError
from mixstream.formats import hash_hex, hash_names, is_hash


def test_names_are_sorted_and_cover_hashlib_and_xxhash():
    names = hash_names()
    assert names == sorted(set(names))
    assert {"md5", "sha1", "sha256", "blake2b", "xxh32", "xxh64", "xxh128", "xxh3_64", "xxh3_128"} <= set(names)
    assert not [name for name in names if name.startswith("shake")]


@pytest.mark.parametrize("name", hash_names())
def test_digest_equals_the_library_s(name):
    data = bytes(range(256)) * 5
    library = xxhash if name.startswith("xxh") else hashlib
    assert is_hash(name)
    assert hash_hex(name, data) == getattr(library, name)(data).hexdigest()
    assert hash_hex(name, memoryview(data)) == hash_hex(name, bytearray(data)) == hash_hex(name, data)


@pytest.mark.parametrize("name", ["", "SHA1", "shake_128", "crc32"])
def test_unknown_hash_is_refused_and_the_known_are_named(name):
    assert not is_hash(name)
    with pytest.raises(ConfigError, match="sha1"):
        hash_hex(name, b"")
