"""What a file is: the reader that it needs, or the format that no reader has. Its content decides, and then its suffix.

Rules. Text never comes from guessing: a file that looks like another format than its reader's is a `Foreign`. Only the
first bytes are looked at, decompressed; the reader meets what follows, and reports every document that is bad.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from ..documents.fields import Fields
from ..files.source_files import DamagedFileError, SourceFile, open_slice, split_name
from ..readers import DEFAULT, READERS, FieldError, as_dataset, by_magic, document_of, holds_nul, judge, says_nothing
from ..readers.foreign import READABLE, Foreign, by_columns, by_content, by_suffix, packed_as
from .archives import CONTAINERS, container_format

_HEAD = 1 << 16
_DOCUMENTS = 20
_COLUMNS = ("csv", "tsv")


class Sniffed(NamedTuple):
    """A file with the format that reads it; or what it is, if that is none of convert's."""

    file: SourceFile
    foreign: Foreign | None = None


def sniff(file: SourceFile, *, forced: bool = False, as_text: bool = False) -> Sniffed:
    """Look at the beginning of a file.

    Args:
        file: with the format of `--format`, if that is `forced`; else any.
        forced: whether the format is the user's.
        as_text: whether the user takes the file as text whatever it holds, unless it is binary.
    """
    suffix = split_name(file.path)[1]
    known = next((name for name, reader in READERS.items() if suffix in reader.suffixes), None)
    if not forced:
        file = replace(file, format=known or DEFAULT)
    raw, head = _heads(file)
    if file.compression and raw and packed_as(raw) != file.compression:
        way = f"it is no {file.compression} data: rename it, or fetch it again"
        return Sniffed(file, Foreign(name=f"a file whose name ends in .{file.compression}", way=way))
    if table := _table(file, head, suffix, free=not (forced or as_text)):
        return table
    if container := _container(file, head, suffix, forced=forced, as_text=as_text):
        return container
    format_, foreign = judge(head, suffix, forced=forced, as_text=as_text, whole=len(head) < _HEAD)
    return Sniffed(file if forced else replace(file, format=format_), foreign)


def _container(file: SourceFile, head: bytes, suffix: str, *, forced: bool, as_text: bool) -> Sniffed | None:
    """A dataset, an archive or a WARC file, by its content; None for anything else. Arguments as `sniff`."""
    if (not forced or file.format == "mds") and (dataset := as_dataset(file)) is not None:
        return Sniffed(dataset)
    if file.format == "mds":
        way = "name the dataset's directory or its index.json"
        return Sniffed(file, Foreign(name="no index of a dataset", way=way))
    if (as_text or forced) and file.format not in CONTAINERS:
        return None
    if found := container_format(file, head, suffix):
        return Sniffed(file if forced else replace(file, format=found))
    if head and file.format in CONTAINERS:
        return Sniffed(file, Foreign(name=f"no {file.format} file, whatever its name", way="fetch it again"))
    return None


def _table(file: SourceFile, head: bytes, suffix: str, *, free: bool) -> Sniffed | None:
    """A file that is a table, by its content; None for anything else.

    Args:
        file: the file.
        head: its first bytes.
        suffix: of its name.
        free: whether the user leaves open what it is.
    """
    shown = by_magic(head)
    if shown is not None:
        return None if file.compression or (not free and file.format != shown) else Sniffed(replace(file, format=shown))
    if by_content(head, suffix) is not None or holds_nul(head):
        return None
    if READERS[file.format].magic:
        way = "rename it, so that its content decides, or fetch it again"
        return Sniffed(file, Foreign(name=f"a file whose name says {file.format}, but not its content", way=way))
    if free and file.format in _COLUMNS:
        return Sniffed(file)
    unsaid = free and says_nothing(suffix) and by_suffix(suffix) is None
    found = by_columns(head, whole=len(head) < _HEAD) if unsaid else None
    return None if found is None else Sniffed(replace(file, format=found))


def field_fault(file: SourceFile, fields: Fields) -> FieldError | None:
    """Return what is wrong with a field of the first documents of a file, if it is wrong with all of them.

    This finds a `--text-key` that the documents do not have, before anything is converted.
    """
    if not READERS[file.format].has_fields:
        return None
    first: FieldError | None = None
    try:
        for value in islice(_values(file, fields), _DOCUMENTS):
            try:
                document_of(value, replace(fields, forbidden=(), filters=(), domain_function=None))
            except FieldError as error:
                first = first or error
            except ValueError:
                continue
            else:
                return None
    except (DamagedFileError, ValueError):
        pass  # the reader meets it again and reports it
    return first


def fields_not_seen(file: SourceFile, fields: Fields) -> tuple[str, ...]:
    """Return the fields of `--keep` that the first documents of a file do not have."""
    if not READERS[file.format].has_fields or not fields.keep:
        return ()
    left, seen = set(fields.kept_fields), False
    plain = replace(fields, forbidden=(), filters=(), domain_function=None)
    try:
        for value in islice(_values(file, fields), _DOCUMENTS):
            with suppress(ValueError):
                document = document_of(value, plain)
                kept = () if isinstance(document, str) else document.kept
                left -= {name for name, found in zip(fields.kept_fields, kept) if found is not None}
                seen = seen or bool(kept)
    except (DamagedFileError, ValueError):
        pass  # as above
    return tuple(name for name in fields.kept_fields if seen and name in left)


def _values(file: SourceFile, fields: Fields) -> Iterator[object]:
    """Yield the first records of a file; raises ValueError at what is none.

    They have all fields, which the error names; of a table, all columns may be much to read.
    """

    def fail(fact: str, *, left_out: str = "", **about: object) -> None:
        if not left_out:
            raise ValueError(fact)

    reader = READERS[file.format]
    records = reader.records
    assert records is not None
    yield from (
        record.value
        for record in records(file.whole, fields.columns if reader.magic else None, fail, lambda size: None)
    )


def _heads(file: SourceFile) -> tuple[bytes, bytes]:
    """The first bytes of a file as stored, and decompressed as far as they can be."""
    stored = replace(file, compression="")
    with open_slice(stored.whole) as stream:
        raw = stream.read(_HEAD)
    if not file.compression or packed_as(raw) not in READABLE:
        return raw, raw if not file.compression else b""
    try:
        with open_slice(file.whole) as stream:
            return raw, stream.read(_HEAD)
    except DamagedFileError:
        return raw, b""  # the reader meets the damage again and reports it
