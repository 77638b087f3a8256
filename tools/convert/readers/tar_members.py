"""The members of a tar archive, one after another, as a stream gives them: ustar, GNU and PAX.

The standard library's `tarfile` parses a header here, but does not walk the archive: it takes a damaged header, and a
file that is cut short between two members, for the end. Here, all of an archive is read, or DamagedFileError says where
it ends. An archive behind the end of another one (`cat a.tar b.tar`) is read too. Memory is bounded by a header.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from mixstream.units import show_bytes

from ..files.source_files import DamagedFileError, OnBytes

BLOCK = tarfile.BLOCKSIZE
_READ = 1 << 20
_MAX_HEADER = 1 << 20  # bytes of a long name or of PAX fields
_SEEK = 1 << 20  # bytes that are worth a seek
_PAX = {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE}
_LONG = {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
_FILES = {*tarfile.REGULAR_TYPES} - {tarfile.GNUTYPE_SPARSE}
_SPARSE_MORE, _SPARSE_MORE_NEXT = 482, 504  # bytes of a header, and of a further block, that say another block follows


class TarMember(NamedTuple):
    """A member: its path, its bytes, and what it is if it is no file (`links`, `sparse files`, …)."""

    name: str
    size: int
    special: str = ""


class TarStream:
    """The members of an archive; `read` returns the bytes of the one that came last.

    Args:
        stream: the archive, decompressed.
        where: names the archive in errors.
        on_bytes: called with the number of bytes that are skipped by a seek; None for a stream that cannot seek.
    """

    def __init__(self, stream: BinaryIO, where: str, on_bytes: OnBytes | None = None) -> None:
        self._stream, self._where, self._on_bytes = stream, where, on_bytes
        self._at = 0
        self._left = self._padding = 0  # of the member that came last
        self._global: dict[str, str] = {}

    def __iter__(self) -> Iterator[TarMember]:
        ended = False
        while True:
            self._skip(self._left + self._padding)
            self._left = self._padding = 0
            block = self._block(may_end=True)
            if not block:
                if not ended:
                    raise self._damaged("it ends without the mark of its end, so it may be cut short")
                return
            if not any(block):
                ended = True
                continue
            yield self._member(block, ended=ended)
            ended = False

    def read(self, limit: int = -1) -> bytes:
        """Return the next bytes of the member that came last, `limit` at most; all that is left without a limit."""
        size = self._left if limit < 0 else min(limit, self._left)
        data = self._exactly(size)
        self._left -= size
        return data

    def _member(self, block: bytes, *, ended: bool) -> TarMember:
        """The member whose header begins with `block`, which has the headers of its long name before it."""
        long_name: str | None = None
        fields = dict(self._global)
        while True:
            info = self._header(block, ended=ended)
            if info.type in _LONG or info.type in _PAX:
                if info.size > _MAX_HEADER:
                    raise self._damaged(f"a header of {show_bytes(info.size)}, which is more than a name takes")
                data = self._exactly(info.size)
                self._skip(-info.size % BLOCK)
                if info.type == tarfile.GNUTYPE_LONGNAME:
                    long_name = data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
                elif info.type == tarfile.XGLTYPE:
                    self._global |= self._pax(data)
                    fields = {**self._global, **fields}
                elif info.type in _PAX:
                    fields |= self._pax(data)
                block = self._block()
                continue
            return self._described(info, block, long_name, fields)

    def _described(
        self, info: tarfile.TarInfo, block: bytes, long_name: str | None, fields: dict[str, str]
    ) -> TarMember:
        size = info.size
        if "size" in fields:
            size = int(fields["size"]) if fields["size"].isdecimal() else -1
        if size < 0:
            raise self._damaged(f"member {info.name!r} has a size that is no number of bytes")
        name = fields.get("GNU.sparse.name") or fields.get("path") or long_name or info.name
        sparse = info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in fields)
        if info.type == tarfile.GNUTYPE_SPARSE:
            more = bool(block[_SPARSE_MORE])
            while more:
                more = bool(self._block()[_SPARSE_MORE_NEXT])
        has_data = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
        self._left = size if has_data else 0
        self._padding = -self._left % BLOCK
        special = "sparse files" if sparse else "" if info.type in _FILES else _kind(info)
        return TarMember(_readable(name), self._left, special)

    def _header(self, block: bytes, *, ended: bool) -> tarfile.TarInfo:
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as error:
            fact = "there is something behind its end that is no member" if ended else f"no member begins here: {error}"
            raise self._damaged(fact, back=BLOCK) from None

    def _pax(self, data: bytes) -> dict[str, str]:
        """The fields of a PAX header: each is `LENGTH KEY=VALUE` and a newline."""
        fields: dict[str, str] = {}
        at = 0
        while at < len(data) and data[at]:
            digits, space, _ = data[at : at + 20].partition(b" ")
            end = at + int(digits) if space and digits.isdigit() else 0
            key, sign, value = data[at + len(digits) + 1 : end - 1].partition(b"=")
            if not sign or end > len(data) or data[end - 1 : end] != b"\n":
                raise self._damaged("a PAX header that is not as it should be")
            fields[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
            at = end
        return fields

    def _block(self, *, may_end: bool = False) -> bytes:
        if not may_end:
            return self._exactly(BLOCK)
        block = self._some(BLOCK)
        return self._complete(block, BLOCK) if block else b""

    def _exactly(self, size: int) -> bytes:
        return self._complete(self._some(size), size)

    def _complete(self, data: bytes, size: int) -> bytes:
        if len(data) < size:
            raise self._damaged("it is cut short")
        return data

    def _some(self, size: int) -> bytes:
        """Read `size` bytes, or what there is; a lying size takes no more memory than there are bytes."""
        parts: list[bytes] = []
        while size and (part := self._stream.read(min(size, _READ))):
            parts.append(part)
            size -= len(part)
            self._at += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _skip(self, size: int) -> None:
        if self._on_bytes is not None and size > _SEEK:
            keep = size % BLOCK or BLOCK  # the last bytes are read, so that an end of the file before them is seen
            self._stream.seek(size - keep, 1)
            self._on_bytes(size - keep)
            self._at += size - keep
            size = keep
        while size:
            size -= len(self._exactly(min(size, _READ)))

    def _damaged(self, fact: str, *, back: int = 0) -> DamagedFileError:
        return DamagedFileError(
            f"{self._where}: the tar archive is damaged or cut short at byte {self._at - back}: {fact}"
        )


def _kind(info: tarfile.TarInfo) -> str:
    if info.isdir():
        return "directories"
    if info.issym() or info.islnk():
        return "links"
    return "devices or pipes" if info.isdev() else "of unknown kinds"


def _readable(name: str) -> str:
    """A path without bytes that are no UTF-8, and without `./` at its beginning."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").removeprefix("./")
