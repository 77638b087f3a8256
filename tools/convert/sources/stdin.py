"""SRC `-`: standard input → a file in `DIR/.convert/stdin/`, since a part that is interrupted is read again.

Rules. The copy takes as much disk as the input and no memory. What is in it says its compression, and its hash says
which bytes they are: a restart that gets the same bytes goes on, other bytes are other sources. A copy stays until the
output is published, so that an error can be looked at; the next command with `-` replaces it.
"""

from __future__ import annotations

import errno
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

import xxhash

from mixstream.errors import ConfigError
from mixstream.storage import named_full_disk

from ...shared.compressed import COMPRESSIONS
from ..files.source_files import SourceFile
from ..readers.foreign import packed_as
from .config import Source
from .naming import STDIN, split_source

_BLOCK = 1 << 20


def takes_stdin(sources: Sequence[str | Source]) -> bool:
    """Whether a SRC is standard input. Raises ConfigError if several are."""
    count = sum(split_source(Source.of(source).typed)[1] == STDIN for source in sources)
    if count > 1:
        raise ConfigError(f"{count} SRC are `-`, and standard input can be read once. Leave out all but one.")
    return bool(count)


def spool(directory: Path) -> SourceFile:
    """Copy standard input to a file in `directory`, and describe it.

    Raises:
        ConfigError: it is empty, or a terminal.
        OSError: it cannot be copied.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise ConfigError("SRC -: standard input is a terminal. Pipe documents into the command: zcat FILE | …")
    discard(directory)
    directory.mkdir(parents=True)
    whole = directory / "stdin"
    hashed = xxhash.xxh3_128()
    try:
        with named_full_disk(whole):
            head = _copy(cast(BinaryIO, sys.stdin.buffer), whole, hashed)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            error.add_note(f"standard input is copied to {directory} until it is converted, which needs room for it")
        raise
    if not head:
        raise ConfigError(
            "SRC -: standard input is empty. The command before the | may have failed: look at its errors."
        )
    compression = COMPRESSIONS.get(packed_as(head), "")
    path = whole.rename(f"{whole}.{compression}") if compression else whole
    stat = path.stat()
    return SourceFile(
        path=str(path.absolute()),
        name="stdin",
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        format="",
        compression=compression,
        version=f"xxh3_128 {hashed.hexdigest()}",
    )


def discard(directory: Path) -> None:
    """Remove the copy, if there is one."""
    if directory.is_dir():
        shutil.rmtree(directory)


def _copy(stream: BinaryIO, path: Path, hashed: xxhash.xxh3_128) -> bytes:
    """Copy all of a stream; returns its first bytes."""
    head = b""
    with path.open("xb") as file:
        while block := stream.read(_BLOCK):
            head = head or block[:64]
            hashed.update(block)
            file.write(block)
    return head
