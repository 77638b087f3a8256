"""Writes packings: parts of a domain's shards, each by one worker, then one artefact of all parts.

Rules. A part appears whole or not at all, in `PATH/parts/0000i-of-0000n/`, and so does the artefact
(`selection.staging`). Memory is that of the largest shard's documents. What is written depends on shards and settings
alone, not on parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.data.packed import TOKENS, value_dtype
from mixstream.errors import ConfigError, SelectionError
from mixstream.formats import ShardEntry
from mixstream.packing.algorithms import Pieces, pack_documents
from mixstream.packing.documents import ShardDocuments, spans_of
from mixstream.packing.packing import Packing
from mixstream.packing.record import (
    BEGINS,
    COUNTS,
    FILES,
    HASHES,
    PACKING,
    PACKING_PART,
    SPANS,
    U4,
    U8,
    PackingPartRecord,
    Totals,
    hash_rows,
    packing_id,
)
from mixstream.packing.settings import PackingSettings
from mixstream.packing.source import DocumentSource
from mixstream.plan.permutation import permute
from mixstream.plan.rng import derive_key
from mixstream.selection.artefact_files import ArtefactFiles, check_files
from mixstream.selection.manifest import check_made, decode_manifest, directory_of, encode_manifest
from mixstream.selection.npy import ArrayWriter, hash_file
from mixstream.selection.parts import part_directory
from mixstream.selection.shard_table import ShardTable
from mixstream.selection.shard_table import fingerprint as shard_fingerprint
from mixstream.selection.staging import MANIFEST, StagedFiles, discard_parts

_NONE = np.empty(0, dtype=np.int64)
_NO_DOCUMENTS = ShardDocuments(begin_D=_NONE, tokens_D=_NONE, edge_M1=np.zeros(1, dtype=np.int64))
_COPIED = 1 << 20  # numbers that are copied at a time


class PackingWriter:
    """Writes one part of a packing, shard by shard in the order of the table; a context manager.

    Args:
        path: directory of the whole artefact.
        domain: whose documents are packed.
        table: the shards of the domain.
        settings: how documents are packed.
        made: how (`mixstream.selection.provenance`).
        part: (i, n), the shards `table.part(i, n)`.
        overwrite: replace the part if it is there.

    Raises:
        OutputExistsError: the part is there, and not `overwrite`.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        domain: str,
        table: ShardTable,
        settings: PackingSettings,
        made: Mapping[str, Any],
        part: tuple[int, int],
        overwrite: bool = False,
    ) -> None:
        self.table, self.settings, self._domain, self._part = table, settings, domain, part
        self.first_shard, self.end_shard = table.part(*part)
        self.totals = Totals()
        self._made = check_made(made)
        self._counts: list[tuple[int, int]] = []
        self._hashes: list[int] = []
        self._fingerprints: list[str | None] = []
        self._staged = StagedFiles(part_directory(directory_of(path), part), overwrite=overwrite)
        self._writers = {
            BEGINS: ArrayWriter(self._staged.directory / BEGINS, U4),
            SPANS: ArrayWriter(self._staged.directory / SPANS, U4, (3,)),
        }

    def write(self, documents: ShardDocuments, *, fingerprint: str | None) -> Totals:
        """Pack the documents of the next shard; returns what became of them.

        Args:
            documents: of the shard.
            fingerprint: of its header (`mixstream.selection.fingerprint`); None if it was not read.
        """
        self._staged.check()
        shard = self.first_shard + len(self._counts)
        pieces = pack_shard(documents, self.settings, name=self.table.shards[shard].name)
        begin_N = documents.begin_D[pieces.document_N] + pieces.begin_N
        spans, count_N = spans_of(documents, begin_N, pieces.tokens_N)
        edge_N = np.concatenate(([0], np.cumsum(count_N, dtype=np.int64)))
        begin_R1 = edge_N[pieces.begin_R1].astype(U4)
        self._writers[BEGINS].write(begin_R1)
        self._writers[SPANS].write(spans)
        self._counts.append((pieces.rows, len(spans)))
        self._hashes.append(hash_rows(begin_R1, spans))
        self._fingerprints.append(fingerprint)
        found = Totals(
            rows=pieces.rows,
            spans=len(spans),
            documents=pieces.documents,
            tokens=int(pieces.tokens_N.sum()),
            cut=pieces.cut,
            dropped=pieces.dropped,
            shared=documents.cut,
        )
        self.totals += found
        return found

    def __enter__(self) -> PackingWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._staged.check()
                self._publish()
        finally:
            for writer in self._writers.values():
                writer.abort()
            self._staged.close()

    def _publish(self) -> None:
        assert len(self._counts) == self.end_shard - self.first_shard, "every shard of the part was written"
        for writer in self._writers.values():
            writer.close()
        small = {
            COUNTS: np.array(self._counts, dtype=U4).reshape(-1, 2),
            HASHES: np.array(self._hashes, dtype=U8),
        }
        _write_small(self._staged.directory, small)
        files = _files(self._staged.directory)
        content = {
            "format": PACKING_PART,
            "domain": self._domain,
            "part": self._part,
            "table": self.table.digest,
            "first_shard": self.first_shard,
            "fingerprints": self._fingerprints,
            "settings": self.settings,
            "totals": self.totals,
            "files": files,
            "made": self._made,
        }
        self._staged.publish(files, manifest=encode_manifest(content))


