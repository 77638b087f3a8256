"""URLs and paths as text: parsed, joined, and refused where they are neither.

Nothing here opens anything; what looks like a credential is looked for in the current directory: it may be a name.
Texts for users contain no credentials (`redact`).
"""

import os
import re
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit

from mixstream.argument_kinds import is_path
from mixstream.arguments import shown
from mixstream.errors import ConfigError
from mixstream.lazy import pattern
from mixstream.storage.redaction import NETWORK, is_plain, redact

OBJECT_SCHEMES = frozenset({"s3", "gs", "gcs", "az", "azure", "azure-dl", "abfs", "abfss", "http", "https"})

_LONGEST_NAME, _LONGEST_PATH = 255, 4095  # bytes: the limits of Linux and macOS, or above them
_SHOWN = 120  # characters of a long path in an error

# What was meant to be a URL: a scheme with one slash, a backslash or, if it is a network's, none; or a user without it.
_SLIP = pattern(
    rf"[A-Za-z][A-Za-z0-9+.-]+:(?:/(?!/)|\\|:)|(?:{NETWORK}):(?!//)|//[^/\s:]*(?::|%3a)[^/]{{0,200}}(?:@|%(?:25)*40)",
    re.IGNORECASE,
)
# What is a path, whatever comes next: a slash, a dot or ~, or a name of letters and digits before a single slash.
_PATH = pattern(r"[/.~]|[\w +-][\w .+-]*/(?!/|.*//)")


def scheme_of(url: str) -> str:
    """Return the scheme of a URL in lower case; empty for a path."""
    scheme, found, _ = url.partition("://")
    return scheme.lower() if found and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme) else ""


def split_url(url: str, name: str = "") -> SplitResult:
    """Return the parts of a URL.

    Raises:
        ConfigError: it has characters in it that clients leave out, or a host that none can be.
    """
    try:
        if not re.search(r"[\x00-\x1f\x7f]", url):
            return urlsplit(url)
    except ValueError:  # whose words have what stands before the host in them
        shown = f"{name}={redact(url)!r}" if name else repr(redact(url))
        raise ConfigError(f"{shown} has brackets around what is no IPv6 address; write the host without") from None
    shown = f"{name} is a URL" if name else f"a URL of {scheme_of(url)}://"
    raise ConfigError(f"{shown} with a line break, a tab or the like in it, which no URL has; remove it")


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
        refuse_slip(url)
        return Path(url)
    parts = split_url(url)
    if scheme != "file":
        raise ConfigError(
            f"{redact(url)!r} is not on local disk, which is needed here: "
            "pass a path, a file:// URL, or nothing if it may be left out"
        )
    if parts.netloc not in ("", "localhost"):
        place = redact(url)[len("file://") :]
        host = place.partition("/")[0]
        raise ConfigError(
            f"{redact(url)!r} names the host {host!r}, and file:// reaches this machine's disk only: "
            f"write file:///{place} if {host!r} is a directory"
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
        ConfigError: it is empty, no text, or no path that any disk has.
    """
    text = os.fspath(place) if isinstance(place, str) or is_path(place) else None
    if not isinstance(text, str):
        raise ConfigError(f"{name}={redact(shown(place))} is neither a path nor a URL; give a str or a pathlib.Path")
    if not text.strip():
        raise ConfigError(
            f"{name}={text!r} is empty, which would be the directory that the process happens to be in: give a "
            f"directory ('.' for that one), or leave {name} out"
        )
    check_path(text, name)
    if scheme_of(text):
        return text
    refuse_slip(text, name)
    return check_path(os.path.abspath(os.path.expanduser(text)), name)  # noqa: PTH100, PTH111 - `..` of what need not be


def check_path(text: str, name: str) -> str:
    """Return a path or URL; refuse one that no disk can have, before anything is asked of a disk.

    Args:
        text: it.
        name: of the argument, for errors.

    Raises:
        ConfigError: it has a NUL or half a surrogate pair in it, or, as a path, a name that is too long.
    """
    shown = redact(text)
    shown = f"{name}={shown if len(shown) <= _SHOWN else f'{shown[:_SHOWN]}…'!r}"
    if "\0" in text:
        raise ConfigError(f"{shown} has a NUL character in it, which no path has; remove it")
    try:
        size = len(os.fsencode(text))
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{shown} has {text[error.start]!r} in it, which is half a character and no part of a name on disk; write "
            "the path again"
        ) from error
    if scheme_of(text):
        split_url(text, name)
    elif size > _LONGEST_NAME:
        longest = max(len(os.fsencode(part)) for part in text.split("/"))
        if longest > _LONGEST_NAME or size > _LONGEST_PATH:
            raise ConfigError(
                f"{shown} is too long for a path: {size} bytes, of which one name takes {longest}; disks allow "
                f"{_LONGEST_NAME} for a name and {_LONGEST_PATH} in all: give a shorter one"
            )
    return text


def check_utf8(text: str, name: str) -> str:
    """Return a text that keys and states are made of; raise ConfigError if it has bytes that are no characters."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{name}={redact(text)!r} has {text[error.start]!r} in it, which is no character of UTF-8, and a dataset's "
            "place and name are written down as such; rename it, or read it through a symbolic link of another name"
        ) from error
    return text


