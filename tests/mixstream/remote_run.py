"""A run over a remote dataset, as tests of faults see it: a `Domain` that maps its shards one by one, with short times.

Rules: no test lives here. `SHARDS` and `SECOND` are globs for the rules of `fault_proxy`.
"""

from __future__ import annotations

from pathlib import Path

import servers  # pyright: ignore[reportMissingImports]
from servers import S3  # pyright: ignore[reportMissingImports]

from mixstream.data.domain import Domain
from mixstream.storage import CacheLimit, DatasetFiles, Retry

SHARDS = "*/shard.*"
SECOND = "*/shard.00001.*"


def start(url: str, local: Path, *, attempts: int = 6, timeout: float = 1.0, validate: bool = False) -> Domain:
    """Open a dataset, as a run does when it starts."""
    retry = Retry(attempts=attempts, timeout=timeout, unit=0.02)
    files = DatasetFiles.locate(remote=url, local=str(local), split=None, retry=retry)
    domain = Domain.open(name="web", files=files, validate_hash="xxh64" if validate else None)
    return domain.within(CacheLimit(limit=None))


def shards(domain: Domain) -> list[bytes]:
    """Map all shards, one after the other."""
    return [domain.map(number).tobytes() for number in range(len(domain.shards))]


def text_of(error: BaseException) -> str:
    """Return all that a user gets to read of an error, its causes included."""
    texts = []
    each: BaseException | None = error
    while each is not None:
        texts += [str(each), *getattr(each, "__notes__", ())]
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    return "\n".join(texts)


def assert_clear(error: BaseException, place: S3) -> None:
    """Check that an error names domain, shard and URL, and no secret."""
    text = text_of(error)
    for word in ("domain 'web'", "shard 1 of 3", f"{place.url}/shard.00001.mds"):
        assert word in text
    for secret in (servers.SECRET, servers.KEY, "Signature", "Authorization", "Debug source", "x-amz"):
        assert secret.lower() not in text.lower()
