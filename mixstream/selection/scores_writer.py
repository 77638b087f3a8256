"""Writes scores: the rows of one part, or of all, in any order (format `mixstream.scores/1`).

Rules: nothing is visible until every row was written and the writer closed without error. A writer of part i of n has
the rows of the shards `table.part(i, n)`; parts are written by any processes in any order, into `PATH/parts/`, and
`merge_scores` makes one artefact of them. The only part of one is the artefact itself. Memory is that of one block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixstream.errors import ConfigError, OutputExistsError
from mixstream.selection.column import (
    FAILED,
    FLAGS,
    FLAGS_DTYPE,
    SCORED,
    TOO_SHORT,
    Column,
    check_columns,
    columns_json,
    stored,
)
from mixstream.selection.manifest import SCORES, SCORES_PART, FileRecord, check_made, directory_of, encode_manifest
from mixstream.selection.npy import ArrayWriter, hash_file
from mixstream.selection.parts import part_directory
from mixstream.selection.scores import scores_id
from mixstream.selection.shard_table import ShardTable, check_part
from mixstream.selection.staging import MANIFEST, StagedFiles, retire

_UNWRITTEN = 0xFF
_PIECE = 1 << 22  # rows


class ScoresWriter:
    """Writes the scores of one domain, or of one part of its rows; a context manager.

    >>> from tempfile import TemporaryDirectory
    >>> from mixstream.selection import Scores, ShardIdentity, provenance
    >>> table = ShardTable(shards=(ShardIdentity(name="shard.00000.mds", samples=4, raw_bytes=90),))
    >>> columns = [Column(name="quality", dtype="f4", higher_is_better=True)]
    >>> with TemporaryDirectory() as place:
    ...     with ScoresWriter(place, domain="web", table=table, columns=columns, made=provenance({})) as writer:
    ...         writer.write(0, {"quality": [0.5, 0.25, float("nan"), 1.0]}, flags=[1, 1, 4, 1])
    ...     Scores.open(place).column("quality").tolist()
    [0.5, 0.25, 0.0, 1.0]

    Args:
        path: directory of the artefact.
        domain: whose rows these are.
        table: the shards of the domain.
        columns: what is written.
        made: how (`provenance`); parts of one artefact have equal `made["inputs"]`.
        part: (i, n): write part i of n.
        overwrite: replace what is there.

    Raises:
        ConfigError: an argument is invalid, or another process writes this part.
        OutputExistsError: the part or the artefact exists, and not `overwrite`.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        domain: str,
        table: ShardTable,
        columns: Sequence[Column],
        made: Mapping[str, Any],
        part: tuple[int, int] = (0, 1),
        overwrite: bool = False,
    ) -> None:
        check_part(part)
        self.domain, self.table, self.part = domain, table, part
        self.columns = check_columns(columns)
        self.first_shard, self.end_shard = table.part(*part)
        self.begin, self.end = int(table.start_S[self.first_shard]), int(table.start_S[self.end_shard])
        self._made, self._fingerprints = check_made(made), {}
        self.path, self._overwrite = directory_of(path), overwrite
        if part[1] > 1 and not overwrite and (self.path / MANIFEST).exists():
            raise OutputExistsError(
                f"{self.path} holds merged scores already; nothing was written; give another place, or overwrite=True "
                "(--overwrite) to replace them"
            )
        target = self.path if part[1] == 1 else part_directory(self.path, part)
        self._staged = StagedFiles(target, overwrite=overwrite)
        self._arrays: dict[str, ArrayWriter] = {}
        try:
            for column in self.columns.values():
                self._arrays[column.name] = self._array(column.name, column.type, column.shape)
            self._flags = self._arrays[FLAGS] = self._array(FLAGS, FLAGS_DTYPE, ())
            for at in range(0, self.end - self.begin, _PIECE):
                self._flags.write(np.full(min(_PIECE, self.end - self.begin - at), _UNWRITTEN, np.uint8), at)
        except BaseException:
            self._abort()
            raise

    def write(self, begin: int, values: Mapping[str, ArrayLike], flags: ArrayLike | None = None) -> None:
        """Write a block of consecutive rows; a row that is written again is replaced.

        Args:
            begin: ordinal of the first row.
            values: every column -> [n, *shape].
            flags: uint8 [n], as in `Scores.flags`; None if all rows were scored. Values of other rows are not looked
                at, and stored as 0.

        Raises:
            ConfigError: rows of another part, other columns, or a value that cannot be stored.
            ForkedError: this is a forked child of the process that made the writer.
        """
        self._staged.check()
        if values.keys() != self.columns.keys():
            raise ConfigError(f"values of the columns {sorted(values)}; {sorted(self.columns)} are to be written")
        arrays = {name: np.asarray(value) for name, value in values.items()}
        count = len(next(iter(arrays.values())))
        flags_B = _checked_flags(flags, count)
        if not self.begin <= begin <= begin + count <= self.end:
            raise ConfigError(
                f"rows {begin} to {begin + count - 1}: part {self.part[0]} of {self.part[1]} has the ordinals "
                f"{self.begin} to {self.end - 1}; write each row in its own part"
            )
        ready = {name: stored(self.columns[name], array, flags_B, begin=begin) for name, array in arrays.items()}
        for name, array in ready.items():
            self._arrays[name].write(array, begin - self.begin)
        self._flags.write(flags_B, begin - self.begin)

    def fingerprint(self, shard: int, fingerprint: str) -> None:
        """Note the fingerprint of a shard of this part (`mixstream.selection.fingerprint`), as its header was read.

        Raises:
            ConfigError: the shard belongs to another part.
        """
        if not self.first_shard <= shard < self.end_shard:
            raise ConfigError(
                f"shard {shard}: this part has the shards {self.first_shard} to {self.end_shard - 1}; note it there"
            )
        self._fingerprints[shard] = fingerprint

    def close(self) -> None:
        """Publish what was written, now that all of it is there.

        Raises:
            ConfigError: rows were never written.
            ForkedError: as `write`.
        """
        try:
            self._staged.check()
            self._check_all_written()
            self._publish()
        finally:
            self._abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._abort()

    def _array(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> ArrayWriter:
        return ArrayWriter(self._staged.directory / f"{name}.npy", dtype, shape)

    def _publish(self) -> None:
        records = {}
        for name, array in self._arrays.items():
            array.close(self.end - self.begin)
            records[f"{name}.npy"] = FileRecord(bytes=array.path.stat().st_size, xxh3_128=hash_file(array.path))
        table = self.table.with_fingerprints(self._fingerprints)
        if self.part[1] == 1:
            manifest = scores_manifest(self.domain, table, self.columns, records, self._made)
        else:
            manifest = self._part_manifest(table, records)
            if self._overwrite:
                retire(self.path)
        self._staged.publish(records, manifest=manifest)

    def _part_manifest(self, table: ShardTable, records: Mapping[str, FileRecord]) -> bytes:
        return encode_manifest(
            {
                "format": SCORES_PART,
                "domain": self.domain,
                "part": list(self.part),
                "table": self.table.digest,
                "first_shard": self.first_shard,
                "shards": table.to_json()[self.first_shard : self.end_shard],
                "columns": columns_json(self.columns),
                "files": _files_json(records),
                "made": self._made,
            }
        )

    def _check_all_written(self) -> None:
        file = np.memmap(self._flags.path, dtype=np.uint8, mode="r") if self.end > self.begin else np.empty(0, np.uint8)
        flags = file[128:]
        for at in range(0, self.end - self.begin, _PIECE):
            unwritten = np.flatnonzero(flags[at : at + _PIECE] == _UNWRITTEN)
            if len(unwritten):
                raise ConfigError(
                    f"{self.path}: the row of ordinal {self.begin + at + int(unwritten[0])} was never written; nothing "
                    "was published; write every row of the part, with flags for rows that have no values"
                )

    def _abort(self) -> None:
        for array in self._arrays.values():
            array.abort()
        self._staged.close()


def scores_manifest(
    domain: str,
    table: ShardTable,
    columns: Mapping[str, Column],
    records: Mapping[str, FileRecord],
    made: Mapping[str, Any],
) -> bytes:
    """Return the manifest of whole scores."""
    return encode_manifest(
        {
            "format": SCORES,
            "domain": domain,
            "shards": table.to_json(),
            "rows": table.rows,
            "columns": columns_json(columns),
            "files": _files_json(records),
            "made": made,
            "id": scores_id(table, columns, records),
        }
    )


def _files_json(records: Mapping[str, FileRecord]) -> dict[str, Any]:
    return {name: {"bytes": record.bytes, "xxh3_128": record.xxh3_128} for name, record in records.items()}


def _checked_flags(flags: ArrayLike | None, count: int) -> NDArray[np.uint8]:
    if flags is None:
        return np.full(count, SCORED, np.uint8)
    found = np.asarray(flags)
    known = SCORED | TOO_SHORT | FAILED
    if (
        found.shape != (count,)
        or found.dtype.kind not in "iu"
        or (found.size and not 0 <= found.min() <= found.max() <= known)
    ):
        raise ConfigError(f"flags are {found!r:.80}; give one number of 0 to {known} per row, {count} rows")
    return found.astype(np.uint8)
