"""Shard hashes by name: digests of bytes.

Only pure functions live here; callers choose the hash and handle mismatches. The names are those of an MDS index:
hashlib's fixed-length digests and the xxhash family (`specs/mds.md` section 2).
"""

import hashlib
from collections.abc import Iterable
from functools import lru_cache

import xxhash

from mixstream.errors import ConfigError

_XXHASH = frozenset(("xxh32", "xxh64", "xxh128", "xxh3_64", "xxh3_128"))
# SHAKE has no fixed digest length, so an index cannot hold it. Names without a constructor in hashlib (`ripemd160`,
# `sm3`) depend on how OpenSSL was built.
_HASHLIB = frozenset(n for n in hashlib.algorithms_available if hasattr(hashlib, n) and not n.startswith("shake_"))
_QUICKEST = ("xxh3_64", "xxh3_128", "xxh128", "xxh64", "xxh32", "sha1", "sha256", "sha224", "blake2b", "sha512", "md5")

ARRIVAL = "arrival"
"""`validate_hash`: the quickest hash that an index has, when bytes arrive; not a name of one."""


def hash_names() -> list[str]:
    """Return the names of all hashes, sorted."""
    return sorted(_HASHLIB | _XXHASH)


def is_hash(name: str) -> bool:
    """Return whether `name` is one of `hash_names()`."""
    return name in _XXHASH or name in _HASHLIB


def quickest_hash(names: Iterable[str]) -> str | None:
    """Return the hash of `names` that takes the least time; None if none of them is known.

    >>> quickest_hash(["md5", "sha1", "xxh64"]), quickest_hash(["ripemd160"])
    ('xxh64', None)
    """
    return _quickest(tuple(names))


@lru_cache(maxsize=16)  # all shards of a dataset have the same
def _quickest(names: tuple[str, ...]) -> str | None:
    known = sorted(name for name in names if is_hash(name))
    return min(known, key=lambda name: _QUICKEST.index(name) if name in _QUICKEST else len(_QUICKEST), default=None)


def hash_hex(name: str, data: bytes | bytearray | memoryview) -> str:
    """Return the digest of `data` under the hash `name`, in lower-case hexadecimal.

    >>> hash_hex("xxh3_64", b"abc"), hash_hex("sha1", b"abc")
    ('78af5f94892f3950', 'a9993e364706816aba3e25717850c26c9cd0d89d')

    Raises:
        ConfigError: there is no hash of this name.
    """
    if name in _XXHASH:
        return getattr(xxhash, f"{name}_hexdigest")(data)
    if name in _HASHLIB:
        return hashlib.new(name, data, usedforsecurity=False).hexdigest()
    raise ConfigError(f"hash {name!r} is not known; choose among {', '.join(hash_names())}")