def pack_shard(documents: ShardDocuments, settings: PackingSettings, *, name: str) -> Pieces:
    """Return the rows of a shard; `name` is that of its file, by which documents are shuffled if there is a seed."""
    order_D = None
    if settings.seed is not None:
        size = len(documents.tokens_D)
        order_D = permute(np.arange(size), size, derive_key(settings.seed, "packing", name)) if size else None
    return pack_documents(
        documents.tokens_D,
        seq_len=settings.seq_len,
        algorithm=settings.algorithm,
        long_documents=settings.long_documents,
        order_D=order_D,
    )


def write_part(
    path: str | PathLike[str],
    source: DocumentSource,
    *,
    table: ShardTable,
    settings: PackingSettings,
    made: Mapping[str, Any],
    part: tuple[int, int] = (0, 1),
    overwrite: bool = False,
    advance: Callable[[int], None] = lambda _: None,
) -> Totals:
    """Pack the shards of one part, and return what became of their documents. Shards without samples are not fetched.

    Args:
        path: directory of the whole artefact.
        source: where documents are.
        table: the shards of the domain.
        settings: how documents are packed.
        made: how the packing is made (`mixstream.selection.provenance`).
        part: (i, n), the shards `table.part(i, n)`.
        overwrite: replace the part if it is there.
        advance: called with the samples of each shard that is done.

    Raises:
        ShardCorruptError, ShardNotFoundError, StoreError: a shard cannot be read.
        ConfigError: columns have other lengths than the tokens.
        OutputExistsError: the part is there, and not `overwrite`.
    """
    domain = source.domain
    check_pad(settings, domain.shards)
    with PackingWriter(
        path, domain=domain.name, table=table, settings=settings, made=made, part=part, overwrite=overwrite
    ) as writer:
        for shard in range(writer.first_shard, writer.end_shard):
            if not domain.samples_S[shard]:
                writer.write(_NO_DOCUMENTS, fingerprint=None)
                continue
            data = domain.map(shard)
            domain.check_header(shard, data)
            writer.write(source.of(shard, data), fingerprint=shard_fingerprint(domain.container, shard, data))
            advance(domain.shards[shard].samples)
        return writer.totals


def check_pad(settings: PackingSettings, shards: Sequence[ShardEntry]) -> None:
    """Check that the tokens of all shards can be padded.

    Raises:
        ConfigError: the dtype of a shard cannot hold what is padded with.
    """
    for shard in {shard.column_encodings: shard for shard in shards}.values():
        dtype = value_dtype(shard, TOKENS)
        if settings.pad_id is not None and not np.iinfo(dtype).min <= settings.pad_id <= np.iinfo(dtype).max:
            raise ConfigError(
                f"pad_id={settings.pad_id} does not fit the tokens of shard {shard.raw.basename!r}, which are {dtype}: "
                f"give a number of {np.iinfo(dtype).min} to {np.iinfo(dtype).max}, such as the end-of-document token"
            )


def part_is_done(path: str | PathLike[str], part: tuple[int, int], *, made: Mapping[str, Any]) -> bool:
    """Return whether a part is there that equal inputs made."""
    manifest = part_directory(directory_of(path), part) / MANIFEST
    try:
        record = decode_manifest(manifest.read_bytes(), PackingPartRecord, (PACKING_PART,), where=str(manifest))
    except (OSError, SelectionError):
        return False
    return record.part == part and record.made.get("inputs") == check_made(made)["inputs"]


