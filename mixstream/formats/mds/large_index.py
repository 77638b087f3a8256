"""An `index.json` of many shards, read block by block into arrays (`ShardList`).

Rules. Whatever is read here is what `parse_index` reads of the same bytes, and every check of it is made here too: of
the values that differ, in arrays; of all else, on one entry of each kind. Whatever is unusual or wrong is not judged
here: `read_blocks` returns None, and `parse_index` reads the index, or refuses it with its own words. Blocks are not
kept, so memory is that of the arrays.

Why a split text means the same: the head, closed by `]}`, is a whole object whose last key is "shards"; so what follows
the head are entries. A matched entry is a whole value and a comma. What is left then, behind `{"some key": [`, is the
end of the object, with at least one entry and no second "shards".
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import pairwise
from operator import lt

import msgspec
import numpy as np

from mixstream.errors import IndexCorruptError
from mixstream.formats.entry import MAX_OFFSET, ShardInfo
from mixstream.formats.mds.entry_pattern import EntryPattern, IncompleteError, UnusualError
from mixstream.formats.mds.index import TOP, Checker, Index, WireShard, smallest_sample, top_level
from mixstream.formats.shard_list import FileTable, ShardList, Texts
from mixstream.types import Int64

_HEAD = re.compile(rb'[{,][ \t\r\n]*("shards"[ \t\r\n]*:[ \t\r\n]*\[[ \t\r\n]*)')
_WHITE = b" \t\r\n"
_ENTRY = msgspec.json.Decoder(WireShard)
_ENTRIES = msgspec.json.Decoder(list[msgspec.Raw])
_INTEGERS = msgspec.json.Decoder(list[int])
_CHANGES = 1000  # of the kind, from one entry to the next; with more, this way is the slower one
_LONGEST_NAME = 240  # bytes; `paths` looks at the parts of longer ones
_LONGEST_HEAD, _LONGEST_TAIL = 1 << 20, 1 << 24  # bytes
_LONGEST_WAIT = 1 << 17  # bytes: an entry, and white space behind it
_LONGEST_KINDS = 1 << 20  # bytes of all patterns: to compile one takes some microseconds a byte
_TAKEN = (b".tmp\n", b"index.json\n")
_UNREADABLE = (
    msgspec.MsgspecError,
    RecursionError,
    UnicodeDecodeError,
    IncompleteError,
    UnusualError,
    IndexCorruptError,
)


def read_blocks(blocks: Iterable[bytes]) -> Index | None:
    """Return the index whose bytes are `blocks`, one behind the other; None if `parse_index` has to look at it.

    >>> from mixstream.formats.mds.index import dump_index, parse_index
    >>> entry = '{"samples": 1, "raw_data": {"basename": "%s.mds", "bytes": 16, "hashes": {}}, "version": 2, '
    >>> entry += '"format": "mds", "column_names": ["x"], "column_encodings": ["int"], "column_sizes": [8]}'
    >>> entries = ", ".join((entry % name).replace("16", "20") for name in "ab")
    >>> data = ('{"version": 2, "made_by": "us", "shards": [' + entries + "]}").encode()
    >>> index = read_blocks([data[:100], data[100:]])
    >>> index.shards, index.shards[1].raw.basename, index.extra, index == parse_index(data, where="index.json")
    (<2 shards of 1 kinds>, 'b.mds', {'made_by': 'us'}, True)
    """
    try:
        return _Reading(iter(blocks)).index()
    except _UNREADABLE:
        return None


class _Reading:
    """Reads one index. What is unusual raises one of `_UNREADABLE`."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._text = blocks, b""
        self._checker = Checker("")
        self._patterns: dict[bytes, tuple[int, EntryPattern]] = {}  # source -> the number of its kind, and itself
        self._kinds: list[ShardInfo] = []
        self._parts: list[ShardList] = []
        self._names = _Names()
        self._written = 0  # bytes of all patterns

    def index(self) -> Index:
        """Return the index."""
        top = self._head()
        self._entries()
        tail = self._tail()
        if not self._parts or top.keys() & tail.keys():
            raise UnusualError
        extra, hashes = top_level({**top, **tail}, where="")
        shards = ShardList.joined(self._kinds, self._parts)
        self._names.check(shards)
        return Index(shards=shards, extra=extra, hashes=hashes)

    def _head(self) -> dict[str, msgspec.Raw]:
        """Return what stands before the entries, and leave these in `_text`."""
        text = b""
        while (found := _HEAD.search(text)) is None:
            if len(text) > _LONGEST_HEAD or not (more := next(self._blocks, b"")):
                raise UnusualError
            text += more
        top = TOP.decode(text[: found.end()] + b"]}")
        if next(reversed(top), "") != "shards" or bytes(top.pop("shards")).strip(_WHITE + b"[]"):
            raise UnusualError
        self._text = text[found.end() :]
        # Copied, since what was decoded holds the whole block.
        return {key: msgspec.Raw(bytes(value)) for key, value in top.items()}

    def _entries(self) -> None:
        """Read entries up to the last one, or to one that is not usual."""
        pattern, changes = None, 0
        while True:
            while pattern is None or not self._match(*pattern):
                try:
                    pattern = self._pattern()
                except IncompleteError:
                    break
                if not self._match(*pattern):
                    if behind := self._text[len(pattern[1].text) :].strip(_WHITE):
                        if behind.startswith(b"]"):
                            return
                        raise UnusualError
                    if len(self._text) > _LONGEST_WAIT:  # white space, which would be looked at again with each block
                        raise UnusualError
                    break
                if (changes := changes + 1) > _CHANGES:
                    raise UnusualError
            if (more := next(self._blocks, None)) is None:
                return
            self._text = (self._text + more).lstrip(_WHITE)  # a block may end between a comma and a space

    def _tail(self) -> dict[str, msgspec.Raw]:
        """Read the last entry, and return what stands behind it."""
        parts, size = [self._text], len(self._text)
        for more in self._blocks:
            parts.append(more)
            if (size := size + len(more)) > _LONGEST_TAIL:
                raise UnusualError
        text = b"".join(parts)
        key = blake2b(text).hexdigest()  # no key in the text: of two that are alike, the decoder tells the last one
        tail = TOP.decode(b'{"%b": [%b' % (key.encode(), text))
        if "shards" in tail:
            raise UnusualError
        entries = _ENTRIES.decode(tail.pop(key))
        for entry in entries:
            self._text = bytes(entry) + b","
            if not self._match(*self._pattern()) or self._text:
                raise UnusualError
        if not entries:  # what stands before is a comma
            raise UnusualError
        return tail

    def _pattern(self) -> tuple[int, EntryPattern]:
        """Return the pattern of the entry that `_text` begins with, and the number of its kind."""
        pattern = EntryPattern.of(self._text)
        if (known := self._patterns.get(pattern.source)) is not None:
            return known[0], replace(known[1], text=pattern.text)
        if (written := self._written + len(pattern.source)) > _LONGEST_KINDS:
            raise UnusualError
        self._written = written
        self._kinds.append(self._checker.shard(0, _ENTRY.decode(pattern.text)))
        if type(self._kinds[-1]) is not ShardInfo or len(self._kinds) > _CHANGES:
            raise UnusualError
        found = self._patterns[pattern.source] = len(self._kinds) - 1, pattern
        return found

    def _match(self, number: int, pattern: EntryPattern) -> bool:
        """Take the entries of a pattern off `_text`; return whether there were any."""
        found, rest = pattern.find(self._text)
        if not found or not found[0]:
            return False
        self._text = rest
        self._parts.append(self._checked(number, dict(zip(pattern.fields, found))))
        return True

    def _checked(self, number: int, values: Mapping[tuple[str, ...], Sequence[bytes]]) -> ShardList:
        """Return the shards whose entries have these values; all else is checked already."""
        kind = self._kinds[number]
        samples_S = _integers(values["samples",])
        kind_S = np.full(len(samples_S), number, dtype=np.int64)
        raw = _files(values, "raw_data")
        zipped = _no_files(len(samples_S)) if kind.zip is None else _files(values, "zip_data")
        check_sizes(self._kinds, kind_S, samples_S, raw.bytes_S, zipped.bytes_S)
        self._names.add(values["raw_data", "basename"], values.get(("zip_data", "basename"), ()))
        return ShardList(kinds=(), kind_S=kind_S, samples_S=samples_S, raw=raw, zip=zipped)


