"""One part of a domain: its documents are found and packed, shard by shard. This is what a worker runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixstream.documents import Documents
from mixstream.packing import DocumentSource, PackingSettings, Totals, document_source, write_part
from mixstream.selection import DomainRows, Selection
from mixstream.storage import open_store

from ..shared.console import Advance
from ..shared.options import Reading


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedDomain:
    """What is packed, and where to; picklable.

    Attributes:
        name: of the domain.
        url: of its dataset.
        reading: how its shards are read.
        columns: what rows have; None for all columns.
        eos_id: the token that ends a document, as the user gave it.
        selection: path or URL of a selection; None for all samples.
        joins: whether rows can be made without knowing documents.
    """

    name: str
    url: str
    reading: Reading
    columns: tuple[str, ...] | None
    eos_id: int | None
    selection: str | None
    joins: bool

    def open(self) -> tuple[DomainRows, DocumentSource]:
        """Open the domain, and find out where its documents are.

        Raises:
            ConfigError: it is not known, or the columns cannot be packed.
            SelectionError: the selection was made for other shards.
        """
        rows = self.reading.open(self.url, name=self.name)
        kept = None
        if self.selection is not None:
            kept = Selection.open(self.selection, domain=self.name).view(rows.domain.shards)
        about = rows.domain.container.extra.get("mixstream")
        sidecar = None
        if isinstance(about, Mapping):
            store = open_store(self.url, timeout=self.reading.retry.timeout)
            sidecar = Documents.of(store, about, retry=self.reading.retry)
        return rows, document_source(
            rows.domain,
            columns=self.columns,
            sidecar=sidecar,
            eos_id=self.eos_id,
            kept=kept,
            joins=self.joins,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PackTask:
    """One part of one domain.

    Attributes:
        domain: what is packed.
        settings: how.
        out: directory of its packing.
        part: (i, n).
        made: provenance.
        overwrite: replace the part if it exists.
    """

    domain: PackedDomain
    settings: PackingSettings
    out: Path
    part: tuple[int, int]
    made: Mapping[str, Any]
    overwrite: bool

    def __str__(self) -> str:
        """Its name in error messages."""
        return f"part {self.part[0]}/{self.part[1]} of domain {self.domain.name!r}"


def pack_part(task: PackTask, advance: Advance) -> Totals:
    """Write one part; returns what became of its documents."""
    rows, source = task.domain.open()
    return write_part(
        task.out, source, table=rows.table, settings=task.settings, made=task.made, part=task.part,
        overwrite=task.overwrite, advance=advance,
    )  # fmt: skip