def merge_packing(
    path: str | PathLike[str], *, table: ShardTable, parts: int, made: Mapping[str, Any], overwrite: bool = False
) -> Packing:
    """Make one artefact of all parts of a packing, and remove them.

    Args:
        path: directory of the artefact.
        table: the shards of the domain.
        parts: how many parts there are.
        made: how it is made; its inputs are those of every part.
        overwrite: replace an artefact that is there.

    Raises:
        SelectionError: a part is missing, damaged, or was made otherwise.
        OutputExistsError: an artefact is there, and not `overwrite`.
    """
    place = directory_of(path)
    found = [_open_part(place, (i, parts), table, made) for i in range(parts)]
    domain, settings = found[0][1].domain, found[0][1].settings
    fingerprints = enumerate(text for _, record in found for text in record.fingerprints)
    table = table.with_fingerprints({number: text for number, text in fingerprints if text is not None})
    with StagedFiles(place, overwrite=overwrite) as staged:
        counts_S2, hashes_S = _joined(staged.directory, found)
        _write_small(staged.directory, {COUNTS: counts_S2, HASHES: hashes_S})
        totals = Totals()
        for _, record in found:
            totals += record.totals
        files = _files(staged.directory)
        content = {
            "format": PACKING,
            "domain": domain,
            "shards": table.to_json(),
            "settings": settings,
            "totals": totals,
            "files": files,
            "made": check_made(made),
            "id": packing_id(table, settings, counts_S2, hashes_S),
        }
        staged.publish(files, manifest=encode_manifest(content))
    discard_parts(place)
    return Packing.open(place)


def _open_part(
    place: Path, part: tuple[int, int], table: ShardTable, made: Mapping[str, Any]
) -> tuple[ArtefactFiles, PackingPartRecord]:
    directory = part_directory(place, part)
    where = f"{directory}/{MANIFEST}"
    if not part_is_done(place, part, made=made):
        raise SelectionError(f"{where}: part {part[0]}/{part[1]} is missing, or was made otherwise; run it again")
    record = decode_manifest((directory / MANIFEST).read_bytes(), PackingPartRecord, (PACKING_PART,), where=where)
    first, end = table.part(*part)
    if (record.table, record.first_shard, len(record.fingerprints)) != (table.digest, first, end - first):
        raise SelectionError(f"{where}: it is of other shards than {first} to {end - 1} of this dataset; run it again")
    check_files(record.files, FILES, where=where)
    return ArtefactFiles(directory=directory), record


def _joined(
    directory: Path, parts: list[tuple[ArtefactFiles, PackingPartRecord]]
) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
    """Copy rows and spans of all parts one after the other; returns counts and hashes of all shards."""
    counts, hashes = [np.empty((0, 2), dtype=U4)], [np.empty(0, dtype=U8)]
    with ExitStack() as stack:
        begins, spans = ArrayWriter(directory / BEGINS, U4), ArrayWriter(directory / SPANS, U4, (3,))
        stack.callback(begins.abort)
        stack.callback(spans.abort)
        for files, record in parts:
            shards = len(record.fingerprints)
            shapes = {
                begins: (BEGINS, (record.totals.rows + shards,)),
                spans: (SPANS, (record.totals.spans, 3)),
            }
            for writer, (name, shape) in shapes.items():
                array = files.array(name, record.files[name], dtype=U4, shape=shape)
                for at in range(0, len(array), _COPIED):
                    writer.write(array[at : at + _COPIED])
            counts.append(files.array(COUNTS, record.files[COUNTS], dtype=U4, shape=(shards, 2)))
            hashes.append(files.array(HASHES, record.files[HASHES], dtype=U8, shape=(shards,)))
        begins.close()
        spans.close()
    return np.concatenate(counts), np.concatenate(hashes)


def _write_small(directory: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    for name, array in arrays.items():
        writer = ArrayWriter(directory / name, array.dtype, array.shape[1:])
        writer.write(array)
        writer.close()


def _files(directory: Path) -> dict[str, dict[str, Any]]:
    return {
        name: {"bytes": (directory / name).stat().st_size, "xxh3_128": hash_file(directory / name)} for name in FILES
    }
