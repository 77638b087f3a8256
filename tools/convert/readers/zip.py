"""Zip archives of texts: each member is a document, record {"path": "src/a.py", "text": "…"}.

A zip archive ends with its table of contents, so it is read where it lies and never as a stream. The record's number
counts the members that are no directories. Checksums are checked; memory is bounded by a member and the table.
"""

from __future__ import annotations

import errno
import lzma
import stat
import struct
import zipfile
import zlib

from mixstream.errors import MixstreamError

from ..files.source_files import DamagedFileError, OnBytes, Slice, SourceFile, open_random
from .members import LeftOutError, check_name, report, text_of
from .reader import Columns, OnBad, Reader, Record, Records

_ENCRYPTED = 1
_FAULTS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError, OSError)
"""What Python's zipfile raises for bytes that are no archive."""


def read_zip(source: Slice, columns: Columns, on_bad: OnBad, on_bytes: OnBytes) -> Records:
    """Yield each member that is a text, in the order of the table."""
    with open_random(source.file) as stream:
        try:
            archive = zipfile.ZipFile(stream)
        except (*_FAULTS, ValueError) as error:
            _check_is_damage(error)
            raise DamagedFileError(f"{source.file.path}: the zip archive is damaged or cut short: {error}") from None
        members = [member for member in archive.infolist() if not member.filename.endswith("/")]
        for number, member in enumerate(members):
            try:
                _check(member, source.file)
                with archive.open(member) as opened:
                    text = text_of(source.file, member.filename, member.file_size, opened.read)
            except _FAULTS as error:
                _check_is_damage(error)
                report(on_bad, source.file, member.filename, number, ValueError(f"it is damaged: {error}"))
                continue
            except (LeftOutError, ValueError) as error:
                report(on_bad, source.file, member.filename, number, error)
                continue
            yield Record({"path": member.filename, "text": text}, number)
    on_bytes(source.file.size)
    return len(members)


def _check_is_damage(error: Exception) -> None:
    """Raise an error of the store or of the system again; bz2 has no number, and a place before the file is invalid."""
    if isinstance(error, MixstreamError) or (isinstance(error, OSError) and error.errno not in {None, errno.EINVAL}):
        raise error


def _check(member: zipfile.ZipInfo, file: SourceFile) -> None:
    mode = member.external_attr >> 16
    if stat.S_IFMT(mode) and not stat.S_ISREG(mode):
        raise LeftOutError("links" if stat.S_ISLNK(mode) else "devices or pipes")
    check_name(member.filename, file.choice)
    if member.flag_bits & _ENCRYPTED:
        raise ValueError("it is encrypted")


def _place(source: Slice, record: Record) -> str:
    assert isinstance(record.value, dict)
    return f"member {record.value['path']!r}"


ZIP = Reader(suffixes=frozenset({".zip"}), records=read_zip, place=_place)
