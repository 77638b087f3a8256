"""Shard hashes by name: one-shot digests of bytes.

Only pure functions of bytes live here; which hash is asked for, and what a mismatch means, is decided above. The names
are those of an MDS index: hashlib's fixed-length digests and the xxhash family (`specs/mds.md` section 2).
"""

import hashlib
from collections.abc import Callable

import xxhash

from mixstream.errors import ConfigError

_XXHASH: dict[str, Callable[..., str]] = {
    "xxh32": xxhash.xxh32_hexdigest,
    "xxh64": xxhash.xxh64_hexdigest,
    "xxh128": xxhash.xxh128_hexdigest,
    "xxh3_64": xxhash.xxh3_64_hexdigest,
    "xxh3_128": xxhash.xxh3_128_hexdigest,
}
# SHAKE has no digest length of its own, so it cannot stand in an index; a name without a constructor in hashlib
# (`ripemd160`, `sm3`) depends on how OpenSSL was built.
_HASHLIB = frozenset(n for n in hashlib.algorithms_available if hasattr(hashlib, n) and not n.startswith("shake_"))


def hash_names() -> list[str]:
    """List the hashes that a shard can carry, sorted by name."""
    return sorted(_HASHLIB | _XXHASH.keys())


def is_hash(name: str) -> bool:
    """Tell whether `name` is one of `hash_names()`."""
    return name in _XXHASH or name in _HASHLIB


def hash_hex(name: str, data: bytes | bytearray | memoryview) -> str:
    """Digest `data` with the hash called `name`, as lower-case hexadecimal.

    Raises:
        ConfigError: no hash of this name.
    """
    if name in _XXHASH:
        return _XXHASH[name](data)
    if name in _HASHLIB:
        return hashlib.new(name, data, usedforsecurity=False).hexdigest()
    raise ConfigError(f"hash {name!r} is not known; choose among {', '.join(hash_names())}")
