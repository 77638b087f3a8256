"""Of which object a cached file was fetched: one small record per file, in `.mixstream-objects`.

Rules: a record is written before its file gets its name, and counts only for the very file that it was written for
(bytes and time of the last write); so a file of another origin, or of a killed process, has none. It is one write of a
fixed size with a checksum, hence whole or no record. A file without a record is of unknown origin, not bad.
"""

import os
import time
from contextlib import suppress
from hashlib import blake2s
from pathlib import Path

import msgspec
import xxhash

from mixstream.records import dataclass
from mixstream.storage.cache.locks import parent_of
from mixstream.storage.cache.own_files import open_own, open_to_write
from mixstream.storage.disk_errors import FORBIDDEN, FULL
from mixstream.storage.spec import PREFIX
from mixstream.storage.store import ObjectInfo

_PLACE = f"{PREFIX}objects"
_SIZE = 256  # bytes of a record
_LONGEST = 64  # bytes of a name or a version; a longer one is hashed


class _Line(msgspec.Struct, array_like=True, frozen=True):
    file: tuple[int, int]  # bytes, and time of the last write in nanoseconds
    name: str
    size: int
    version: str | None
    modified: float | None


_decode = msgspec.json.Decoder(_Line).decode  # made here: threads that are the first to decode one type can crash


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The object that a cached file was fetched or unpacked from.

    Args:
        name: of the object, a hash of it where it is long.
        info: what the store said of it.
        since: when the record was written, or compared with the store last; seconds since 1970.
    """

    name: str
    info: ObjectInfo
    since: float = 0.0

    def is_of(self, name: str, info: ObjectInfo) -> bool:
        """Return whether an object is this one."""
        return self.name == _short(name) and self.info.identity == _shortened(info).identity


def write_record(directory: Path, file: str, found: os.stat_result, *, name: str, info: ObjectInfo) -> None:
    """Write down the object that the file `file` of a cache directory, whose status is `found`, was fetched from.

    A directory that may not be written, or has no room, gets no record.
    """
    info = _shortened(info)
    line = _Line((found.st_size, found.st_mtime_ns), _short(name), info.size, info.version, info.modified)
    text = msgspec.json.encode(line)
    data = f"{xxhash.xxh3_64_hexdigest(text)} ".encode() + text
    try:
        with parent_of(directory, record_name(file), create=True) as (parent, leaf):
            number = open_to_write(parent, leaf)
            try:
                os.pwrite(number, data.ljust(_SIZE), 0)
                os.utime(number, (time.time(), time.time()))  # the kernel's own time may be some milliseconds late
            finally:
                os.close(number)
    except OSError as error:
        if error.errno not in (*FORBIDDEN, *FULL):
            raise


def read_record(directory: Path, file: str, found: os.stat_result) -> Record | None:
    """Return the record of the file `file`, whose status is `found`; None if there is none of this very file."""
    try:
        with os.fdopen(open_own(directory, record_name(file)), "rb") as opened:
            since = os.fstat(opened.fileno()).st_mtime
            check, _, text = opened.read(_SIZE).rstrip().partition(b" ")
        if xxhash.xxh3_64_hexdigest(text).encode() != check:
            return None
        line = _decode(text)
    except (OSError, ValueError, msgspec.MsgspecError):
        return None
    if line.file != (found.st_size, found.st_mtime_ns):
        return None
    info = ObjectInfo(size=line.size, version=line.version, modified=line.modified)
    return Record(name=line.name, info=info, since=since)


def touch_record(directory: Path, file: str) -> None:
    """Note that the record was compared with the store just now, which spares other processes the request."""
    with suppress(OSError), parent_of(directory, record_name(file)) as (parent, leaf):
        os.utime(leaf, (time.time(), time.time()), dir_fd=parent, follow_symlinks=False)


def record_name(file: str) -> str:
    """Return the name of the record of a file, below the cache directory."""
    return f"{_PLACE}/{blake2s(file.encode(), digest_size=16).hexdigest()}"


def _short(text: str) -> str:
    return text if len(text.encode()) <= _LONGEST else blake2s(text.encode(), digest_size=16).hexdigest()


def _shortened(info: ObjectInfo) -> ObjectInfo:
    """Return what is kept of a description; whether the version is vague stays visible."""
    if info.version is None or (short := _short(info.version)) == info.version:
        return info
    marks = (mark for mark in ("W/", "date ") if info.vague and info.version.startswith(mark))
    return ObjectInfo(size=info.size, version=next(marks, "") + short, modified=info.modified)
