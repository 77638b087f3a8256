"""Files that hold many files or pages: which of them are read, by their first bytes, and then as what.

The suffix of an archive says less than its content: a `.tar` is a WebDataset or a tree of texts.
"""

from __future__ import annotations

import tarfile
from dataclasses import replace

from ..files.choice import Choice
from ..files.source_files import DamagedFileError, SourceFile
from ..readers import is_webdataset


def choice_inside(choice: Choice, format_: str) -> Choice | None:
    """Return what of a choice is for the inside of a file of this format; None for nothing."""
    if format_ in ARCHIVES:
        inside = replace(choice, format="auto", decoder=None)
    else:
        inside = Choice(decoder=choice.decoder if format_ == "mds" else None)
    return inside if inside.describe() else None


ARCHIVES = frozenset({"tar", "webdataset", "zip"})
"""The formats whose members `--include`, `--exclude` and `--as-text` choose."""
CONTAINERS = ARCHIVES | {"warc"}
"""The formats that `container_format` finds."""
_WARC = (b"WARC/0.", b"WARC/1.")
_OTHER_RECORDS = frozenset({".wat"})
"""Suffixes of WARC files whose records are no pages."""
_ZIP_SUFFIXES = frozenset({"", ".zip"})
"""Other files of the form of zip archives are of a format of their own: `.docx`, `.jar`, `.npz`."""


def container_format(file: SourceFile, head: bytes, suffix: str) -> str | None:
    """Return the format of an archive or a WARC file, as `READERS` names it; None for all other files.

    Args:
        file: the file.
        head: its first bytes, decompressed.
        suffix: of its name, without that of a compression.
    """
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")) and suffix in _ZIP_SUFFIXES and not file.compression:
        return "zip"
    if head.startswith(_WARC) and suffix not in _OTHER_RECORDS:
        return "warc"
    if head[257:262] != b"ustar" and not (suffix == ".tar" and _is_header(head)):
        return None
    try:
        return "webdataset" if is_webdataset(file) else "tar"
    except DamagedFileError:
        return "tar"  # the reader meets the damage again and reports it


def _is_header(head: bytes) -> bool:
    """Whether an archive of before 1988 begins so."""
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True
