"""Checks token files: what can be known of them without hashes. Columns are decoded, as far as they are computed."""

from __future__ import annotations

from collections.abc import Iterator

from mixstream.errors import MixstreamError
from mixstream.formats import TokenFiles
from mixstream.formats.columns import Columns
from mixstream.selection import DomainRows
from mixstream.storage import StoredFile, open_store

from .shard import Fault


def check_borders(rows: DomainRows) -> Iterator[Fault]:
    """Yield the faults of the files that list borders of documents; headers and sizes were checked before."""
    container = rows.domain.container
    if isinstance(container, Columns):
        yield from _check_columns(rows, container)
        return
    assert isinstance(container, TokenFiles)
    for number, file in enumerate(container.index.files):
        try:
            if container.cuts_of is not None:
                container.cuts_of(number)
        except (MixstreamError, OSError) as error:
            name = file.borders.name if file.borders is not None else file.name
            yield Fault.of("index", name, error, todo="write the index again, or copy both files from one place")


def _check_columns(rows: DomainRows, container: Columns) -> Iterator[Fault]:
    """Yield the files of which a shard cannot be computed; nothing is cached."""
    files, bad = rows.domain.files, set[str]()
    store = files.store or open_store(files.describe())
    for number, shard in enumerate(container.shards):
        assert shard.part is not None, "shards are parts of files"
        if shard.part.begin is not None or shard.part.name in bad:
            continue
        try:
            container.make(number, StoredFile(store, shard.part.name, shard.part.bytes, retry=files.retry))  # pyright: ignore[reportArgumentType] - a RawIOBase that reads bytes
        except (MixstreamError, OSError) as error:
            bad.add(shard.part.name)
            yield Fault.of("damaged", shard.part.name, error, todo="write the file again, or copy it from its origin")
