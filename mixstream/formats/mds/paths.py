"""The paths in an index: which are valid, and which are equal on some file system.

Rules: a path is untrusted. A valid path stays below its directory, is no name that a cache or a writer uses for its own
files, and can be created on every file system. No file is accessed. Functions raise plain `ValueError` with the fact;
`index.py` turns it into `IndexCorruptError`.
"""

import re
from collections.abc import Iterable
from unicodedata import normalize

from mixstream.lazy import pattern

# One or more names between slashes, none empty, "." or "..", without backslash, colon, control character or line
# break: a path that stays below its directory on every system.
_NAME = r"(?!\.{1,2}(?:/|\Z))[^\x00-\x1f\x7f-\x9f\u2028\u2029\\/:]+"
_BASENAME = pattern(f"{_NAME}(?:/{_NAME})*")
# Files that a cache keeps beside the shards (`mixstream.storage`), and temporary files of writers, in any directory.
_TAKEN = pattern(r"(?:.*/)?(?:\.mixstream-.*|\.[^/]*\.partial(?:/.*)?|[^/]*\.tmp|index\.json)", re.DOTALL)
_PLAIN = pattern(r"(?:[A-Za-z0-9_][\w.-]*/)*[A-Za-z0-9_][\w.-]*", re.ASCII)  # valid, unless it ends as one of these
_MAX_BASENAME = 1024  # bytes, the longest key of S3
_MAX_NAME = 240  # bytes between slashes: file systems allow 255, and a cache adds up to 15 to a name


class Paths:
    """The paths of a dataset, checked one by one and then against each other."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}  # folded -> as in the index
        self._directories: set[str] = set()

    def add(self, path: str) -> None:
        """Check that a path is valid and that no other file has it; ValueError if not."""
        check_path(path)
        folded = _folded(path)
        if (other := self._files.get(folded)) is not None:
            twin = "" if other == path else f" (as {other[:80]!r}, which is the same on some systems)"
            raise ValueError(f"has basename {path!r}, which another file of this dataset has{twin}")
        self._files[folded] = path
        parent = folded.rpartition("/")[0]
        while parent and parent not in self._directories:
            self._directories.add(parent)
            parent = parent.rpartition("/")[0]

    def both(self) -> Iterable[str]:
        """Return the paths that are files and directories at once."""
        return sorted(self._files[path] for path in self._directories & self._files.keys())


def check_path(path: str) -> None:
    """Check that a path is valid; ValueError if not."""
    if len(path) <= _MAX_NAME and _PLAIN.fullmatch(path) and not path.lower().endswith((".tmp", "index.json")):
        return  # nearly all: one look, since there may be millions
    size = len(path.encode())
    if not _BASENAME.fullmatch(path) or size > _MAX_BASENAME:
        raise ValueError(
            f"has basename {path[:80]!r}; a basename is a relative path of at most {_MAX_BASENAME} "
            "bytes without '..', backslash, colon or control characters"
        )
    if size > _MAX_NAME and (longest := max(len(part.encode()) for part in path.split("/"))) > _MAX_NAME:
        raise ValueError(f"has basename {path[:80]!r}…, with a name of {longest} bytes; {_MAX_NAME} is the most")
    if _TAKEN.fullmatch(_folded(path)):
        raise ValueError(
            f"has basename {path[:80]!r}; index.json, *.tmp, .mixstream-* and .*.partial are reserved names"
        )


def _folded(path: str) -> str:
    """Return a key that is equal for paths that are equal on a file system that ignores case or normalises names."""
    return path.lower() if path.isascii() else normalize("NFC", normalize("NFD", path).casefold())
