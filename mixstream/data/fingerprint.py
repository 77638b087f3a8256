"""The fingerprint of a domain, a digest of what its index says of each shard; that of many shards is kept in a file.

    magic · xxh3_128 of all that follows · xxh3_128 of the text of the index · fingerprint, both in hexadecimal

A million shards take half a second, and states, and so saves and resumes, need it: the file lies beside the compact
form of the index. Rules: it stands for one text of an index. A file that is another's, damaged or cut is no error: the
fingerprint is computed then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

import xxhash

from mixstream.formats import ShardEntry, content_facts, hash_hex
from mixstream.lazy import pattern
from mixstream.records import dataclass
from mixstream.storage.kept_file import KeptFile

_MAGIC = b"mixstream fingerprint 1\n"  # the number changes with everything that the bytes mean
_HEX = pattern("[0-9a-f]{32}")


def fingerprint_of(shards: Sequence[ShardEntry], listed: Iterable[Any], kept: KeptFingerprint | None) -> str:
    """Return the fingerprint of a domain: hex of 128 bits, the same wherever its files are.

    Args:
        shards: its shards.
        listed: arrays of the borders of its documents, where they are listed beside the shards.
        kept: where the fingerprint is kept; None if it is not.
    """
    if kept is not None and (known := kept.read()) is not None:
        return known
    digest = blake2b(digest_size=16)
    for facts in content_facts(shards):
        digest.update(facts.encode())
    for array in listed:
        digest.update(hash_hex("xxh3_128", array.data).encode())
    if kept is not None:
        kept.write(digest.hexdigest())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class KeptFingerprint:
    """Where the fingerprint of a domain is kept.

    Args:
        key: of `KeptFile`, that of the compact form of the index.
        text: xxh3_128 of the bytes of the index, in hexadecimal.
    """

    key: str
    text: str

    def read(self) -> str | None:
        """Return the fingerprint; None if none of this index is kept."""
        data = self._file.read()
        if data is None or len(data) != len(self._packed("0" * 32)):
            return None
        fingerprint = data[-32:].decode("latin-1")
        return fingerprint if _HEX.fullmatch(fingerprint) and data == self._packed(fingerprint) else None

    def write(self, fingerprint: str) -> None:
        """Keep the fingerprint, 128 bits in hexadecimal, if it can be kept."""
        self._file.write(self._packed(fingerprint))

    def _packed(self, fingerprint: str) -> bytes:
        facts = f"{self.text}{fingerprint}".encode("latin-1")
        return b"".join((_MAGIC, xxhash.xxh3_128(facts).digest(), facts))

    @property
    def _file(self) -> KeptFile:
        return KeptFile(self.key, "fingerprint")