def check_sizes(kinds: Sequence[ShardInfo], kind_S: Int64, samples_S: Int64, raw_S: Int64, zip_S: Int64) -> None:
    """Check samples, and bytes of raw and compressed files, of shards of these kinds as `Checker` checks one shard.

    Raises:
        UnusualError: they are not possible.
    """
    smallest = [smallest_sample(kind.column_sizes) for kind in kinds]
    if max(smallest) > MAX_OFFSET or (samples_S > MAX_OFFSET).any() or (raw_S > MAX_OFFSET).any():
        raise UnusualError
    of_S = kind_S if len(kinds) > 1 else 0
    row_S = (4 + np.array(smallest, dtype=np.int64))[of_S]
    if (samples_S > (raw_S - 8) // row_S).any():  # 8 + samples * row bytes are the least
        raise UnusualError
    zipped_S = np.array([kind.zip is not None for kind in kinds], dtype=bool)[of_S]
    if ((zip_S <= 0) & zipped_S).any() or ((zip_S > 2 * raw_S + 4096) & zipped_S).any():
        raise UnusualError


class _Names:
    """The names of all files: each is checked as it comes, and all against each other at the end."""

    def __init__(self) -> None:
        self._last: list[bytes] = [b"", b""]  # raw and compressed
        self._behind: bytes | None = None  # what the name of a compressed file has behind that of its raw file
        self._distinct = True  # no two are alike, since names are in order
        self._directories: set[bytes] = set()

    def add(self, raws: Sequence[bytes], zips: Sequence[bytes]) -> None:
        """Check the names of some shards."""
        texts = [(b"\n".join(names) + b"\n" * bool(names)).lower() for names in (raws, zips)]
        for which, text in enumerate(texts):
            names = text.split(b"\n")[:-1]
            if not names:
                continue
            if max(map(len, names)) > _LONGEST_NAME or any(end in text for end in _TAKEN):
                raise UnusualError
            if b"/" in text:
                self._directories.update({name.rpartition(b"/")[0] for name in names} - {b""})
            if self._distinct:
                self._distinct = _ascend(self._last[which], names)
            self._last[which] = names[-1]
        if zips and self._distinct:
            behind = texts[1][: texts[1].index(b"\n")].removeprefix(texts[0][: texts[0].index(b"\n")])
            self._behind = self._behind or behind
            end = behind + b"\n"
            alike = behind == self._behind and texts[0].replace(b"\n", end) == texts[1]
            self._distinct = alike and bool(behind)
        if self._behind and self._behind + b"\n" in texts[0]:
            self._distinct = False

    def check(self, shards: ShardList) -> None:
        """Check the names of all shards against each other."""
        above = {parent for path in self._directories for parent in _parents(path)}
        names = (name.lower().encode() for pair in shards.files() for name in pair if name is not None)
        if not self._distinct:
            files: set[bytes] = set()
            count = sum(1 for name in names if files.add(name) is None)
            if len(files) < count or not above.isdisjoint(files):
                raise UnusualError
        elif above and not above.isdisjoint(names):
            raise UnusualError


def _ascend(before: bytes, names: list[bytes]) -> bool:
    """Return whether names, after `before`, are in ascending order of their lengths, and of letters where these agree.

    >>> _ascend(b"a.99", [b"a.100", b"a.101"]), _ascend(b"", [b"a.1", b"a.1"])
    (True, False)
    """
    if len(before) == len(names[0]) == len(names[-1]) and len(set(map(len, names))) == 1:
        return before < names[0] and all(map(lt, names, names[1:]))
    return all((len(one), one) < (len(two), two) for one, two in pairwise([before, *names]))


def _parents(path: bytes) -> Iterator[bytes]:
    while path:
        yield path
        path = path.rpartition(b"/")[0]


def _integers(values: Sequence[bytes]) -> Int64:
    return np.array(_INTEGERS.decode(b"[%b]" % b",".join(values)), dtype=np.int64)


def _files(values: Mapping[tuple[str, ...], Sequence[bytes]], what: str) -> FileTable:
    names = values.get((what, "basename"), ())
    hashes = [value for field, value in values.items() if field[:2] == (what, "hashes")]
    texts = Texts.of([b" ".join(each) for each in zip(*hashes)]) if hashes else _no_files(len(names)).hashes
    return FileTable(Texts.of(names), _integers(values.get((what, "bytes"), ())), texts)


def _no_files(shards: int) -> FileTable:
    zero_S = np.zeros(shards, dtype=np.int64)
    nothing = Texts(np.empty(0, np.uint8), zero_S)
    return FileTable(nothing, zero_S, nothing)
