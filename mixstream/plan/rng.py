"""Every random number of mixstream comes from a key, and every key comes from here.

Rule: a key is derived by *name* (what it is for, which domain, which epoch), never by adding numbers to a seed. So no
two uses share a key, reordering or adding domains changes nothing for the others, and no generator state exists that
a resume would have to restore.
"""

from __future__ import annotations

from hashlib import blake2b


def derive_key(seed: int, *path: str | int) -> int:
    """Return the 64-bit key of one use of randomness, as an int in [0, 2**64).

    `path` names the use, for example `derive_key(seed, "order", "web", epoch, lane)`. Parts are hashed with their type
    and length, so `("a", "bc")` and `("ab", "c")`, or `1` and `"1"`, give unrelated keys.
    """
    digest = blake2b(digest_size=8, person=b"mixstream-key-v1")
    for part in (seed, *path):
        data = str(part).encode()
        digest.update(f"{type(part).__name__}:{len(data)}:".encode() + data)
    return int.from_bytes(digest.digest(), "little")
