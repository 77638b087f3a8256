"""One cache directory: files that appear whole or not at all, each filled once however many readers want it.

Rules: a file on disk is verified once per process, when it is first opened; what is wrong is filled again before it is
an error. A thread that waits for another's partial waits as long as that is being written. A file is returned open: it
stays readable after it was evicted.
"""

import errno
import os
import stat
import time
import warnings
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mixstream.errors import (
    MixstreamError,
    ShardCorruptError,
    StoreAccessError,
    StoreBusyError,
    StoreError,
    StoreFaultError,
)
from mixstream.lazy import later
from mixstream.metering import SHARDS, here
from mixstream.storage.cache.confirm import is_current
from mixstream.storage.cache.fill import CacheFill, Partial, opened, opened_range
from mixstream.storage.cache.limit import CacheLimit, disk_full
from mixstream.storage.cache.locks import forbidden, holder, parent_of, try_lock
from mixstream.storage.cache.materialize import ShardSource
from mixstream.storage.cache.own_files import LINKED, is_own, open_own
from mixstream.storage.cache.owner import CacheOwner
from mixstream.storage.cache.waits import StallTimeout, WakingCount
from mixstream.storage.disk_errors import FORBIDDEN, FULL, disk_error, other_than_file, out_of_inodes
from mixstream.storage.forks import ProcessLocal
from mixstream.storage.spec import ShardSpec

if TYPE_CHECKING:
    from mixstream.storage.cache.contents import partial_name
else:
    (partial_name,) = later("mixstream.storage.cache.contents", "partial_name")


_TRIES = 3  # when the disk turns out to be full, or the directory is cleared, while a file is written
_Identity = tuple[int, int, int, int]  # device, inode, bytes, time of the last write


