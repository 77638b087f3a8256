"""Shards that are computed have the tokens that pyarrow reads, whatever the file is like."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mixstream.errors import ConfigError, ShardCorruptError
from mixstream.formats.columns import ColumnFacts, ColumnIndex, Columns, dump_column_index, parse_column_index
from mixstream.formats.columns.arrow_messages import CONTINUED, is_little_endian
from mixstream.formats.columns.describe import describe
from tests.mixstream.column_files import KINDS, opened, read_lists, token_lists, write_table

LISTS = {
    "int32": pa.list_(pa.int32()),
    "uint16": pa.large_list(pa.uint16()),
    "int64": pa.list_(pa.field("item", pa.int64(), nullable=False)),
}


def facts_of(path: Path, column: str | None = None) -> ColumnFacts:
    file, known = opened(path)
    return describe(file, path.name, known, column, where=path.name)  # type: ignore[arg-type]


def columns_of(
    path: Path, *, seq_len: int | None = None, overlap: int = 0, shard_bytes: int = 1 << 26, every: int | None = None
) -> Columns:
    facts = facts_of(path)
    index = ColumnIndex(
        kind=facts.kind,
        column=facts.column,
        dtype=facts.dtype,
        seq_len=seq_len,
        overlap=overlap,
        every=every,
        shard_bytes=shard_bytes,
        files=(facts.file,),
    )
    return Columns.of(parse_column_index(dump_column_index(index), where="index"))


def shards_of(columns: Columns, path: Path) -> list[np.ndarray]:
    made = []
    for number, shard in enumerate(columns.shards):
        file, _ = opened(path)
        if shard.part is not None and shard.part.begin is not None:
            data = np.frombuffer(file.getvalue(), np.uint8)[shard.part.begin :][: shard.raw.bytes]
        else:
            data = np.frombuffer(columns.make(number, file), np.uint8)  # pyright: ignore[reportCallIssue, reportArgumentType]
        columns.check(number, data, where=shard.raw.basename)
        made.append(data)
    return made


def samples_of(columns: Columns, path: Path) -> list[list[int]]:
    """Return all samples of a store, read shard by shard."""
    found = []
    for number, data in enumerate(shards_of(columns, path)):
        rows = columns.rows(number)
        for row in range(columns.shards[number].samples):
            begin, end = rows.span(data, row)
            found.append(columns.decode(number, data[begin:end].tobytes(), where="row")["tokens"].tolist())
    return found


def rows_of(lists: list[list[int]], seq_len: int, overlap: int) -> list[list[int]]:
    flat = [token for each in lists for token in each]
    count = max(len(flat) - overlap, 0) // seq_len
    return [flat[at * seq_len : (at + 1) * seq_len + overlap] for at in range(count)]


def table_of(lists: list[Any], kind: pa.DataType, **others: Any) -> pa.Table:
    return pa.table({"text": ["é"] * len(lists), "input_ids": pa.array(lists, kind), **others})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", LISTS)
def test_both_readings_are_those_of_pyarrow(tmp_path: Path, kind: str, dtype: str) -> None:
    lists = [*token_lists(60, 30, top=30000), [], None, [7] * 200, None]
    path = write_table(tmp_path / "a", table_of(lists, LISTS[dtype]), kind, rows=7)
    expected = read_lists(path)

    documents = columns_of(path, shard_bytes=300)
    assert len(documents.shards) > 5
    assert samples_of(documents, path) == expected
    assert documents.shards[0].columns == {"tokens": f"ndarray:{dtype}"}
    for overlap in (0, 1):
        rows = columns_of(path, seq_len=16, overlap=overlap, shard_bytes=300)
        assert len(rows.shards) > 5
        assert samples_of(rows, path) == rows_of(expected, 16, overlap)
        flat = sum(map(len, expected))
        assert rows.dropped == flat - 16 * len(rows_of(expected, 16, overlap)) - overlap
        assert rows.shards[0].columns == {"tokens": f"ndarray:{dtype}:{16 + overlap}"}


@pytest.mark.parametrize("kind", KINDS)
def test_documents_end_in_rows_where_lists_end(tmp_path: Path, kind: str) -> None:
    lists = [*token_lists(40, 9), None, [], [1, 2, 3]]
    path = write_table(tmp_path / "a", table_of(lists, LISTS["int32"]), kind, rows=5)
    ends = np.cumsum([len(each) for each in read_lists(path)])

    columns = columns_of(path, seq_len=8, overlap=1, shard_bytes=128)
    for number, data in enumerate(shards_of(columns, path)):
        found = columns.cuts(number, lambda number: data)  # noqa: B023 - called at once
        assert found is not None
        cuts, begin = found
        assert begin == 0
        token, tokens = columns.parts[number].token, columns.parts[number].tokens
        expected = sorted({end - token for end in ends.tolist() if token < end <= token + tokens})
        assert cuts.positions(0, cuts.count).tolist() == expected
    whole = columns_of(path)
    [data] = shards_of(whole, path)
    found = whole.cuts(0, lambda number: data)
    assert found is not None
    cuts, _ = found
    assert cuts.positions(0, cuts.count).tolist() == ends.tolist()


@pytest.mark.parametrize("kind", ["parquet", "stream", "stream-zstd"])
def test_a_large_group_is_cut_between_rows(tmp_path: Path, kind: str) -> None:
    lists = token_lists(100, 40)
    path = write_table(tmp_path / "a", table_of(lists, LISTS["int32"]), kind)
    rows = columns_of(path, seq_len=8, overlap=1, shard_bytes=1000)
    assert len(rows.index.files[0].groups) == 1
    assert len(rows.shards) >= (2 if kind != "stream" else 7)
    assert samples_of(rows, path) == rows_of(lists, 8, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_lists_of_a_fixed_length_with_nulls(tmp_path: Path, kind: str) -> None:
    lists = [[1, 2], None, [3, 4], None, [5, 6]]
    path = write_table(tmp_path / "a", table_of(lists, pa.list_(pa.int32(), 2)), kind, rows=2)
    assert facts_of(path).every == -1
    assert samples_of(columns_of(path), path) == [[1, 2], [], [3, 4], [], [5, 6]]
    assert samples_of(columns_of(path, seq_len=3), path) == [[1, 2, 3], [4, 5, 6]]


def live_nulls() -> pa.Array:
    """Return lists of which a null one covers values, and which begin behind a value that none covers."""
    values = pa.array([9, 1, 2, 8, 8, 3], pa.int32())
    return pa.ListArray.from_arrays(pa.array([1, 3, 5, 6], pa.int32()), values, mask=pa.array([False, True, False]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("begin", [0, 1])
def test_what_null_lists_and_slices_cover_is_no_token(tmp_path: Path, kind: str, begin: int) -> None:
    array = live_nulls().slice(begin)
    path = write_table(tmp_path / "a", pa.table({"tokens": array, "input_ids": array}), kind)
    expected = [[1, 2], [], [3]][begin:]
    assert samples_of(columns_of(path), path) == expected
    assert samples_of(columns_of(path, seq_len=1), path) == [[token] for each in expected for token in each]


@pytest.mark.parametrize("kind", KINDS)
def test_nulls_among_the_ids_are_refused(tmp_path: Path, kind: str) -> None:
    path = write_table(tmp_path / "a", table_of([[1, 2], [3, None]], LISTS["int32"]), kind)
    with pytest.raises(ShardCorruptError, match="list 1 has 1 nulls in it"):
        samples_of(columns_of(path), path)


@pytest.mark.parametrize("kind", KINDS)
def test_empty_groups_files_and_lists(tmp_path: Path, kind: str) -> None:
    lists = [[], [], [1, 2, 3], [], [], [4], [], []]
    path = write_table(tmp_path / "a", table_of(lists, LISTS["uint16"]), kind, rows=2)
    assert samples_of(columns_of(path, shard_bytes=1), path) == lists
    assert samples_of(columns_of(path, seq_len=2, shard_bytes=1), path) == [[1, 2], [3, 4]]
    none = write_table(tmp_path / "b", table_of([], LISTS["uint16"]), kind)
    assert (columns_of(none).shards, columns_of(none, seq_len=2).shards, facts_of(none).every) == ((), (), None)


def test_parquet_without_statistics_is_counted(tmp_path: Path) -> None:
    lists = token_lists(30, 5)
    path = write_table(tmp_path / "a", table_of(lists, LISTS["int32"]), "parquet", rows=9, write_statistics=False)
    with pytest.warns(RuntimeWarning, match="counted by reading all of them"):
        columns = columns_of(path)
    assert samples_of(columns, path) == lists


def test_parquet_beside_wide_and_nested_columns(tmp_path: Path) -> None:
    lists = token_lists(9, 5)
    others = {
        "a.b": [[1]] * 9,
        "nested": [{"x": 1, "y": [{"z": [1, 2]}]}] * 9,
        "map": pa.array([[("k", 1)]] * 9, pa.map_(pa.string(), pa.int32())),
        "word": pa.array(["w"] * 9).dictionary_encode(),
    }
    path = write_table(tmp_path / "a", pa.table({**others, "input_ids": pa.array(lists)}), "parquet", rows=4)
    assert samples_of(columns_of(path), path) == lists


@pytest.mark.parametrize("kind", KINDS[1:])
def test_arrow_behind_columns_of_all_kinds(tmp_path: Path, kind: str) -> None:
    lists = token_lists(9, 5)
    others = {
        "null": pa.nulls(9),
        "bool": [True] * 9,
        "text": pa.array(["t" * 40] * 9, pa.large_string()),
        "view": pa.array(["v" * 40] * 9, pa.string_view()),
        "fixed": pa.array([b"abcd"] * 9, pa.binary(4)),
        "pair": pa.array([[1, 2]] * 9, pa.list_(pa.int8(), 2)),
        "some": pa.array([[[1], None]] * 9, pa.large_list(pa.list_view(pa.int8()))),
        "struct": [{"x": 1.5, "y": [{"z": "z"}]}] * 9,
        "map": pa.array([[("k", 1)]] * 9, pa.map_(pa.string(), pa.int32())),
        "word": pa.array(["w"] * 9).dictionary_encode(),
    }
    path = write_table(tmp_path / "a", pa.table({**others, "input_ids": pa.array(lists)}), kind, rows=4)
    assert samples_of(columns_of(path), path) == lists


def test_packed_batches_are_ranges_of_the_file(tmp_path: Path) -> None:
    lists = [[at * 8 + n for n in range(8)] for at in range(40)]
    path = write_table(tmp_path / "a", table_of(lists, LISTS["int32"]), "stream")
    assert facts_of(path).every == 8
    columns = columns_of(path, every=8, shard_bytes=320)
    assert [shard.samples for shard in columns.shards] == [10] * 4
    assert all(shard.part is not None and shard.part.begin is not None for shard in columns.shards)
    assert samples_of(columns, path) == lists
    assert columns.cuts(0, shards_of(columns, path).__getitem__) is None
    halves = columns_of(path, every=8, seq_len=4)
    assert halves.parts[0].begin is not None
    assert samples_of(halves, path) == rows_of(lists, 4, 0)


def test_small_packed_batches_are_computed(tmp_path: Path) -> None:
    lists = [[at * 8 + n for n in range(8)] for at in range(40)]
    for kind in ("stream", "stream-zstd", "parquet"):
        path = write_table(tmp_path / "a", table_of(lists, LISTS["int32"]), kind, rows=7)
        assert facts_of(path).every == 8
        columns = columns_of(path, every=8)
        assert [shard.samples for shard in columns.shards] == [40]
        assert columns.parts[0].begin is None
        assert samples_of(columns, path) == lists


def test_a_packed_file_with_another_list_in_it_is_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a", table_of([[1, 2], [3, 4], [5], [6, 7, 8]], LISTS["int32"]), "parquet", rows=2)
    assert facts_of(path).every == 2  # by the footer
    with pytest.raises(ShardCorruptError, match="row group 1: a list of 1 tokens, where all others have 2"):
        samples_of(columns_of(path, every=2), path)


@pytest.mark.parametrize("kind", KINDS)
def test_another_file_than_when_its_index_was_made_is_refused(tmp_path: Path, kind: str) -> None:
    path = write_table(tmp_path / "a", table_of([[1, 2, 3], [4]], LISTS["int32"]), kind)
    columns, rows = columns_of(path), columns_of(path, seq_len=2)
    write_table(tmp_path / "a", table_of([[1, 2], [4]], LISTS["int32"]), kind)
    for each in (columns, rows):
        with pytest.raises(ShardCorruptError, match=r"its index expects 2 of 4|damaged|ends|values need"):
            each.make(0, opened(path)[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("left", [0.2, 0.6, 0.95])
def test_files_that_were_cut_short_are_refused(tmp_path: Path, kind: str, left: float) -> None:
    path = write_table(tmp_path / "a", table_of(token_lists(50, 20), LISTS["int32"]), kind, rows=10)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * left)])
    with pytest.raises(ShardCorruptError, match=path.name):
        facts_of(path)


@pytest.mark.parametrize("other", ["a", "z"])  # a column before the lists, and one behind them
def test_parquet_that_has_lost_bytes_in_its_middle_is_refused(tmp_path: Path, other: str) -> None:
    columns = {"input_ids": pa.array(token_lists(50, 20), pa.list_(pa.int32())), other: list(range(50))}
    path = write_table(tmp_path / "a", pa.table(dict(sorted(columns.items()))), "parquet", rows=10)
    data = path.read_bytes()
    pages = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    for at in range(4, pages - 3, 97):
        path.write_bytes(data[:at] + data[at + 3 :])
        with pytest.raises(ShardCorruptError, match=f"end at byte {pages}, .* begins at {pages - 3}: bytes are lost"):
            facts_of(path)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_bytes_raise_errors_of_ours_or_give_other_tokens(tmp_path: Path, kind: str) -> None:
    path = write_table(tmp_path / "a", table_of(token_lists(30, 20), LISTS["int32"]), kind, rows=10)
    data, rng = path.read_bytes(), np.random.default_rng(1)
    for _ in range(60):
        hurt = bytearray(data)
        for at in rng.integers(0, len(hurt), 3).tolist():
            hurt[at] = int(rng.integers(0, 256))
        path.write_bytes(hurt)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                samples_of(columns_of(path, seq_len=8), path)
            except (ShardCorruptError, ConfigError):
                continue


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (pa.list_(pa.list_(pa.int32())), "list<item: list"),
        (pa.list_(pa.float32()), "float"),
        (pa.int32(), "int32"),
        (pa.list_(pa.dictionary(pa.int8(), pa.int32())), "dictionary"),
        (pa.list_view(pa.int32()), "list_view"),
    ],
)
def test_columns_of_other_types_are_refused(tmp_path: Path, kind: pa.DataType, what: str) -> None:
    table = pa.table({"input_ids": pa.array([], kind), "tokens": pa.array([], pa.list_(pa.int8()))})
    path = write_table(tmp_path / "a", table, "stream")
    with pytest.raises(ConfigError, match=f"'input_ids' is of type .*{what}.*column=..., one of 'tokens'"):
        facts_of(path)
    assert facts_of(path, "tokens").dtype == "int8"


def test_what_has_no_token_ids_is_refused(tmp_path: Path) -> None:
    text = write_table(tmp_path / "text", pa.table({"text": ["a"]}), "parquet")
    with pytest.raises(
        ConfigError, match=r"neither input_ids nor tokens; none of its columns 'text'.*mixstream convert"
    ):
        facts_of(text)
    twice = pa.Table.from_arrays([pa.array([[1]]), pa.array([[2]])], names=["tokens", "tokens"])
    with pytest.raises(ConfigError, match="2 columns are called 'tokens'"):
        facts_of(write_table(tmp_path / "twice", twice, "stream"))
    union = pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])])
    behind = pa.Table.from_arrays([union, pa.array([[1]])], names=["u", "tokens"])
    with pytest.raises(ConfigError, match=r"column 'u', before 'tokens', is of type .*union"):
        facts_of(write_table(tmp_path / "behind", behind, "stream"))
    (tmp_path / "old.feather").write_bytes(b"FEA1" + bytes(64))
    with pytest.raises(ConfigError, match="neither a Parquet nor an Arrow file"):
        facts_of(tmp_path / "old.feather")


def test_big_endian_arrow_is_known(tmp_path: Path) -> None:
    file = write_table(tmp_path / "a", table_of([[1]], LISTS["int32"]), "stream")
    message = file.read_bytes()[: 8 + int.from_bytes(file.read_bytes()[4:8], "little")]
    assert is_little_endian(message)
    # A table at byte 16 whose third field is a table at byte 32, a schema, whose first field is 1.
    tables = struct.pack("<I HHHHHxx iI HHHxx ihxx", 16, 10, 8, 0, 0, 4, 12, 12, 6, 8, 4, 8, 1)
    assert not is_little_endian(CONTINUED + bytes(4) + tables)


@pytest.mark.parametrize("plain_footer", [True, False])
def test_encrypted_parquet_is_refused(tmp_path: Path, plain_footer: bool) -> None:
    encryption = pytest.importorskip("pyarrow.parquet.encryption")
    parquet = pytest.importorskip("pyarrow.parquet")

    class Kms(encryption.KmsClient):
        def __init__(self, config: Any) -> None:
            encryption.KmsClient.__init__(self)

        def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
            return key_bytes.hex().encode()

        def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
            return bytes.fromhex(wrapped_key.decode())

    table, path = table_of([[1, 2]], LISTS["int32"]), tmp_path / "a.parquet"
    settings = encryption.EncryptionConfiguration(
        footer_key="f", column_keys={"c": ["input_ids.list.element"]}, plaintext_footer=plain_footer
    )
    keys = encryption.CryptoFactory(Kms).file_encryption_properties(encryption.KmsConnectionConfig(), settings)
    with parquet.ParquetWriter(path, table.schema, encryption_properties=keys) as writer:
        writer.write_table(table)
    with pytest.raises(ConfigError, match="encrypted Parquet"):
        facts_of(path)
