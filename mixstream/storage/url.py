"""URLs and paths as text: parsed, joined, and stripped of credentials.

Nothing here opens anything. Texts for users contain no credentials (`redact`).
"""

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from mixstream.errors import ConfigError

OBJECT_SCHEMES = frozenset({"s3", "gs", "gcs", "az", "azure", "azure-dl", "abfs", "abfss", "http", "https"})

_HOST = re.compile(r"[^:\[\]]*(:\d*)?|\[[^\[\]]*\](:\d*)?")
# In these, the part before the @ is a container, not a user.
_CONTAINER_SCHEMES = ("az", "azure", "azure-dl", "abfs", "abfss", "wasb", "wasbs")
_URL = re.compile(
    r"""(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<host>[^\s"'<>`/?#]*)(?P<path>[^\s"'<>`?#]*)[^\s"'<>`]*"""
)


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
            f"{redact(url)!r} is not on local disk, which is needed here: "
            "pass a path, a file:// URL, or nothing if it may be left out"
        )
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise ConfigError(
            f"{redact(url)!r} names the host {parts.netloc!r}, and file:// reaches this machine's disk only: "
            f"write file:///{parts.netloc}{parts.path} if {parts.netloc!r} is a directory"
        )
    return Path(unquote(parts.path))


def absolute(place: str | os.PathLike[str], name: str) -> str:
    """Return a place as a user gave it, so that it stays the same when the process changes its directory.

    A path becomes absolute, with `~` expanded; a URL is returned as it is.

    >>> absolute("s3://corpus/web", "remote"), absolute("/data/../corpus/web/", "remote")
    ('s3://corpus/web', '/corpus/web')

    Args:
        place: a path or a URL.
        name: of the argument, for errors.

    Raises:
        ConfigError: it is empty, or no text.
    """
    text = os.fspath(place) if isinstance(place, str | os.PathLike) else None
    if not isinstance(text, str):
        raise ConfigError(f"{name}={place!r} is neither a path nor a URL; give a str or a pathlib.Path")
    if not text.strip():
        raise ConfigError(
            f"{name}={text!r} is empty, which would be the directory that the process happens to be in: give a "
            f"directory ('.' for that one), or leave {name} out"
        )
    if scheme_of(text) or re.match(r"[a-z][a-z0-9+.-]+:/(?!/)", text):  # the second is a slip that is refused later
        return text
    return os.path.abspath(os.path.expanduser(text))  # noqa: PTH100, PTH111 - `..` of a path that need not exist


def redact(text: str) -> str:
    """Return `text` without user info, query and fragment of the URLs in it, which may hold credentials."""
    return _URL.sub(_bare, text)


def _bare(found: re.Match[str]) -> str:
    scheme, host, path = found["scheme"], found["host"], found["path"]
    if "@" in host and (scheme.lower() not in _CONTAINER_SCHEMES or ":" in host.rpartition("@")[0]):
        host = host.rpartition("@")[2]
    if not _HOST.fullmatch(host):  # a password with a slash, a question mark or a hash in it, so it ends later
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


def split_name(url: str) -> tuple[str, str]:
    """Return the directory above a path or a URL, and the last part of it; a query string stays with the directory.

    >>> split_name("s3://bucket/web/part-0.bin"), split_name("/data/web.idx"), split_name("https://host/a/b.bin?key=1")
    (('s3://bucket/web', 'part-0.bin'), ('/data', 'web.idx'), ('https://host/a?key=1', 'b.bin'))
    """
    query = ""
    if (scheme := scheme_of(url)) in ("http", "https", "file"):
        split = urlsplit(url)
        url, query = split._replace(query="", fragment="").geturl(), f"?{split.query}" if split.query else ""
    above, _, name = url.rstrip("/").rpartition("/")
    if not above or above.endswith((":", ":/")):  # there is nothing above: `name` is the host, or the root's
        above, name = (url.rstrip("/"), "") if scheme else (url[: len(url) - len(name)] or ".", name)
    return above + query, unquote(name) if scheme in ("http", "https", "file") else name
