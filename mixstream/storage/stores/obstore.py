"""Object stores that obstore speaks to: S3, Google Cloud Storage, Azure Blob Storage, WebDAV and plain HTTP.

Rules: one request per call, whose answer is checked against the request: range, total size, length of the body and
version. Only errors of `mixstream.errors` are raised, without their cause, whose text may hold signed URLs. A store
that a process inherited by a fork sends its requests through `fork_proxy`.

What obstore 0.12 does not check, measured: a body that is shorter or longer than its range says; a range that ends
early because the object does; a 200 without body where an object should be (204); If-Match that a server ignores.
It checks by itself: another range than requested, no Content-Length, a connection closed in mid-body. It follows
redirects, and leaves a body with Content-Encoding as it is: bytes arrive as they are stored.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import obstore

from mixstream.cached import cached_property
from mixstream.errors import StoreError, StoreFaultError, StoreNotFoundError
from mixstream.storage.forks import must_use_proxy
from mixstream.storage.store import ObjectBytes, ObjectInfo, Store, check_version, range_end
from mixstream.storage.stores import clients
from mixstream.storage.stores.client_errors import Operation, explain, wants_other_region
from mixstream.storage.stores.fork_proxy import ProcessStore
from mixstream.storage.url import redact

P = ParamSpec("P")
T = TypeVar("T")

_CHUNK = 8 << 20  # bytes of a part of an upload; S3 takes 10,000 of them, so 80 GB
_UPLOADS = 4  # parts of one object under way at once


def _by_proxy_if_forked(method: Callable[Concatenate[ObjectStore, P], T]) -> Callable[Concatenate[ObjectStore, P], T]:
    """Let the method of `fork_proxy` do it in a forked process."""

    @wraps(method)
    def ask(self: ObjectStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if not must_use_proxy():
            return method(self, *args, **kwargs)
        proxy: Store = ProcessStore(self.location, self.timeout, ObjectStore)
        return getattr(proxy, method.__name__)(*args, **kwargs)

    return ask


@dataclass(frozen=True)
class ObjectStore:
    """A directory of an object store. See `Store`; picklable by its URL.

    Args:
        location: URL of the directory.
        timeout: seconds per request, its body included.
    """

    location: str
    timeout: float = 60.0

    def __post_init__(self) -> None:
        _ = self._address  # a URL that names no bucket is refused here, not at the first request

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.location, self.timeout)

    def __repr__(self) -> str:
        return f"ObjectStore({self.url!r})"

    @property
    def url(self) -> str:
        """The directory, without credentials."""
        return redact(self.location).rstrip("/")

    @_by_proxy_if_forked
    def read(self, name: str, begin: int = 0, end: int | None = None, *, version: str | None = None) -> ObjectBytes:
        """Return the bytes [begin, end) of an object, by default all of it."""
        if begin < 0 or (end is not None and end < begin):
            raise StoreError(f"{self.url}/{name}: no bytes lie between {begin} and {end}; pass 0 <= begin <= end")
        if begin == end or (end is None and begin > 0):  # HTTP has no empty range
            return self._read_from(name, begin, end, version)
        operation = self._operation("read", name, begin=begin, end=end, version=version)
        options: Any = {} if end is None else {"range": (begin, end)}
        if version is not None and version.startswith('"'):  # If-Match knows strong ETags only
            options["if_match"] = version

        def get(client: clients.Client) -> ObjectBytes:
            answer = obstore.get(client.pool, self._path(name), options=options)
            found, data = _info(answer.meta), answer.bytes()
            _check_answer(operation, found, answer.range, len(data))
            return ObjectBytes(data=data, info=found)

        return self._ask(operation, get)

    @_by_proxy_if_forked
    def info(self, name: str) -> ObjectInfo:
        """Return the size and the version of an object."""
        operation = self._operation("look at", name)
        return self._ask(operation, lambda client: _info(obstore.head(client.pool, self._path(name))))

    @_by_proxy_if_forked
    def write(self, name: str, data: bytes | Path) -> None:
        """Write an object, from memory or from a file, whole or not at all; large ones in parts."""
        if isinstance(data, Path):
            data.stat()  # an error with the file is an OSError, not a StoreError
        operation = self._operation("write", name)

        def put(client: clients.Client) -> None:
            acl = os.environ.get("S3_CANNED_ACL")
            if acl and client.bucket is not None:
                client.bucket.put_with_acl(self._path(name), data, acl, operation)
                return
            parts: dict[str, Any] = {"chunk_size": _CHUNK, "max_concurrency": _UPLOADS}
            if client.kind == "http":  # has no multipart uploads
                parts = {"use_multipart": False}
            obstore.put(client.pool, self._path(name), data, **parts)

        self._ask(operation, put)

    @_by_proxy_if_forked
    def names(self, *, limit: int | None = None) -> list[str]:
        """Return the names of all objects below the directory, sorted; with `limit`, of no more than that many."""
        prefix = self._address.prefix

        def collect(client: clients.Client) -> list[str]:
            names: list[str] = []
            for page in obstore.list(client.pool, prefix or None):
                names += [entry["path"][len(prefix) + 1 if prefix else 0 :] for entry in page]
                if limit is not None and len(names) >= limit:
                    break
            return sorted(names)[:limit]

        return self._ask(self._operation("list", ""), collect)

    @_by_proxy_if_forked
    def remove(self, name: str) -> None:
        """Remove an object; it is no error if there is none."""
        operation = self._operation("remove", name)
        try:
            self._ask(operation, lambda client: obstore.delete(client.pool, self._path(name)))
        except StoreNotFoundError as error:
            if "no such object" not in str(error):
                raise

    @_by_proxy_if_forked
    def renew(self) -> None:
        """Forget the client and the credentials: the next request reads them again."""
        clients.drop(self._address, self.timeout)

    def clock(self) -> float | None:
        """Return the store's time in seconds since 1970, from the Date of any answer; None if there is none."""
        request = Request(clients.endpoint_of(self._address, self.timeout), method="HEAD")  # noqa: S310 - http(s)
        try:
            with urlopen(request, timeout=min(self.timeout, 10.0)) as answer:  # noqa: S310
                headers = answer.headers
        except HTTPError as refused:  # tells the time as well
            headers = refused.headers
        except (OSError, ValueError):
            return None
        try:
            return parsedate_to_datetime(headers.get("Date", "")).timestamp()
        except ValueError:
            return None

    @cached_property
    def _address(self) -> clients.Address:
        return clients.address_of(self.location)

    def _path(self, name: str) -> str:
        return f"{self._address.prefix}/{name}" if self._address.prefix else name

    def _operation(self, act: str, name: str, **what: Any) -> Operation:
        return Operation(act=act, place=f"{self.url}/{name}" if name else self.url, **what)

    def _read_from(self, name: str, begin: int, end: int | None, version: str | None) -> ObjectBytes:
        """Read [begin, end of the object), or nothing at all: both need its size, hence one more request."""
        info = self.info(name)
        check_version(f"{self.url}/{name}", info.version, version)
        range_end(f"{self.url}/{name}", begin, None, info.size)
        if begin in (end, info.size):
            return ObjectBytes(data=b"", info=info)
        return self.read(name, begin, info.size, version=version or info.version)

    def _ask(self, operation: Operation, act: Callable[[clients.Client], T]) -> T:
        """Return what `act` returns; make the request again if only the region was wrong."""
        moved = False
        while True:
            client = clients.client_of(self._address, self.timeout)
            try:
                return act(client)
            except StoreError:
                raise
            except Exception as error:
                trouble = error
            moved = not moved and wants_other_region(trouble) and clients.move(self._address, self.timeout, client)
            if not moved:
                raise _explain(trouble, operation, client) from None


