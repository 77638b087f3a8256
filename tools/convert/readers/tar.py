"""Tar archives: of texts, each member a document; or of WebDataset, each group of members with one key a sample.

    tar         record {"path": "src/a.py", "text": "…"}; its number counts the members that are no directories
    webdataset  record {"__key__": "dir/000017", "txt": "…", "json": {…}}; its number counts the samples

In WebDataset, members that follow one another and differ only behind the first dot of their names are a sample. Only
those members are read that are needed, so pictures and sound cost no memory. A sample has 256 MiB at most.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mixstream.units import show_bytes

from ..files.source_files import DamagedFileError, OnBytes, Slice, SourceFile, open_slice
from .members import LeftOutError, check_name, report, text_of
from .reader import MAX_RECORD, Columns, OnBad, Reader, Record, Records
from .tar_members import TarMember, TarStream

_KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
_SAMPLES_SEEN = 8
_TEXTS = frozenset({"txt", "text", "json"})
_LOOKED_AT = 8 << 20  # bytes


def read_tar(source: Slice, columns: Columns, on_bad: OnBad, on_bytes: OnBytes) -> Records:
    """Yield each member that is a text."""
    number = -1
    with _opened(source, on_bytes) as archive:
        for member in archive:
            if member.special == "directories":
                continue
            number += 1
            try:
                _check(member, source.file)
                text = text_of(source.file, member.name, member.size, archive.read)
            except DamagedFileError:
                raise
            except (LeftOutError, ValueError) as error:
                report(on_bad, source.file, member.name, number, error)
                continue
            yield Record({"path": member.name, "text": text}, number)
    return number + 1


def read_webdataset(source: Slice, columns: Columns, on_bad: OnBad, on_bytes: OnBytes) -> Records:
    """Yield each sample, with the fields that are needed."""
    number = 0
    with _opened(source, on_bytes) as archive:
        sample: _Sample | None = None
        for member in archive:
            if member.special == "directories":
                continue
            try:
                _check(member, source.file)
                key, kind = _split(member.name)
            except LeftOutError as error:
                report(on_bad, source.file, member.name, number, error)
                continue
            if sample is None or sample.key != key:
                if sample is not None:
                    yield from sample.record(source, number, on_bad)
                    number += 1
                sample = _Sample(key)
            sample.add(kind, member, archive, columns)
        if sample is not None:
            yield from sample.record(source, number, on_bad)
            number += 1
    return number


def is_webdataset(file: SourceFile) -> bool:
    """Whether the first samples of an archive show it: two have several members, a text among them, of equal kinds.

    So `a.c`, `a.h`, `b.c`, `b.h` are sources, and `1.txt`, `1.jpg`, `2.txt`, `2.jpg` are samples.
    """
    kinds: list[tuple[str, list[str]]] = []
    looked = 0
    with open_slice(file.whole) as stream:
        for member in TarStream(stream, file.path):
            looked += member.size
            try:
                _check(member, None)
                key, kind = _split(member.name)
            except LeftOutError:
                continue
            if not kinds or kinds[-1][0] != key:
                if len(kinds) == _SAMPLES_SEEN or looked > _LOOKED_AT:
                    break
                kinds.append((key, []))
            kinds[-1][1].append(kind)
    whole = Counter(frozenset(each) for _, each in kinds if len(each) > 1 and not _TEXTS.isdisjoint(each))
    return any(count > 1 or len(kinds) == 1 for count in whole.values())


class _Sample:
    """The members of one key, as far as they are needed."""

    def __init__(self, key: str) -> None:
        self.key = key
        self._members: dict[str, bytes] = {}
        self._seen: set[str] = set()
        self._size = 0
        self._fault = ""

    def add(self, kind: str, member: TarMember, archive: TarStream, columns: Columns) -> None:
        if kind in self._seen:
            self._fault = self._fault or f"it has two members .{kind}, so its key is that of two samples"
        self._seen.add(kind)
        if columns is not None and kind not in columns:
            return
        self._size += member.size
        if self._size > MAX_RECORD:
            if columns is not None:
                self._fault = self._fault or f"its members are larger than {show_bytes(MAX_RECORD)}"
            return
        self._members[kind] = archive.read()

    def record(self, source: Slice, number: int, on_bad: OnBad) -> Iterator[Record]:
        """Its record; none, and a report, if it is bad."""
        value: dict[str, Any] = {"__key__": self.key}
        fault = self._fault
        for kind, data in self._members.items():
            try:
                value[kind] = _value(kind, data)
            except ValueError as error:
                fault = fault or f"its member .{kind} is {error}"
        if fault:
            on_bad(f"{source.file.path}, sample {self.key!r}: {fault}", record=number)
        else:
            yield Record(value, number)


def _value(kind: str, data: bytes) -> object:
    """The value of a member: of `.json` what it says, else its text; raises ValueError with what is wrong."""
    if kind.rpartition(".")[2] == "json":
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not JSON: {error}") from None
    return data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")  # documents.py reports what is none


def _split(name: str) -> tuple[str, str]:
    """`dir/000017.seg.json` → `("dir/000017", "seg.json")`; raises LeftOutError if the name is not of this form."""
    found = _KEY.fullmatch(name)
    if found is None:
        raise LeftOutError("of no sample, by their names")
    return found[1], found[2].lower()


def _check(member: TarMember, file: SourceFile | None) -> None:
    if member.special:
        raise LeftOutError(member.special)
    check_name(member.name, file.choice if file is not None else None)


@contextmanager
def _opened(source: Slice, on_bytes: OnBytes) -> Iterator[TarStream]:
    with open_slice(source, on_bytes) as stream:
        yield TarStream(stream, source.file.path, None if source.file.compression else on_bytes)


def _place(source: Slice, record: Record) -> str:
    value: Any = record.value
    return f"sample {value['__key__']!r}" if "__key__" in value else f"member {value['path']!r}"


TAR = Reader(suffixes=frozenset({".tar"}), records=read_tar, place=_place)
WEBDATASET = Reader(suffixes=frozenset(), records=read_webdataset, place=_place)
