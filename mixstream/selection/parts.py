"""Parts of scores, as several workers wrote them: which there are, and whether they belong together.

Rules: part i of n has the rows of the shards `table.part(i, n)` and lies in `PATH/parts/0000i-of-0000n/`. Its manifest
lists its own shards only, so that many parts of many shards stay small. Parts are used only if all n are there and
agree on domain, shards, columns and `made["inputs"]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray

from mixstream.errors import SelectionError
from mixstream.records import dataclass
from mixstream.selection.artefact_files import ArtefactFiles, check_files
from mixstream.selection.column import FLAGS_DTYPE, Column, ColumnRecord, column_files, read_columns
from mixstream.selection.manifest import SCORES_PART, FileRecord, decode_manifest
from mixstream.selection.npy import refuse
from mixstream.selection.shard_table import ShardIdentity, ShardTable
from mixstream.selection.staging import MANIFEST, PART_NAME, PARTS

_MOST = 1_000_000  # parts


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The files of some consecutive rows: of all of them, or of one part."""

    begin: int
    end: int
    files: ArtefactFiles
    records: Mapping[str, FileRecord]
    _mapped: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False)

    def array(self, name: str, column: Column | None) -> NDArray[Any]:
        """Return a column of these rows, or their flags, mapped."""
        if name not in self._mapped:
            dtype, shape = (column.type, column.shape) if column is not None else (FLAGS_DTYPE, ())
            file = f"{name}.npy"
            self._mapped[name] = self.files.array(
                file, self.records[file], dtype=dtype, shape=(self.end - self.begin, *shape)
            )
        return self._mapped[name]

    def __getstate__(self) -> dict[str, Any]:
        # A copy maps the files itself: columns are not pickled.
        return {**vars(self), "_mapped": {}}


class PartRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest of one part."""

    format: str
    domain: str
    part: tuple[int, int]
    table: str
    first_shard: int
    shards: tuple[ShardIdentity, ...]
    columns: tuple[ColumnRecord, ...]
    files: dict[str, FileRecord]
    made: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Part:
    directory: Path
    record: PartRecord

    @property
    def inputs(self) -> Any:
        return self.record.made.get("inputs")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """All parts of some scores."""

    domain: str
    table: ShardTable
    columns: dict[str, Column]
    made: dict[str, Any]
    pieces: list[Piece]


def part_directory(path: Path, part: tuple[int, int]) -> Path:
    """Return where a part lies."""
    i, n = part
    return path / PARTS / f"{i:05}-of-{n:05}"


def find_parts(path: Path) -> Parts:
    """Return all parts of scores.

    Raises:
        SelectionError: parts are missing, or do not belong together.
    """
    parts = _all_parts(path)
    first = parts[0].record
    where = f"{parts[0].directory}/{MANIFEST}"
    table = ShardTable.from_json(
        [msgspec.to_builtins(shard) for part in parts for shard in part.record.shards], where=f"{path}/{PARTS}"
    )
    if table.digest != first.table:
        refuse(f"{path}/{PARTS}", "the shards of the parts are not the shards that they were made for")
    columns = read_columns(first.columns, where=where)
    pieces = []
    for part in parts:
        begin, end = table.part(*part.record.part)
        if (begin, end - begin) != (part.record.first_shard, len(part.record.shards)):
            refuse(f"{part.directory}/{MANIFEST}", f"it has {len(part.record.shards)} shards, not {begin} to {end}")
        check_files(part.record.files, column_files(columns), where=f"{part.directory}/{MANIFEST}")
        rows = int(table.start_S[begin]), int(table.start_S[end])
        files = ArtefactFiles(directory=part.directory)
        pieces.append(Piece(begin=rows[0], end=rows[1], files=files, records=part.record.files))
    return Parts(domain=first.domain, table=table, columns=columns, made=first.made, pieces=pieces)


def _all_parts(path: Path) -> list[_Part]:
    """Return all parts in order; they belong together."""
    found = _found_parts(path)
    totals = sorted({n for _, n in found})
    if len(totals) > 1:
        raise SelectionError(
            f"{path}/{PARTS} holds parts of {' and of '.join(map(str, totals))}; rows would count twice; remove the "
            "parts of one division, or write with overwrite=True (--overwrite) into another place"
        )
    total = totals[0] if totals else 0
    missing = [i for i in range(total) if (i, total) not in found]
    if missing or not total:
        names = ", ".join(f"{i}/{total}" for i in missing[:8]) + (
            f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        )
        raise SelectionError(f"{path}: the parts {names} are missing; run the command for them (--part I/{total})")
    parts = [found[i, total] for i in range(total)]
    first = parts[0]
    for part in parts[1:]:
        for what in ("domain", "table", "columns"):
            if getattr(part.record, what) != getattr(first.record, what):
                refuse(str(part.directory), f"its {what} differs from that of part 0: they are of different artefacts")
        if part.inputs != first.inputs:
            keys = _differing(part.inputs, first.inputs)
            raise SelectionError(
                f"{part.directory} was made with other inputs than part 0 ({keys}); they do not belong together; write "
                "it again with overwrite=True (--overwrite)"
            )
    return parts


def _found_parts(path: Path) -> dict[tuple[int, int], _Part]:
    found: dict[tuple[int, int], _Part] = {}
    for manifest in sorted((path / PARTS).glob(f"*/{MANIFEST}")):
        directory = manifest.parent
        named = PART_NAME.fullmatch(directory.name)
        record = decode_manifest(manifest.read_bytes(), PartRecord, (SCORES_PART,), where=str(manifest))
        i, n = record.part
        if named is None or (int(named[1]), int(named[2])) != (i, n) or not 0 <= i < n <= _MOST:
            refuse(str(manifest), f"it says part {i} of {n}, and lies in {directory.name!r}")
        if (i, n) in found:
            refuse(str(directory), f"part {i} of {n} is there twice, also as {found[i, n].directory.name!r}")
        found[i, n] = _Part(directory=directory, record=record)
    return found


def _differing(one: Any, other: Any) -> str:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return f"{one!r:.60} and {other!r:.60}"
    keys = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
    return ", ".join(f"{key}: {one.get(key)!r:.60} and {other.get(key)!r:.60}" for key in keys[:4])
