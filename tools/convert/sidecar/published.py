"""What the parts noted of their documents → the sidecar of a dataset: `documents/part-00000.parquet`, …

Rules. A file holds the segments (mixstream/documents/schema.py) of the rows of one part, that of `part-tail` those of
the joined tails and of what was dropped. All numbers follow from the records of the parts, so the files are a function
of records and of what the parts noted: a kill changes no byte. (The version of pyarrow stands in them, as in all
Parquet files.) Memory is bounded by a batch of a part's notes and a row group.

Shape suffixes: N documents of a batch, M segments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.documents import COLUMNS, DIRECTORY, DocumentsFile
from mixstream.storage import sync

from ...shared.sidecar_files import SidecarFile
from ..ledger.durable import make_directory
from ..ledger.ledger import TAIL, Ledger
from ..ledger.records import PartRecord
from ..parts import Part
from ..readers import READERS
from ..recipe import Recipe
from .kept import is_mixed, type_of, value_of
from .noted import COLUMNS as NOTED
from .noted import read_batches

Place = tuple[Part, PartRecord, int]
"""A part, its record, and the number of one of the record's outputs."""
Int64 = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Sidecars:
    """Writes the sidecars of a group's datasets.

    Args:
        ledger: of the output directory.
        recipe: how the parts were converted.
        done: every part of the group with its record, in order.
    """

    ledger: Ledger
    recipe: Recipe
    done: Sequence[tuple[Part, PartRecord]]
    _first: dict[int, Int64] = field(init=False, default_factory=dict)
    """Number of a part → for each slice, how many records of its file lie in earlier slices."""
    _names: dict[str, str] = field(init=False, default_factory=dict)
    """Path of a file → its name."""
    _types: dict[str, str] = field(init=False, default_factory=dict)
    """Name of a kept column → its Arrow type."""

    def __post_init__(self) -> None:
        passed: Counter[str] = Counter()
        for part, record in self.done:
            first = []
            for source, records in zip(part.slices, record.sidecar.records if record.sidecar else ()):
                by_slice = READERS[source.file.format].numbered_by == "slice"
                first.append(passed[source.file.path] if by_slice else 0)
                passed[source.file.path] += records
            self._first[part.number] = np.array(first, np.int64)
        self._names.update(_names_of({file.path: file.name for part, _ in self.done for file in _files(part)}))
        for name, kinds in self._kinds():
            self._types[name] = type_of(kinds)

    def slices_of(self, part: Part) -> list[tuple[str, int]]:
        """Return the name of each slice's file, and what is added to the numbers of its records."""
        names = [_text(self._names[source.file.path]) for source in part.slices]
        return list(zip(names, self._first[part.number].tolist()))

    def warnings(self) -> list[str]:
        """What is probably not as the user thinks."""
        return [
            f"--keep {name}: the documents have values of several kinds ({', '.join(sorted(kinds - {'null'}))}), so "
            "the column holds texts: what is no text, as JSON."
            for name, kinds in self._kinds()
            if is_mixed(kinds)
        ]

    def write(self, directory: Path, places: Sequence[Place], tail_rows: int) -> list[DocumentsFile]:
        """Write the sidecar of one dataset; returns its files.

        Args:
            directory: of the dataset.
            places: what each part has of it, in order.
            tail_rows: rows of the joined tails.
        """
        make_directory(directory / DIRECTORY)
        files: list[DocumentsFile] = []
        rows = sum(record.outputs[at].rows for _, record, at in places)
        tail = SidecarFile(directory / DIRECTORY / f"{TAIL}.parquet", TAIL, first_row=rows, rows=tail_rows)
        row = document = place = 0
        for part, record, at in places:
            output = record.outputs[at]
            path = directory / DIRECTORY / f"{part.name}.parquet"
            file = SidecarFile(path, part.name, first_row=row, rows=output.rows)
            if self.recipe.rows == "documents":
                layout = _Layout(None, output.rows, row, rows, tail_rows)
            else:
                layout = _Layout(self.recipe.seq_len, output.rows, row, rows, tail_rows, place)
                place += output.tail_bytes // self.recipe.token_dtype.itemsize
            for batch, number_N, begin_N in self._batches(part, output.noted, document):
                found = layout.segments(number_N - document, begin_N, batch["tokens"].to_numpy())
                for target, segments in zip((file, tail), found):
                    if len(segments.of_M):
                        target.add(self._lines(part, batch, number_N, segments))
            document += output.documents
            row += output.rows
            files += file.finish()
        files += tail.finish()
        for file in files:
            sync(directory / file.basename)
        sync(directory / DIRECTORY)
        sync(directory)
        return files

    def _batches(self, part: Part, noted: Sequence[int], document: int) -> Iterator[tuple[Any, Int64, Int64]]:
        """Yield batches of a part's notes, with the number of each document and where it begins in the part."""
        begin = 0
        for batch in read_batches(self.ledger.documents_path(part), noted):
            tokens_N = batch["tokens"].to_numpy()
            ends_N = begin + np.cumsum(tokens_N)
            yield batch, document + np.arange(len(tokens_N)), ends_N - tokens_N
            begin, document = int(ends_N[-1]), document + len(tokens_N)

    def _lines(self, part: Part, batch: Any, number_N: Int64, segments: _Segments) -> Any:
        import pyarrow as pa

        of_M = segments.of_M
        chosen = batch.take(pa.array(of_M)) if len(of_M) != batch.num_rows else batch
        slice_M = chosen["slice"].to_numpy()
        names = pa.array([name for name, _ in self.slices_of(part)], pa.string())
        dropped_M = segments.row_M < 0
        values = {
            "document": number_N[of_M],
            "id": chosen["id"],
            "file": names.take(pa.array(slice_M)),
            "record": chosen["record"].to_numpy() + self._first[part.number][slice_M],
            "row": pa.array(segments.row_M, pa.int64(), mask=dropped_M),
            "token": pa.array(segments.token_M.astype(np.int32), pa.int32(), mask=dropped_M),
            "tokens": segments.tokens_M,
            "begin": segments.begin_M,
            "length": chosen["tokens"],
            "bytes": np.where(segments.begin_M == 0, chosen["bytes"].to_numpy(), 0),
            "hash": chosen["hash"],
        }
        for at, (name, kind) in enumerate(self._types.items()):
            made = value_of(kind)
            values[name] = pa.array(map(made, chosen[len(NOTED) + at].to_pylist()), pa.type_for_alias(kind))
        return pa.table(values, schema=self._schema())

    def _schema(self) -> Any:
        import pyarrow as pa

        columns = {**COLUMNS, **self._types}
        return pa.schema([(name, pa.type_for_alias(kind)) for name, kind in columns.items()])

    def _kinds(self) -> list[tuple[str, set[str]]]:
        records = [record.sidecar.kinds for _, record in self.done if record.sidecar is not None]
        return [
            (name, {kind for kinds in records for kind in kinds[at]}) for at, name in enumerate(self.recipe.fields.kept)
        ]