def _explain(error: Exception, operation: Operation, client: clients.Client) -> StoreError:
    if "credential provider" in str(error) and (failure := client.unreadable()) is not None:
        return failure
    return explain(error, replace(operation, signed=client.signed, access=client.access))


def _info(meta: Any) -> ObjectInfo:
    """Return size and version of an object; for a server without ETags, the date is the version."""
    version, modified = meta["e_tag"], meta["last_modified"].timestamp()
    if version is None and modified != 0:
        version = f"date {meta['last_modified'].isoformat()} size {meta['size']}"
    return ObjectInfo(size=meta["size"], version=version, modified=modified or None)


def _check_answer(operation: Operation, info: ObjectInfo, got: tuple[int, int], length: int) -> None:
    """Check an answer against the request."""
    begin, end = operation.begin, info.size if operation.end is None else operation.end
    if info.size == 0 and info.version is None and length == 0:
        raise StoreFaultError(
            f"{operation.place}: the answer is empty and describes no object (no ETag, no date): it is not from a store"
        )
    range_end(operation.place, begin, end, info.size)
    if got != (begin, end):
        raise StoreFaultError(f"{operation.place}: bytes {begin} to {end} requested, {got[0]} to {got[1]} received")
    if length != end - begin:
        raise StoreFaultError(
            f"{operation.place}: bytes {begin} to {end} requested, that is {end - begin}, and a body of {length} "
            "received; a proxy or cache between here and the store may alter it"
        )
    check_version(operation.place, info.version, operation.version)
