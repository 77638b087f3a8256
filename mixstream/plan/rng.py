"""The keys from which all random numbers of mixstream derive.

Rule: a key is derived by *name* (its use, domain and epoch), never by adding numbers to a seed. Every use then has a
key of its own, adding or reordering domains leaves the keys of the others as they are, and a resume has no generator
state to restore.
"""

from hashlib import blake2b


def derive_key(seed: int, *path: str | int) -> int:
    """Return the 64-bit key of one use of randomness, as an int in [0, 2**64).

    `path` names the use. Its parts are hashed with their type and length, so `("a", "bc")` and `("ab", "c")`, or `1`
    and `"1"`, give unrelated keys.

    >>> derive_key(17, "order", "web", 0, 0)  # the order of domain "web" in epoch 0 and lane 0, under seed 17
    7728913670826792899
    """
    digest = blake2b(digest_size=8, person=b"mixstream-key-v1")
    for part in (seed, *path):
        data = str(part).encode()
        digest.update(f"{type(part).__name__}:{len(data)}:".encode() + data)
    return int.from_bytes(digest.digest(), "little")