@dataclass(frozen=True, slots=True)
class _Segments:
    """Segments of the documents of a batch.

    Attributes:
        of_M: the document of each, in the batch.
        row_M: its row in the dataset; -1 if its tokens were dropped.
        token_M: the token of that row.
        tokens_M: how many tokens.
        begin_M: how many tokens of the document lie before it.
    """

    of_M: Int64
    row_M: Int64
    token_M: Int64
    tokens_M: Int64
    begin_M: Int64


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the tokens of one part lie: `rows` whole rows of it, then its tail among the joined tails."""

    seq_len: int | None
    """None if a row is a document."""
    rows: int
    first_row: int
    first_tail_row: int
    tail_rows: int
    place: int = 0
    """Of the part's tail, in tokens of the joined tails."""

    def segments(self, at_N: Int64, begin_N: Int64, tokens_N: Int64) -> tuple[_Segments, _Segments]:
        """Return the segments in the part's rows, and those in the joined tails, where what is dropped comes last.

        Args:
            at_N: number of each document in the part.
            begin_N: tokens of the part before it.
            tokens_N: its tokens.
        """
        of_N, zero_N = np.arange(len(at_N)), np.zeros(len(at_N), np.int64)
        if self.seq_len is None:
            return _Segments(of_N, self.first_row + at_N, zero_N, tokens_N, zero_N), _Segments(*[zero_N[:0]] * 5)
        end_N, seq_len = begin_N + tokens_N, self.seq_len
        cut = self.rows * seq_len
        whole = begin_N < cut
        rows = _Segments(
            of_N[whole],
            self.first_row + begin_N[whole] // seq_len,
            begin_N[whole] % seq_len,
            np.minimum(end_N[whole], cut) - begin_N[whole],
            zero_N[whole],
        )
        rest = (end_N > cut) | ~whole
        from_R, to_R = np.maximum(begin_N[rest], cut), end_N[rest]
        place_R, last = self.place + from_R - cut, self.tail_rows * seq_len
        stays = place_R < last
        drops = (self.place + to_R - cut > last) | ~stays
        low_R = from_R - begin_N[rest]  # tokens of the document before it
        kept_R = np.clip(last - place_R, 0, to_R - from_R)
        row_R = self.first_tail_row + place_R // seq_len
        parts = (
            (of_N[rest][stays], row_R[stays], (place_R % seq_len)[stays], kept_R[stays], low_R[stays]),
            (
                of_N[rest][drops],
                np.full(int(drops.sum()), -1),
                np.zeros(int(drops.sum()), np.int64),
                (to_R - from_R - kept_R)[drops],
                (low_R + kept_R)[drops],
            ),
        )
        return rows, _Segments(*(np.concatenate(pair) for pair in zip(*parts)))


def _files(part: Part) -> Iterator[Any]:
    return (source.file for source in part.slices)


def _text(name: str) -> str:
    """The name of a file as text: bytes that are none are written `\\udcff`."""
    return name.encode(errors="backslashreplace").decode()


def _names_of(names: Mapping[str, str]) -> dict[str, str]:
    """Path of a file → its name below its SRC; below the directory of all of them, if two files have one name."""
    if len({*names.values()}) == len(names):
        return dict(names)
    split = {path: path.split("/") for path in names}
    first, last = min(split.values()), max(split.values())
    shared = next(at for at, (one, other) in enumerate(zip(first, last)) if one != other)
    return {path: "/".join(each[shared:]) for path, each in split.items()}
