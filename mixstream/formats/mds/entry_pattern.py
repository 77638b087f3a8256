"""Entries of an index that differ only in names, sizes, samples and hashes, found by one regular expression.

A writer writes the same text for every shard, but for a few values. The pattern of an entry is its text, with a group
in the place of each of these values, so each match is JSON that means the same but for them: what was checked of one
entry holds for all that match, and the values of a megabyte of entries are found by one call. Rules: a group matches
only what is valid there as it stands (`_NAME`: paths that `paths.check_path` accepts but for their ends and lengths).
What the pattern of no entry can be made of is left to the decoder of JSON: escapes, text that is not ASCII, keys that
an object has twice.
"""

import re
from functools import cached_property
from typing import Self

from mixstream.records import dataclass

_TOKEN = re.compile(rb'[ \t\r\n]*("[ !#-\[\]-~]*"|-?(?:0|[1-9][0-9]*)(?![0-9.eE])|null|true|false|[{}\[\]:,])')
# Names between slashes, of printable ASCII without quotes, backslash and colon, that do not begin with a dot.
_NAME = rb"((?:(?!\.)[ !#-&(-.0-9;-\[\]-~]+/)*(?!\.)[ !#-&(-.0-9;-\[\]-~]+)"
_HASH = rb"([0-9A-Za-z+/=_-]+)"
_SIZE = rb"(0|[1-9][0-9]{0,14})"
_LONGEST = 1 << 16  # bytes of an entry
_FILES = ("raw_data", "zip_data")

Path = tuple[bytes, ...]


class IncompleteError(Exception):
    """The text ends within the entry."""


class UnusualError(Exception):
    """The entry is not valid, or not written as writers write it."""


@dataclass(frozen=True)
class EntryPattern:
    """The pattern of an entry.

    >>> entry = b'{"raw_data": {"basename": "a.mds", "bytes": 20, "hashes": {}}, "samples": 1, "version": 2}'
    >>> pattern = EntryPattern.of(entry + b", ")
    >>> pattern.fields
    (('raw_data', 'basename'), ('raw_data', 'bytes'), ('samples',))
    >>> pattern.find(entry + b", " + entry.replace(b"20", b"64") + b", {no entry")
    ([[b'a.mds', b'a.mds'], [b'20', b'64'], [b'1', b'1']], b'{no entry')

    Attributes:
        text: the entry that it was made of.
        source: the expression that an entry matches.
        fields: where each group's value stands in the entry, in the order of the groups.
    """

    text: bytes
    source: bytes
    fields: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, text: bytes) -> Self:
        """Return the pattern of the entry that `text` begins with.

        Raises:
            IncompleteError: the text ends before the entry does.
            UnusualError: there is no pattern of this entry.
        """
        walk = _Walk(text)
        if not text.startswith(b"{"):
            raise UnusualError if text else IncompleteError
        walk.value(())
        return cls(text[: walk.at], b"".join(walk.source), tuple(walk.fields))

    def find(self, text: bytes) -> tuple[list[list[bytes]], bytes]:
        """Return the values of the entries that `text` begins with, each followed by a comma, and what is behind them.

        There is a list for each of the fields, with the value of each entry.
        """
        # As the expression matches any text, the parts are: nothing, the groups of a match, nothing, those of the next.
        parts, step = self._regex.split(text), len(self.fields) + 2
        rest: bytes | None = parts[-2] if len(parts) > 1 else None
        end = len(parts) - (1 if rest is None else step)
        return [parts[i:end:step] for i in range(1, step - 1)], rest or b""

    @cached_property
    def _regex(self) -> re.Pattern[bytes]:
        """Finds entries one behind the other; the last group has all from where there is none."""
        return re.compile(self.source + rb"[ \t\r\n]*,[ \t\r\n]*|(.+)", re.DOTALL)


class _Walk:
    """Reads one value of JSON, and writes the pattern of it."""

    def __init__(self, text: bytes) -> None:
        self.text, self.at = text, 0
        self.source: list[bytes] = []
        self.fields: list[tuple[str, ...]] = []

    def value(self, path: Path) -> None:
        """Read the value at `path`."""
        token = self._token()
        if token == b"{":
            self._object(path)
        elif token == b"[":
            self._array(path)
        elif token in (b"}", b"]", b":", b","):
            raise UnusualError
        elif (group := _group(path, token)) is not None:
            self.source[-1] = self.source[-1][: -len(re.escape(token))] + group
            self.fields.append(tuple(key.decode() for key in path))

    def _object(self, path: Path) -> None:
        keys: set[bytes] = set()
        while (token := self._token()) != b"}" or keys:
            if token[:1] != b'"' or token in keys:
                raise UnusualError
            keys.add(token)
            if self._token() != b":":
                raise UnusualError
            self.value((*path, token[1:-1]))
            if (behind := self._token()) == b"}":
                return
            if behind != b",":
                raise UnusualError

    def _array(self, path: Path) -> None:
        if self._peek() == b"]":
            self._token()
            return
        while True:
            self.value((*path, b""))
            if (behind := self._token()) == b"]":
                return
            if behind != b",":
                raise UnusualError

    def _peek(self) -> bytes:
        found = _TOKEN.match(self.text, self.at)
        if found is None or (found.end() == len(self.text) and found[1][:1] not in b"{}[]:,"):
            raise IncompleteError if len(self.text) - self.at < _LONGEST else UnusualError
        if found.end() > _LONGEST:
            raise UnusualError
        return found[1]

    def _token(self) -> bytes:
        token, at = self._peek(), self.at
        found = _TOKEN.match(self.text, at)
        assert found is not None
        self.at = found.end()
        self.source.append(re.escape(self.text[at : self.at]))
        return token


def _group(path: Path, token: bytes) -> bytes | None:
    """Return the group in the place of the value at `path`; None if it is the same for all entries of the pattern."""
    first, *more = (key.decode() for key in path)
    text = token[:1] == b'"'
    if first == "samples" and not more:
        return None if text else _SIZE
    if first not in _FILES or not more:
        return None
    if more == ["bytes"]:
        return None if text else _SIZE
    if more == ["basename"]:
        return b'"' + _NAME + b'"' if text else None
    if more[0] == "hashes" and len(more) == 2:
        return b'"' + _HASH + b'"' if text else None
    return None
