"""Reads the sidecar of a dataset: blocks of its lines, and the borders between documents in some rows.

Rules. Only the columns and row groups that are needed are fetched. Memory is bounded by a row group, and for `borders`
by the segments of the rows that are asked for. Files are untrusted: what is not as schema.py says is an error.

Shape suffixes: N borders.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from mixstream.documents.schema import COLUMNS, FILES, ROW_KIND, DocumentsFile, RowKind, parse_files
from mixstream.errors import ConfigError, IndexNotFoundError, ShardCorruptError, ShardNotFoundError, StoreNotFoundError
from mixstream.formats import parse_index
from mixstream.records import dataclass
from mixstream.storage import INDEX, Retry, Store, StoredFile, open_store, redact
from mixstream.types import Int64

_PLACES = ("row", "token", "tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Borders:
    """Where documents begin, or go on, in some rows: by row, then by token.

    Attributes:
        row_N: int64 [N], the row, counted over the dataset.
        token_N: int64 [N], the token of the row; 0 for the first of each row.
        document_N: int64 [N], the number of the document in the dataset.
        begin_N: int64 [N], how many tokens of the document lie before this one.
    """

    row_N: Int64
    token_N: Int64
    document_N: Int64
    begin_N: Int64


@dataclass(frozen=True, kw_only=True)
class Documents:
    """The sidecar of a dataset.

    Args:
        store: the dataset's directory.
        files: in the order of the rows.
        row_kind: what a row holds.
        seq_len: tokens in a row; None if a row holds one document.
        retry: attempts and timeout of each request.
    """

    store: Store
    files: Sequence[DocumentsFile]
    row_kind: RowKind
    seq_len: int | None
    retry: Retry = Retry()  # frozen

    @classmethod
    def open(cls, url: str, *, retry: Retry = Retry()) -> Documents:  # noqa: B008  # frozen
        """Read the index of the dataset at `url`, a directory on local disk or in a store.

        Raises:
            IndexNotFoundError: there is no dataset.
            IndexCorruptError: its index is not valid.
            ConfigError: it keeps no documents.
        """
        store = open_store(url, timeout=retry.timeout)
        where = f"{store.url.rstrip('/')}/{INDEX}"
        try:
            data = retry.call(f"reading {where}", lambda: store.read(INDEX), renew=store.renew).data
        except StoreNotFoundError as error:
            raise IndexNotFoundError(f"no {INDEX} in {redact(url)}: give the directory of a dataset") from error
        about = parse_index(bytes(memoryview(data)), where=where).extra.get("mixstream")
        found = cls.of(store, about if isinstance(about, Mapping) else {}, retry=retry)
        if found is None:
            raise ConfigError(
                f"{redact(url)} keeps no documents, so it is not known where they lie in its rows: another program, or "
                "an earlier version of mixstream, wrote it. Convert it again with --overwrite."
            )
        return found

    @classmethod
    def of(cls, store: Store, about: Mapping[str, Any], *, retry: Retry = Retry()) -> Documents | None:  # noqa: B008
        """Return the sidecar of a dataset whose index is read already; None if it has none.

        Args:
            store: the dataset's directory.
            about: the entry `mixstream` of its index.
            retry: attempts and timeout of each request.

        Raises:
            IndexCorruptError: the entry is not what convert writes.
        """
        where = f"{store.url.rstrip('/')}/{INDEX}"
        files = parse_files(about, where=where)
        if files is None:
            return None
        seq_len = about.get("seq_len")
        if about.get(ROW_KIND) == "documents":
            return cls(store=store, files=files, row_kind="documents", seq_len=None, retry=retry)
        if about.get(ROW_KIND) != "packed" or not isinstance(seq_len, int) or seq_len < 1:
            raise ConfigError(
                f"{where}: its {FILES!r} have the {ROW_KIND} {about.get(ROW_KIND)!r} with rows of {seq_len!r} tokens, "
                "which this version does not know; update mixstream"
            )
        return cls(store=store, files=files, row_kind="packed", seq_len=seq_len, retry=retry)

    @property
    def rows(self) -> int:
        """How many rows the dataset has."""
        return sum(file.rows for file in self.files)

    @property
    def columns(self) -> dict[str, Any]:
        """Name and Arrow type of each column, those of `--keep` last; without any if there is no file."""
        for file in self.files:
            with self._opened(file) as opened:
                return {field.name: field.type for field in opened.schema_arrow}
        return {}

    def blocks(self, columns: Sequence[str] | None = None, *, size: int = 1 << 16) -> Iterator[Any]:
        """Yield all lines in order, as `pyarrow.RecordBatch`es of at most `size` lines.

        Args:
            columns: which columns; None for all.
            size: lines of a block.

        Raises:
            ConfigError: there is no such column.
            ShardCorruptError, ShardNotFoundError, StoreError: a file cannot be read.
        """
        for file in self.files:
            with self._opened(file) as opened:
                names = opened.schema_arrow.names
                if unknown := sorted({*(columns or ())} - {*names}):
                    raise ConfigError(
                        f"the documents of {self.store.url} have no column {unknown[0]!r}; they have {', '.join(names)}"
                    )
                yield from opened.iter_batches(batch_size=size, columns=None if columns is None else [*columns])

    def lines(self, first: int, end: int, columns: Sequence[str] | None = None) -> Any:
        """Return the lines of all segments with tokens in the rows `first` to `end - 1`, as a `pyarrow.Table`.

        Args:
            first: the first row.
            end: one more than the last row.
            columns: which columns; None for all. What says where a segment lies is always among them.

        Raises:
            IndexError: there are no such rows.
            ConfigError: there is no such column.
            ShardCorruptError, ShardNotFoundError, StoreError: a file cannot be read.
        """
        import pyarrow as pa

        if not 0 <= first <= end <= self.rows:
            raise IndexError(f"rows {first} to {end} of a dataset of {self.rows} rows")
        tables = []
        for file in self.files:
            low, high = max(first, file.first_row), min(end, file.first_row + file.rows)
            if low >= high:
                continue
            with self._opened(file) as opened:
                names = None if columns is None else list(dict.fromkeys([*_PLACES, *columns]))
                table = opened.read_row_groups(_groups(opened, low, high), columns=names)
            row_G, last_G = _rows_of(table, self.seq_len)
            tables.append(table.filter(pa.array((row_G < high) & (last_G >= low) & (row_G >= 0))))
        return pa.concat_tables(tables) if tables else pa.table({})

    def borders(self, first: int, end: int) -> Borders:
        """Return where documents begin or go on in the rows `first` to `end - 1`.

        The second row of four tokens begins with the end of document 0, which document 1 follows:

        >>> from tempfile import TemporaryDirectory
        >>> from mixstream_tools.convert import Fields, Recipe, describe_tokenizer, run_conversion
        >>> from pathlib import Path
        >>> with TemporaryDirectory() as place:
        ...     _ = (Path(place) / "web.json").write_text('[{"text": "abcd"}, {"text": "fgh"}]')
        ...     made = Recipe(tokenizer=describe_tokenizer("bytes"), seq_len=4, fields=Fields(text="text"))
        ...     _ = run_conversion([f"{place}/web.json"], out=Path(place) / "out", recipe=made)
        ...     found = Documents.open(f"{place}/out/web/train").borders(1, 2)
        >>> found.token_N.tolist(), found.document_N.tolist(), found.begin_N.tolist()
        ([0, 1], [0, 1], [4, 0])

        Raises:
            IndexError: there are no such rows.
            ShardCorruptError, ShardNotFoundError, StoreError: a file cannot be read.
        """
        import pyarrow as pa

        table = self.lines(first, end, ["document", "begin"])
        if self.seq_len is not None and table.num_rows:
            table = table.filter(pa.array(table["tokens"].to_numpy() > 0))  # a document without tokens has no place
        if not table.num_rows:
            return _checked(_NONE, first, end)
        row_G, last_G = _rows_of(table, self.seq_len)
        place_G = row_G * (self.seq_len or 1) + (table["token"].to_numpy() if self.seq_len else 0)
        document_G, begin_G = table["document"].to_numpy(), table["begin"].to_numpy()
        low_G, high_G = np.maximum(row_G, first), np.minimum(last_G, end - 1)
        count_G = high_G - low_G + 1
        of_N = np.repeat(np.arange(len(count_G)), count_G)
        row_N = low_G[of_N] + np.arange(len(of_N)) - np.repeat(np.cumsum(count_G) - count_G, count_G)
        start_N = np.maximum(place_G[of_N], row_N * (self.seq_len or 1))
        borders = Borders(
            row_N=row_N,
            token_N=start_N - row_N * (self.seq_len or 1),
            document_N=document_G[of_N],
            begin_N=begin_G[of_N] + start_N - place_G[of_N],
        )
        return _checked(borders, first, end)

    @contextmanager
    def _opened(self, file: DocumentsFile) -> Iterator[Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        place = f"{self.store.url.rstrip('/')}/{file.basename}"
        try:
            stored = StoredFile(self.store, file.basename, file.bytes, retry=self.retry)
            with pq.ParquetFile(pa.PythonFile(stored, mode="r"), pre_buffer=False) as opened:
                found = {field.name: str(field.type) for field in opened.schema_arrow}
                if wrong := [name for name, kind in COLUMNS.items() if found.get(name) != kind]:
                    raise ShardCorruptError(
                        f"{place}: its column {wrong[0]!r} is {found.get(wrong[0], 'missing')}, not "
                        f"{COLUMNS[wrong[0]]}; {_REMEDY}"
                    )
                if opened.metadata.num_rows != file.lines:
                    raise ShardCorruptError(
                        f"{place}: it has {opened.metadata.num_rows} lines, the index says {file.lines}; {_REMEDY}"
                    )
                yield opened
        except StoreNotFoundError as error:
            raise ShardNotFoundError(f"{place}: the index names it, but it is not there; {_REMEDY}") from error
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ShardCorruptError(f"{place}: it is no Parquet file, or damaged ({error}); {_REMEDY}") from error


_EMPTY = np.empty(0, np.int64)
_NONE = Borders(row_N=_EMPTY, token_N=_EMPTY, document_N=_EMPTY, begin_N=_EMPTY)
_REMEDY = "copy it again from where it was made, or convert the domain again with --overwrite"


def _groups(opened: Any, first: int, end: int) -> list[int]:
    """The row groups that may hold segments of the rows `first` to `end - 1`; the one before reaches into `first`."""
    at = opened.schema_arrow.get_field_index("row")
    chosen: list[int] = []
    for group in range(opened.num_row_groups):
        statistics = opened.metadata.row_group(group).column(at).statistics
        if statistics is None or not statistics.has_min_max:  # of dropped tokens only, or another program's
            chosen.append(group)
        elif statistics.min < end:
            chosen = [group] if statistics.min < first else [*chosen, group]
    return chosen


def _rows_of(table: Any, seq_len: int | None) -> tuple[Int64, Int64]:
    """The first and the last row of each segment of a table; -1 for tokens that were dropped."""
    row_G, token_G, tokens_G = (table[name].fill_null(-1).to_numpy().astype(np.int64) for name in _PLACES)
    if seq_len is None:
        return row_G, row_G
    return row_G, np.where(row_G < 0, -1, row_G + (token_G + np.maximum(tokens_G, 1) - 1) // seq_len)


def _checked(found: Borders, first: int, end: int) -> Borders:
    """Check that every row has a beginning, since a mask that misses one would join documents."""
    begun = found.row_N[found.token_N == 0]
    if not np.array_equal(begun, np.arange(first, end)):
        raise ShardCorruptError(
            f"the documents of rows {first} to {end - 1} do not fill them; check the dataset with `mixstream verify`"
        )
    return found
