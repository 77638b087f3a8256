"""Parts of scores become one artefact, and which of them are done.

Rules: merging copies in pieces, checks each part by its hash, and removes the parts after the merged manifest is in
place; after a kill it can be repeated. The files of the merged scores do not depend on the number of parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import xxhash

from mixstream.errors import SelectionError
from mixstream.selection.column import FLAGS, FLAGS_DTYPE, Column
from mixstream.selection.manifest import SCORES, SCORES_PART, FileRecord, as_json, decode_manifest, directory_of
from mixstream.selection.npy import HEADER_BYTES, npy_header, refuse
from mixstream.selection.parts import PartRecord, part_directory
from mixstream.selection.scores import Scores, ScoresRecord
from mixstream.selection.scores_writer import scores_manifest
from mixstream.selection.shard_table import check_part
from mixstream.selection.staging import MANIFEST, StagedFiles, discard_parts

_COPIED = 1 << 20  # bytes at a time


def scores_done(
    path: str | PathLike[str], part: tuple[int, int] = (0, 1), *, made: Mapping[str, Any] | None = None
) -> bool:
    """Return whether a part of scores is complete, so that a command that is run again can leave it out.

    Merged scores have all parts. A part that was made with other inputs is not done; `ScoresWriter` refuses to replace
    it unless it is to overwrite.

    Args:
        path: directory of the artefact.
        part: (i, n).
        made: compared by its `inputs`; None to ask only whether the part is there.
    """
    check_part(part)
    place = directory_of(path)
    for directory, record, formats in (
        (place, ScoresRecord, (SCORES,)),
        (part_directory(place, part), PartRecord, (SCORES_PART,)),
    ):
        try:
            found = decode_manifest((directory / MANIFEST).read_bytes(), record, formats, where=str(directory))
        except (OSError, SelectionError):
            continue
        inputs = as_json(made, "made")["inputs"] if made is not None else None
        files_there = all(
            (directory / name).is_file() and (directory / name).stat().st_size == entry.bytes
            for name, entry in found.files.items()
        )
        if files_there and (made is None or found.made.get("inputs") == inputs):
            return True
    return False


def merge_scores(path: str | PathLike[str]) -> Scores:
    """Make one artefact of all parts, and remove them; scores that are merged already are returned as they are.

    >>> from tempfile import TemporaryDirectory
    >>> from mixstream.selection import ScoresWriter, ShardIdentity, ShardTable, provenance
    >>> shards = tuple(ShardIdentity(name=f"shard.0000{i}.mds", samples=2, raw_bytes=90) for i in range(2))
    >>> with TemporaryDirectory() as place:
    ...     made = provenance({"seed": 0})
    ...     for part in [(1, 2), (0, 2)]:  # by different processes, as a rule
    ...         if not scores_done(place, part, made=made):
    ...             with ScoresWriter(place, domain="web", table=ShardTable(shards=shards), made=made, part=part,
    ...                               columns=[Column(name="quality", dtype="f4")]) as writer:
    ...                 writer.write(writer.begin, {"quality": [part[0], part[0] + 0.5]})
    ...     merge_scores(place).column("quality").tolist()
    [0.0, 0.5, 1.0, 1.5]

    Memory is that of one piece of 1 MiB; the disk holds the rows twice until the parts are removed.

    Raises:
        SelectionError: parts are missing, damaged or do not belong together; nothing was changed.
        ConfigError: another process is merging them.
    """
    place = directory_of(path)
    if (place / MANIFEST).exists():
        scores = Scores.open(place)
        discard_parts(place)  # a merge was killed between its last two steps
        return scores
    scores = Scores.open(place)
    with StagedFiles(place) as staged:
        records = {
            f"{name}.npy": _concatenated(scores, name, column, staged.directory / f"{name}.npy")
            for name, column in [*scores.columns.items(), (FLAGS, None)]
        }
        manifest = scores_manifest(scores.domain, scores.table, scores.columns, records, scores.made)
        staged.publish(records, manifest=manifest)
    discard_parts(place)
    return Scores.open(place)


def _concatenated(scores: Scores, name: str, column: Column | None, path: Path) -> FileRecord:
    """Write a column of all parts, one after the other, and compare each part with its hash."""
    dtype, shape = (column.type, column.shape) if column is not None else (FLAGS_DTYPE, ())
    header, whole, size = npy_header(dtype, (scores.rows, *shape)), xxhash.xxh3_128(), 0
    with path.open("wb") as out:
        out.write(header)
        whole.update(header)
        for piece in scores.pieces:
            piece.array(name, column)  # checks its header and its size
            record, source = piece.records[path.name], Path(piece.files.place, path.name)
            digest = xxhash.xxh3_128()
            with source.open("rb") as file:
                if (own := file.read(HEADER_BYTES)) != npy_header(dtype, (piece.end - piece.begin, *shape)):
                    refuse(str(source), "its header is not the one that parts are written with")
                digest.update(own)
                while data := file.read(_COPIED):
                    digest.update(data)
                    whole.update(data)
                    out.write(data)
            if digest.hexdigest() != record.xxh3_128:
                refuse(str(source), f"xxh3_128 is {digest.hexdigest()}, {MANIFEST} says {record.xxh3_128}")
        size = out.tell()
    return FileRecord(bytes=size, xxh3_128=whole.hexdigest())