class Cache:
    """A directory that is filled by any number of threads and processes.

    A shard of four bytes from a source that always has it; the second call finds the file:

    >>> from tempfile import TemporaryDirectory
    >>> from unittest.mock import Mock
    >>> spec = ShardSpec(name="shard.00000.mds", size=4, check=None, compressed=None)
    >>> source = Mock(original=lambda spec: None, kept=lambda spec: None)
    >>> source.fill.side_effect = lambda spec, file: file.write(b"1111")
    >>> with TemporaryDirectory() as place:
    ...     owner = CacheOwner(directory=Path(place), origin="s3://bucket/web", digest="0f")
    ...     cache = Cache(owner=owner, limit=CacheLimit(), timeout=60)
    ...     for _ in range(2):
    ...         with cache.open_or_fill(spec, source) as file:
    ...             print(file.read(), "filled:", source.fill.call_count)
    b'1111' filled: 1
    b'1111' filled: 1

    Args:
        owner: its directory, which is created when something is written, and the dataset that it is filled from.
        limit: says whether there is room.
        timeout: seconds without progress after which a wait for other threads and processes gives up.
    """

    def __init__(self, *, owner: CacheOwner, limit: CacheLimit, timeout: float) -> None:
        self.owner, self.directory = owner, owner.directory
        self._limit, self._timeout = limit, timeout
        # By the shard's name: files that were verified, and the one that was returned last.
        self._good: dict[str, _Identity] = {}
        self._bad: dict[str, _Identity] = {}
        self._returned: dict[str, _Identity] = {}
        self._warned = False
        self._failed: dict[str, tuple[float, StoreError]] = {}  # when the store could not be read last, and why
        self._filled = ProcessLocal(WakingCount)  # fills of this process that have ended

    def open_or_fill(
        self, spec: ShardSpec, source: ShardSource, *, need: float = 0.0, wait: bool = True
    ) -> BinaryIO | None:
        """Return a shard's raw file, open: the one in the directory, the source's own, or one that is filled now.

        None, without `wait`: another thread or process is filling it, or there is no room now. Arguments and errors
        are those of `DatasetFiles.open`; ConfigError also where the file system has no `flock`.
        """
        file, meter = self._open(spec, source) or self._open_original(spec, source), here()
        if wait:
            meter.traffic.add("misses" if file is None else "hits")
        if file is None:
            stage = meter.clock.enter(SHARDS)
            try:
                file = self._fill(spec, source, need, wait)
            finally:
                meter.clock.enter(stage)
        if file is not None:
            self._returned[spec.name] = _identity(os.fstat(file.fileno()))
        return file

    def has(self, spec: ShardSpec, source: ShardSource) -> bool:
        """Return whether a raw file of the right size is on local disk; its bytes are not looked at."""
        original = source.original(spec)
        with suppress(OSError):
            found = (self.directory / spec.name).stat(follow_symlinks=not self._is_filled)
            if (
                (is_own(found) or not self._is_filled)
                and found.st_size == spec.size
                and self._bad.get(spec.name) != _identity(found)
            ):
                return True
        with suppress(OSError):
            found = original.stat() if original is not None else None
            return bool(found and found.st_size == spec.original_size and self._bad.get(spec.name) != _identity(found))
        return False

    def reject(self, name: str) -> None:
        """Make `open_or_fill` fill a shard again: the file that it returned last, or would return, is bad."""
        if name not in self._returned and (file := self._find(name)) is not None:
            with file:
                self._returned[name] = _identity(os.fstat(file.fileno()))
        if name in self._returned:
            self._bad[name] = self._returned[name]

    def _open(self, spec: ShardSpec, source: ShardSource) -> BinaryIO | None:
        """Return the file of the directory, if it is there and good."""
        file = self._find(spec.name)
        return self._verified(spec, file, source) if file is not None else None

    def _open_original(self, spec: ShardSpec, source: ShardSource) -> BinaryIO | None:
        """Return the source's own raw file, if there is one on local disk."""
        if (path := source.original(spec)) is None:
            return None
        try:
            if spec.part is not None and spec.part.begin is not None:
                file = opened_range(path, spec.part.begin, spec.size)
            else:
                file = opened(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            if other_than_file(path):
                raise source.missing(spec) from error
            raise disk_error(error, path, "read") from error
        return self._verified(spec, file, None)

    @property
    def _is_filled(self) -> bool:
        """Whether the files of the directory are copies; else they are the user's, and may be links."""
        return self.owner.origin is not None

    def _find(self, name: str) -> BinaryIO | None:
        """Return the file of that name, open, and note that it is used; None if there is none that can be believed."""
        path = self.directory / name
        try:
            file = opened(path, lambda *_: open_own(self.directory, name)) if self._is_filled else opened(path)
        except OSError as error:
            if error.errno == errno.EISDIR:
                raise StoreError(
                    f"{path} is a directory where a shard belongs; remove it, or pass another `local` directory"
                ) from error
            if error.errno in LINKED and self._is_filled:
                self._warn_of_link(path, LINKED[error.errno])
                return None
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.ENXIO):
                return None
            if isinstance(error, MixstreamError):
                raise
            if error.errno in FORBIDDEN:
                raise _unreadable(error, path) from error
            raise disk_error(error, path, "read") from error
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            file.close()
            return None
        if self.directory in self._limit:
            with suppress(OSError):  # another user's file
                os.utime(file.fileno(), ns=(time.time_ns(), found.st_mtime_ns))
        return file

    def _warn_of_link(self, path: Path, what: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{path} is {what}: it may be changed from elsewhere, so it is not used, and the shard is fetched "
                f"again, as are others like it; {self.directory} is a cache, whose files have one name each: copy "
                "files into it (`cp -rL`), or read a directory of links as `remote`",
                RuntimeWarning,
                stacklevel=2,
            )

    def _verified(self, spec: ShardSpec, file: BinaryIO, source: ShardSource | None) -> BinaryIO | None:
        """Return a file if it is good; close it if not. `source` is None for an original, which is never replaced."""
        good = False
        try:
            if source is not None and self.owner.origin is not None:
                self.owner.bind()
            good = self._is_good(spec, file, source)
        finally:
            if not good:
                file.close()
        return file if good else None

    def _is_good(self, spec: ShardSpec, file: BinaryIO, source: ShardSource | None) -> bool:
        """Return whether a file is what the index says; each is verified once.

        Raises:
            ShardCorruptError: it is not, and there is no source to fill it again from.
        """
        identity = _identity(os.fstat(file.fileno()))
        if self._bad.get(spec.name) == identity:
            return False
        if self._good.get(spec.name) == identity:
            return True
        try:
            spec.verify(file)
        except ShardCorruptError as error:
            if source is None or not source.can_fill(spec):
                error.add_note(f"file {file.name}")
                raise
            self._bad[spec.name] = identity
            return False
        if source is not None and not is_current(spec, spec, file, source):
            self._bad[spec.name] = identity
            return False
        self._good[spec.name] = identity
        return True

    def _fill(self, spec: ShardSpec, source: ShardSource, need: float, wait: bool) -> BinaryIO | None:
        """Fill the file, or wait for another thread or process that does."""
        if not source.can_fill(spec):
            raise source.missing(spec)
        self.owner.bind()
        kept, scarce, tries = source.kept(spec), False, _TRIES
        while tries:
            fill = CacheFill(
                spec=spec,
                kept=kept,
                directory=self.directory,
                need=need,
                wait=wait,
                timeout=self._timeout,
                scarce=scarce,
            )
            try:
                return self._fill_once(fill, source)
            except OSError as error:
                if isinstance(error, MixstreamError):
                    raise
                if error.errno in FULL and (not fill.has_begun or out_of_inodes(self.directory)):
                    if not self._limit.make_inode(fill):
                        return None
                    continue
                self._explain(error, fill)
                scarce, tries = scarce or error.errno in FULL, tries - 1
        raise StoreError(
            f"{self.directory / spec.name} was removed or linked {_TRIES} times while it was written; end the program "
            "that deletes or links files in that directory, or pass another `local`"
        )

    def _explain(self, error: OSError, fill: CacheFill) -> None:
        """Raise what the system refused while a shard was written as an error of ours, if trying again cannot help."""
        if error.errno in FORBIDDEN:
            raise forbidden(error, self.directory, f"fetch {fill.spec.name}") from error
        if error.errno in FULL and fill.scarce:
            raise disk_full(fill) from error
        if error.errno not in (*FULL, errno.ENOENT):  # ENOENT: it was removed, or the directory is being removed
            raise disk_error(error, self.directory / fill.spec.name, "write") from error

    def _fill_once(self, fill: CacheFill, source: ShardSource) -> BinaryIO | None:
        spec, kept = fill.spec, fill.kept
        with ExitStack() as stack:
            begun = self._begin(fill, spec.name, source, stack)
            if not isinstance(begun, Partial):
                return begun
            if (file := self._open(spec, source)) is not None:
                return file
            if kept is not None and not isinstance(begun := self._begin(fill, kept.name, source, stack), Partial):
                return begun
            if not self._limit.make_room(fill):
                return None
            try:
                source.fill(spec, *fill.partials)
            except (StoreFaultError, StoreBusyError) as error:
                self._failed[spec.name] = time.monotonic(), error
                raise
            self._failed.pop(spec.name, None)
            for partial in fill.partials[1:]:
                if kept is not None and partial.filled:
                    partial.publish(self.directory, kept.name, durable=self.owner.durable).close()
            file = fill.partials[0].publish(self.directory, spec.name, durable=self.owner.durable)
            self._good[spec.name] = _identity(os.fstat(file.fileno()))  # its bytes were verified when they arrived
            here().traffic.filled(self.directory, spec.name)
            return file

    def _begin(self, fill: CacheFill, name: str, source: ShardSource, stack: ExitStack) -> Partial | BinaryIO | None:
        """Return the partial of a file, locked; while another thread or process has it, wait for the shard it fills."""
        parent, leaf = stack.enter_context(parent_of(self.directory, name, create=True))
        stall = StallTimeout(
            self._timeout,
            str(self.directory / name),
            ", which another thread or process is fetching; that process is stuck: end it, and this one continues",
            holder=lambda: holder(parent, partial_name(leaf)),
        )
        asked, filled = time.monotonic(), self._filled.value
        seen = filled.now
        while (lock := try_lock(parent, partial_name(leaf))) is None:
            if (file := self._open(fill.spec, source)) is not None or not fill.wait:
                return file
            stall.pause(_progress(parent, partial_name(leaf)), filled.beyond(seen))
            seen = filled.now
        partial = Partial(parent, leaf, lock)
        stack.callback(filled.add)
        stack.callback(partial.close)
        failed, error = self._failed.get(fill.spec.name, (0.0, None))
        if error is not None and failed >= asked:  # a thread that this one waited for has made all attempts just now
            raise error
        fill.partials.append(partial)
        return partial


def _identity(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _unreadable(error: OSError, path: Path) -> StoreAccessError:
    made = StoreAccessError(
        f"{path} exists but cannot be read ({os.strerror(error.errno or 0)}): it may belong to another user: ask "
        "them to run chmod -R a+rX on the directory, or pass another `local` directory"
    )
    made.errno = error.errno
    return made


def _progress(parent: int, name: str) -> tuple[int, int, int] | None:
    """Return what changes while a file is written."""
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
