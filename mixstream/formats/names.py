"""Functions by the names that mosaicml-streaming gives them, where mixstream has another name for the same.

Rule: nothing is computed here.
"""

from mixstream.formats.compression import compression_names, extension
from mixstream.formats.hashing import hash_hex, hash_names


def get_compressions() -> set[str]:
    """Return the names of all compressions: each family, and each of its levels (`zstd`, `zstd:7`)."""
    return {*compression_names()}


def get_compression_extension(algo: str) -> str:
    """Return the file extension of a compression, without dot or level, as `extension`."""
    return extension(algo)


def get_hashes() -> set[str]:
    """Return the names of all hashes, as `hash_names`."""
    return {*hash_names()}


def get_hash(algo: str, data: bytes) -> str:
    """Return the digest of `data` in hexadecimal, as `hash_hex`."""
    return hash_hex(algo, data)


def get_index_basename() -> str:
    """Return the name of the file that lists the shards of a dataset."""
    return "index.json"