def refuse_slip(url: str, name: str = "") -> None:
    """Raise ConfigError if a text is neither a path nor a URL but was meant to be a URL.

    Args:
        url: that a user gave.
        name: of the argument.
    """
    bare = url.strip()
    blank = bare != url and bool(scheme_of(bare))
    if not blank and (is_plain(bare) or not _SLIP.match(bare)):
        _refuse_credentials(bare, name)
        return
    shown = f"{name}={redact(url)!r}" if name else repr(redact(url))
    if blank:
        raise ConfigError(
            f"{shown} begins or ends with a blank, so it is neither a path nor a URL; leave the blank out"
        )
    if "::" in bare.partition("/")[0]:
        raise ConfigError(
            f"{shown} is a chain of URLs, which is not supported; did you mean {redact(bare.split('::')[-1])} ?"
        )
    scheme, _, rest = ("https", "", bare) if bare.startswith("//") else bare.partition(":")
    meant = redact(f"{scheme}://{rest.replace(chr(92), '/').lstrip('/')}")
    raise ConfigError(f"{shown} is neither a path nor a URL; did you mean {meant} ?")


def _refuse_credentials(path: str, name: str) -> None:
    """Raise ConfigError if a path, which errors show, holds what may be a password, and does not begin as a path.

    What begins with a name that is there is a path, such as that of a run that goes on.
    """
    if _PATH.match(path) or (shown := redact(path)) == path or os.path.lexists(path.partition("/")[0]):
        return
    raise ConfigError(
        f"{f'{name}=' if name else ''}{shown!r} has what looks like a credential in it, and is no URL: write a URL as "
        "SCHEME://HOST/PATH, a path that is called so with ./ before it"
    )


def join(url: str, *parts: str) -> str:
    """Return the URL (or path) of `parts` below the directory `url`; a query string stays at the end."""
    below = [part.strip("/") for part in parts if part.strip("/")]
    query = ""
    if (scheme := scheme_of(url)) in ("http", "https", "file"):  # these are percent-encoded, and may have a query
        split = split_url(url)
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
        split = split_url(url)
        url, query = split._replace(query="", fragment="").geturl(), f"?{split.query}" if split.query else ""
    above, _, name = url.rstrip("/").rpartition("/")
    if not above or above.endswith((":", ":/")):  # there is nothing above: `name` is the host, or the root's
        above, name = (url.rstrip("/"), "") if scheme else (url[: len(url) - len(name)] or ".", name)
    return above + query, unquote(name) if scheme in ("http", "https", "file") else name
