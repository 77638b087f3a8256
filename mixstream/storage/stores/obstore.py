"""Object stores: S3, Google Cloud Storage, Azure Blob Storage, WebDAV and plain HTTP.

Rules: one request per call, whose answer is checked against the request: range, total size, length of the body and
version. Only errors of `mixstream.errors` are raised, without their cause, whose text may hold signed URLs. A store
that a process inherited by a fork sends its requests through `fork_proxy`. Which client makes a request is up to
`clients`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from mixstream.cached import cached_property
from mixstream.errors import StoreError, StoreFaultError, StoreNotFoundError
from mixstream.records import dataclass
from mixstream.storage.forks import must_use_proxy
from mixstream.storage.redaction import place_of, redact
from mixstream.storage.store import WHOLE, ObjectBytes, ObjectInfo, Store, Take, check_version, check_whole, range_end
from mixstream.storage.stores import clients
from mixstream.storage.stores.client_errors import Operation
from mixstream.storage.stores.fork_proxy import ProcessStore
from mixstream.storage.stores.s3_objects import OtherRegionError

P = ParamSpec("P")
T = TypeVar("T")

_MOST_NAMES = 10_000_000  # of one listing; they take a gigabyte


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
        return f"ObjectStore({redact(self.url)!r})"

    @property
    def url(self) -> str:
        """The directory, without credentials."""
        return place_of(self.location).rstrip("/")

    @_by_proxy_if_forked
    def read(self, name: str, begin: int = 0, end: int | None = None, *, version: str | None = None) -> ObjectBytes:
        """Return the bytes [begin, end) of an object, by default all of it."""
        return self._read(name, begin, end, version, WHOLE)

    @_by_proxy_if_forked
    def read_at_most(self, name: str, most: int, *, version: str | None = None) -> ObjectBytes:
        """Return an object of at most `most` bytes."""
        return self._read(name, 0, None, version, most)

    def read_into(self, name: str, begin: int, end: int, take: Take, *, version: str | None = None) -> None:
        """Give the bytes [begin, end) of an object to `take`, as they arrive where the client does that."""
        if must_use_proxy() or not 0 <= begin < end:
            found = self.read(name, begin, end, version=version)
            take(found.info)(memoryview(found.data).cast("B"), 0)
            return
        operation = self._operation("read", name, begin=begin, end=end, version=version)

        def get(client: clients.Client, operation: Operation) -> None:
            client.reads(end - begin).get_into(operation, self._path(name), take, if_match=_strong(version))

        self._ask(operation, get)

    def _read(self, name: str, begin: int, end: int | None, version: str | None, most: int) -> ObjectBytes:
        if begin < 0 or (end is not None and end < begin):
            raise StoreError(f"{self.url}/{name}: no bytes lie between {begin} and {end}; pass 0 <= begin <= end")
        if begin == end or (end is None and begin > 0):  # HTTP has no empty range
            return self._read_from(name, begin, end, version, most)
        operation = self._operation("read", name, begin=begin, end=end, version=version)

        def get(client: clients.Client, operation: Operation) -> ObjectBytes:
            pool = client.reads(end - begin if end is not None else 0)
            return pool.get(operation, self._path(name), if_match=_strong(version), most=most)

        return self._ask(operation, get)

    @_by_proxy_if_forked
    def info(self, name: str) -> ObjectInfo:
        """Return the size and the version of an object."""
        operation = self._operation("look at", name)
        return self._ask(operation, lambda client, operation: client.pool.head(operation, self._path(name)))

    @_by_proxy_if_forked
    def write(self, name: str, data: bytes | Path) -> None:
        """Write an object, from memory or from a file, whole or not at all; large ones in parts."""
        if isinstance(data, Path):
            data.stat()  # an error with the file is an OSError, not a StoreError
        operation = self._operation("write", name)
        self._ask(operation, lambda client, operation: client.pool.put(operation, self._path(name), data))

    @_by_proxy_if_forked
    def names(self, *, limit: int | None = None) -> list[str]:
        """Return the names of all objects below the directory, sorted; with `limit`, of no more than that many."""
        prefix = self._address.prefix

        def collect(client: clients.Client, operation: Operation) -> list[str]:
            names, firsts = [], set[int]()
            for page in client.pool.pages(operation, prefix, limit):
                if (page and hash(page[0]) in firsts) or len(names) > _MOST_NAMES:
                    raise StoreFaultError(f"{operation.place}: its listing does not end: {len(names)} names so far")
                firsts |= {hash(page[0])} if page else set()
                names += [path[len(prefix) + 1 if prefix else 0 :] for path in page]
                if limit is not None and len(names) >= limit:
                    break
            return sorted(names)[:limit]

        return self._ask(self._operation("list", ""), collect)

    @_by_proxy_if_forked
    def remove(self, name: str) -> None:
        """Remove an object; it is no error if there is none."""
        operation = self._operation("remove", name)
        try:
            self._ask(operation, lambda client, operation: client.pool.delete(operation, self._path(name)))
        except StoreNotFoundError as error:
            if "no such object" not in str(error):
                raise

    @_by_proxy_if_forked
    def renew(self) -> None:
        """Forget the client and the credentials: the next request reads them again."""
        clients.drop(self._address, self.timeout)

    def clock(self) -> float | None:
        """Return the store's time in seconds since 1970, from the Date of any answer; None if there is none."""
        operation = self._operation("look at", "")
        try:
            return clients.date_of(self._address, self.timeout, operation)
        except StoreError:
            return None

    @cached_property
    def _address(self) -> clients.Address:
        return clients.address_of(self.location)

    def _path(self, name: str) -> str:
        if not {".", ".."}.isdisjoint(name.split("/")):
            raise StoreError(f"{name!r} is not a valid name for an object below {self.url}: names are without '..'")
        return f"{self._address.prefix}/{name}" if self._address.prefix else name

    def _operation(self, act: str, name: str, **what: Any) -> Operation:
        return Operation(act=act, place=f"{self.url}/{name}" if name else self.url, **what)

    def _read_from(self, name: str, begin: int, end: int | None, version: str | None, most: int) -> ObjectBytes:
        """Read [begin, end of the object), or nothing at all: both need its size, hence one more request."""
        info = self.info(name)
        check_version(f"{self.url}/{name}", info.version, version)
        range_end(f"{self.url}/{name}", begin, None, info.size)
        if begin in (end, info.size):
            return ObjectBytes(data=b"", info=info)
        check_whole(f"{self.url}/{name}", info.size - begin, most)
        return self._read(name, begin, info.size, version or info.version, most)

    def _ask(self, operation: Operation, act: Callable[[clients.Client, Operation], T]) -> T:
        """Return what `act` returns; make the request again if only the region was wrong."""
        moved = False
        while True:
            client = clients.client_of(self._address, self.timeout)
            meant = replace(operation, signed=client.signed, access=client.access)
            try:
                return act(client, meant)
            except OtherRegionError as error:
                trouble = error.refusal
            moved = not moved and clients.move(self._address, self.timeout, client)
            if not moved:
                raise trouble from None


def _strong(version: str | None) -> str | None:
    """Return a version that If-Match knows, a strong ETag; None for another."""
    return version if version is not None and version.startswith('"') else None
