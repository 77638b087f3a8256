"""Objects by obstore: Google Cloud Storage, Azure Blob Storage, and large reads from S3 over TLS.

obstore reads without the GIL, which is worth a factor of two where TLS is to be decrypted. What it does not do,
measured with 0.12, and what is therefore done here or left to other clients (`clients`):

- It does not check a body that is shorter or longer than its range says; a range that ends early because the object
  does; a 200 without body where an object should be (204); If-Match that a server ignores. So answers are checked
  before their body is read, and no more of a body is read than was asked for.
- It reads the body of an error to its end, whatever its length, so it is not used for servers that could be anyone's.
- It follows redirects and drops `Authorization` at another host or port, but neither a session token nor the query that
  it sends as `Referer`. So where those are secret it is locked to one host (`locked`).

It leaves a body with Content-Encoding as it is: bytes arrive as they are stored.
"""

from collections.abc import Callable, Iterator
from dataclasses import field
from pathlib import Path
from typing import Any

import obstore

from mixstream.errors import StoreAccessError, StoreError
from mixstream.records import dataclass
from mixstream.storage.store import ObjectBytes, ObjectInfo, Take, check_whole
from mixstream.storage.stores.answers import check_answer
from mixstream.storage.stores.client_errors import Operation, explain, wants_other_region
from mixstream.storage.stores.s3_objects import OtherRegionError

_CHUNK = 8 << 20  # bytes of a part of an upload
_UPLOADS = 4  # parts of one object under way at once
_NOWHERE = "http://127.0.0.1:1"


@dataclass(frozen=True, kw_only=True)
class ObstoreObjects:
    """The objects of a bucket or container.

    Args:
        pool: obstore's store, which holds the connections.
        unreadable: returns why configured credentials could not be refreshed, which obstore does not report.
    """

    pool: Any = field(repr=False)
    unreadable: Callable[[], StoreAccessError | None] = lambda: None

    def get(self, operation: Operation, path: str, *, if_match: str | None, most: int) -> ObjectBytes:
        """Return the bytes of an object that `operation` names, no more than `most` where it names no end."""
        begin, end = operation.begin, operation.end
        options: Any = {} if end is None else {"range": (begin, end)}
        if if_match is not None:
            options["if_match"] = if_match

        def get() -> ObjectBytes:
            answer = obstore.get(self.pool, path, options=options)
            info, got = _info(answer.meta), answer.range
            if end is None:
                check_whole(operation.place, info.size, most)
            size = got[1] - got[0]
            check_answer(operation, info, got, size)
            # One piece is all of the body if it has `size` bytes, and shows that it is longer if it does.
            data = next(iter(answer.stream(min_chunk_size=size + 1)), b"")
            if len(data) != size:
                check_answer(operation, info, got, len(data))
            return ObjectBytes(data=data, info=info)

        return self._ask(operation, get)

    def get_into(self, operation: Operation, path: str, take: Take, *, if_match: str | None) -> None:
        """Give the bytes that `operation` names to `take`, all at once: obstore reads them without the GIL."""
        found = self.get(operation, path, if_match=if_match, most=0)
        take(found.info)(memoryview(found.data).cast("B"), 0)

    def head(self, operation: Operation, path: str) -> ObjectInfo:
        """Return what the store says of an object."""
        return self._ask(operation, lambda: _info(obstore.head(self.pool, path)))

    def put(self, operation: Operation, path: str, data: bytes | Path) -> None:
        """Write an object, large ones in parts."""
        self._ask(operation, lambda: obstore.put(self.pool, path, data, chunk_size=_CHUNK, max_concurrency=_UPLOADS))

    def delete(self, operation: Operation, path: str) -> None:
        """Remove an object."""
        self._ask(operation, lambda: obstore.delete(self.pool, path))

    def pages(self, operation: Operation, prefix: str, limit: int | None) -> Iterator[list[str]]:
        """Yield the paths of all objects of a directory, in pages."""
        pages = iter(obstore.list(self.pool, prefix or None))
        while (page := self._ask(operation, lambda: next(pages, None))) is not None:
            yield [entry["path"] for entry in page]

    def _ask(self, operation: Operation, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except StoreError:
            raise
        except Exception as error:
            trouble = error
        if "credential provider" in str(trouble) and (failure := self.unreadable()) is not None:
            raise failure
        explained = explain(trouble, operation)
        raise (OtherRegionError(explained) if wants_other_region(trouble) else explained) from None


def locked(host: str) -> dict[str, Any]:
    """Return options with which obstore connects to one host only: all others are behind a proxy that is not there."""
    return {"proxy_url": _NOWHERE, "proxy_excludes": host}


def _info(meta: Any) -> ObjectInfo:
    """Return size and version of an object; for a server without ETags, the date is the version."""
    version, modified = meta["e_tag"], meta["last_modified"].timestamp()
    if version is None and modified != 0:
        version = f"date {meta['last_modified'].isoformat()} size {meta['size']}"
    return ObjectInfo(size=meta["size"], version=version, modified=modified or None)
