"""What a store is: one directory of an object store, or of a disk, whose objects are read and written by name.

What lives here: the protocol, the records that it speaks in, and how a URL becomes a store. Rules: a method makes one
attempt and raises an error of `mixstream.errors` (trying again is the caller's); nothing that a server says about a
status, a range or a length is believed unchecked; what people get to read carries no credentials. Nothing heavy is
imported before a URL asks for it: obstore, boto3 and fsspec cost time, and obstore may not be used in a forked child
whose parent used it (DESIGN.md section 5, Fork), so there `elsewhere` does its work.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, unquote, urlsplit

from mixstream.errors import ConfigError
from mixstream.storage.forks import must_go_elsewhere, unforked

if TYPE_CHECKING:
    from typing_extensions import Buffer  # collections.abc has it from Python 3.12 on

OBJECT_SCHEMES = frozenset({"s3", "gs", "gcs", "az", "azure", "azure-dl", "abfs", "abfss", "http", "https"})

_HOST = re.compile(r"[^:\[\]]*(:\d*)?|\[[^\[\]]*\](:\d*)?")
# In these, what stands before the @ is a container, not a user.
_CONTAINER_SCHEMES = ("az", "azure", "azure-dl", "abfs", "abfss", "wasb", "wasbs")
_URL = re.compile(
    r"""(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<host>[^\s"'<>`/?#]*)(?P<path>[^\s"'<>`?#]*)[^\s"'<>`]*"""
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """What a store says of an object.

    Args:
        size: bytes.
        version: ETag or the like, another one whenever the object is; None where the store has none.
    """

    size: int
    version: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Bytes of an object.

    Args:
        data: exactly as many bytes as were asked for.
        info: of the whole object.
    """

    data: Buffer
    info: ObjectInfo


class Store(Protocol):
    """One directory of objects. Picklable, cheap to make, safe to use from any thread and in any process.

    Every method makes one attempt. A name is relative, with `/`.

    Raises, all of them:
        StoreNotFoundError: no such object, bucket or directory.
        StoreAccessError: no credentials, expired ones, or not enough rights.
        StoreBusyError: asked to slow down.
        StoreFaultError: refused, reset, stalled, or not what was asked for.
        StoreError: anything else, which trying again would not mend.
    """

    @property
    def url(self) -> str:
        """The directory as people may see it: without credentials."""
        ...

    def read(self, name: str, begin: int = 0, end: int | None = None, *, version: str | None = None) -> Piece:
        """Return the bytes [begin, end) of an object, by default all of it.

        Raises:
            StoreChangedError: the object's version is not `version`.
            StoreFaultError: the object ends before `end`, or the answer is not what was asked for.
            NoRangesError: only all of it can be had, by `read(name)`.
        """
        ...

    def info(self, name: str) -> ObjectInfo:
        """Return the size and the version of an object."""
        ...

    def write(self, name: str, data: bytes | Path) -> None:
        """Write an object, from memory or from a file, whole or not at all; what has its name is replaced.

        Raises:
            OSError: the file to be written cannot be read; that is no StoreError.
        """
        ...

    def names(self, *, limit: int | None = None) -> list[str]:
        """Return the names of all objects below the directory, sorted; with `limit`, of no more than that many."""
        ...

    def remove(self, name: str) -> None:
        """Remove an object; none of that name is no error."""
        ...

    def renew(self) -> None:
        """Forget clients and credentials: the next request reads them anew."""
        ...


def open_store(url: str, *, timeout: float = 60.0) -> Store:
    """Return the store of a URL or of a local path; no request is made.

    Args:
        url: `s3://`, `gs://`, `az://` (`azure://`, `abfs://`), `http(s)://`, `file://`, a path, or another URL that
            fsspec knows.
        timeout: seconds per request, its body included.

    Raises:
        ConfigError: the URL names no bucket, or no installed package knows its scheme.
    """
    with unforked():  # a child that is forked in mid-import can never import the same
        return _open(url, timeout)


def _open(url: str, timeout: float) -> Store:
    if is_local(url):
        from mixstream.storage.local_store import LocalStore

        return LocalStore(local_path(url))
    if scheme_of(url) in OBJECT_SCHEMES:
        from mixstream.storage.elsewhere import ProcessStore

        if must_go_elsewhere():
            return ProcessStore(url, timeout)
        import obstore  # noqa: F401 - now, not at the first request: children forked from here on know by it

        from mixstream.storage.object_store import ObjectStore

        return ObjectStore(url, timeout)
    from mixstream.storage.fsspec_store import FsspecStore

    return FsspecStore(url, timeout)


def scheme_of(url: str) -> str:
    """Return the scheme of a URL in lower case; empty for a path."""
    scheme, found, _ = url.partition("://")
    return scheme.lower() if found and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme) else ""


def is_local(url: str) -> bool:
    """Return whether `url` names a place on local disk: a path or a file:// URL."""
    return scheme_of(url) in ("", "file")


def local_path(url: str) -> Path:
    """Return the local path that `url` (a path or a file:// URL) names.

    Raises:
        ConfigError: it names another kind of storage.
    """
    scheme = scheme_of(url)
    if not scheme:
        if slip := re.match(r"([a-z][a-z0-9+.-]+):/(?!/)", url):
            rest = redact(url[slip.end() :])
            raise ConfigError(f"{slip[0] + rest!r} is neither a path nor a URL; did you mean {slip[1]}://{rest} ?")
        return Path(url)
    if scheme != "file":
        raise ConfigError(
            f"{redact(url)!r} is no place on local disk, which is needed here: "
            "pass a path, a file:// URL, or nothing if it may be left out"
        )
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise ConfigError(
            f"{redact(url)!r} names the host {parts.netloc!r}, and file:// reaches this machine's disk only: "
            f"write file:///{parts.netloc}{parts.path} if {parts.netloc!r} is a directory"
        )
    return Path(unquote(parts.path))


def redact(text: str) -> str:
    """Return `text` without user info, query and fragment of the URLs in it: that is where credentials stand."""
    return _URL.sub(_bare, text)


def _bare(found: re.Match[str]) -> str:
    scheme, host, path = found["scheme"], found["host"], found["path"]
    if "@" in host and (scheme.lower() not in _CONTAINER_SCHEMES or ":" in host.rpartition("@")[0]):
        host = host.rpartition("@")[2]
    if not _HOST.fullmatch(host):  # a password with a slash, a question mark or a hash in it, so it ends further on
        before, cut, after = path.rpartition("@")
        host, path = ("", after) if cut and before else ("***", "")
    return f"{scheme}://{host}{path}"


def join(url: str, *parts: str) -> str:
    """Return the URL (or path) of `parts` below the directory `url`; a query string stays at the end."""
    below = [part.strip("/") for part in parts if part.strip("/")]
    query = ""
    if (scheme := scheme_of(url)) in ("http", "https", "file"):  # these are percent-encoded, and may have a query
        split = urlsplit(url)
        url, query = split._replace(query="", fragment="").geturl(), f"?{split.query}" if split.query else ""
        below = [quote(part) for part in below]
    if not below:
        return url + query
    if not scheme and not url.strip("/"):
        return url + "/".join(below)
    return url.rstrip("/") + "/" + "/".join(below) + query
