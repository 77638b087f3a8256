"""Parquet: every row once, wherever the file is cut; values as JSON has them; and what is said of damaged files."""

import base64
import io
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as encryption
import pytest

from mixstream.errors import ConfigError
from mixstream_tools.convert.documents.fields import Fields
from mixstream_tools.convert.files.choice import Choice
from mixstream_tools.convert.files.source_files import DamagedFileError, SourceError
from mixstream_tools.convert.readers import READERS, read_documents
from mixstream_tools.convert.sources.sources import find_sources, list_file

TEXTS = [f"ä document {at}\n" * (at % 5) for at in range(300)]
DOCUMENTS = [(at, text) for at, text in enumerate(TEXTS) if text]


def table(**more: object) -> pa.Table:
    return pa.table({"id": pa.array(range(len(TEXTS))), "text": TEXTS, **more})


def packed(rows: pa.Table, **options: object) -> bytes:
    pq.write_table(rows, stream := io.BytesIO(), **options)
    return stream.getvalue()


@pytest.fixture
def write(tmp_path):
    def write(rows: pa.Table, **options: object) -> Path:
        path = tmp_path / "a.parquet"
        pq.write_table(rows, path, **options)
        return path

    return write


@pytest.mark.parametrize("slices", [1, 2, 7, 400])
@pytest.mark.parametrize("row_group", [1000, 64, 1])
def test_slices_hold_the_rows_of_the_file(write, slices, row_group, read_slices):
    assert read_slices(write(table(), row_group_size=row_group), slices=slices) == DOCUMENTS


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "lz4", "brotli"])
def test_every_compression_of_pages(write, compression, read_slices):
    assert read_slices(write(table(), compression=compression)) == DOCUMENTS


@pytest.mark.parametrize(
    "kind",
    [pa.large_string(), pa.string_view(), pa.binary(), pa.binary_view(), pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)
def test_text_of_any_type(write, kind, read_slices):
    rows = table().set_column(1, "text", pa.array(TEXTS).cast(kind))
    assert read_slices(write(rows, row_group_size=99), slices=3) == DOCUMENTS


def test_only_the_needed_columns_are_read(write, monkeypatch, read_slices):
    asked: list[list[str] | None] = []
    inner = pq.ParquetFile.iter_batches

    def iter_batches(self, *, columns, **options):
        asked.append(columns)
        return inner(self, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", iter_batches)
    rows = table(image=[b"\xff" * 9] * len(TEXTS), meta=[{"url": str(at)} for at in range(len(TEXTS))])
    fields = Fields(text="text", keep=("meta.url",))
    asked.clear()
    assert read_slices(write(rows), fields=fields) == [(at, text, str(at)) for at, text in DOCUMENTS]
    assert asked[-1] == ["text", "meta"]


def test_kept_values_are_those_of_json(write, read_slices):
    time = datetime(2024, 2, 29, 12, 30, tzinfo=UTC)
    kept = {
        "score": (pa.array([0.5], pa.float32()), 0.5),
        "price": (pa.array([Decimal("1.50")], pa.decimal128(10, 2)), 1.5),
        "exact": (pa.array([Decimal("1.50")], pa.decimal128(30, 2)), "1.50"),
        "big": (pa.array([Decimal(10**30)], pa.decimal128(38, 0)), 10**30),
        "at": (pa.array([time], pa.timestamp("us", "UTC")), "2024-02-29T12:30:00.000000Z"),
        "nanoseconds": (pa.array([1], pa.timestamp("ns")), "1970-01-01T00:00:00.000000001"),
        "day": (pa.array([time.date()]), "2024-02-29"),
        "hash": (pa.array([b"\xff\0"], pa.binary(2)), "ff00"),
        "tags": (pa.array([["a", None]]), ["a", None]),
        "map": (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), {"k": 1}),
        "deep": (pa.array([{"x": [{"y": time.date()}]}]), {"x": [{"y": "2024-02-29"}]}),
        "none": (pa.nulls(1), None),
    }
    rows = pa.table({"text": ["x"], **{name: values for name, (values, _) in kept.items()}})
    found = read_slices(write(rows), fields=Fields(text="text", keep=tuple(kept)))
    assert found == [(0, "x", *(value for _, value in kept.values()))]


@pytest.mark.parametrize(
    ("column", "fact"),
    [
        (pa.array(["a", None, "c"]), "row 1: field 'text' is a JSON null, not a string"),
        (pa.array([b"a", b"\xff\xfe", b"c"]), "row 1: field 'text' is not UTF-8 (at character 0)"),
        (pa.array([["a"], ["b"], ["c"]]), "row 0: field 'text' is a JSON array, not a string"),
        (pa.array([1, 2, 3]), "row 0: field 'text' is a JSON number, not a string"),
    ],
)
def test_a_bad_value_is_named_with_its_row(write, column, fact, read_slices):
    path = write(pa.table({"text": column, "id": [1, 2, 3]}))
    with pytest.raises(SourceError) as caught:
        read_slices(path)
    assert str(caught.value).startswith(f"{path}, {fact}")


def test_text_that_is_no_utf8_is_one_bad_document(write, read_slices):
    data = pa.py_buffer(b"a\xff\xfec")
    column = pa.Array.from_buffers(pa.string(), 3, [None, pa.array([0, 1, 3, 4], pa.int32()).buffers()[1], data])
    bad: list[str] = []
    assert read_slices(write(pa.table({"text": column})), bad=bad) == [(0, "a"), (2, "c")]
    assert [fact.rpartition(": ")[2] for fact in bad] == ["field 'text' is not UTF-8 (at character 0)"]


def test_a_file_that_lacks_the_column_is_named_with_those_it_has(tmp_path, read_slices):
    for name, column in (("a", "text"), ("b", "body")):
        pq.write_table(pa.table({column: ["x"], "url": ["u"]}), tmp_path / f"{name}.parquet")
    with pytest.raises(ConfigError) as caught:
        find_sources(
            [str(tmp_path)], out=tmp_path.parent / "out", choice=Choice(), by_key=False, fields=Fields(text="text")
        )
    assert f"{tmp_path}/b.parquet: no field 'text'; the document has 'body', 'url'" in str(caught.value)
    bad: list[str] = []
    assert read_slices(tmp_path / "b.parquet", bad=bad) == []
    assert "row 0: no field 'text'; the document has 'body', 'url'" in bad[0]


def test_two_columns_of_one_name_are_refused_where_they_are_needed(write, read_slices):
    path = write(pa.table([pa.array(["x"]), pa.array(["a"]), pa.array(["b"])], names=["text", "k", "k"]))
    assert read_slices(path) == [(0, "x")]
    with pytest.raises(SourceError, match="2 columns are called 'k'"):
        read_slices(path, fields=Fields(text="text", keep=("k",)))


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


@pytest.mark.parametrize("slices", [1, 3])
@pytest.mark.parametrize(
    ("damage", "fact"),
    [
        (lambda data: data[: len(data) // 2], "damaged or cut short"),
        (lambda data: data[:-1], "damaged or cut short"),
        (lambda data: data[:4] + data[-8:], "damaged or cut short"),
        (lambda data: flipped(data, data.index(b"document 7")), "damaged or cut short"),
        (lambda data: data[:12], "damaged or cut short"),
    ],
    ids=["half", "last byte", "no footer", "a page", "no data"],
)
def test_a_damaged_file_is_named_once(tmp_path, damage, fact, slices, read_slices):
    path = tmp_path / "a.parquet"
    path.write_bytes(damage(packed(table(), write_page_checksum=True, compression="none")))
    found = []
    for at in range(slices):
        try:
            found.append(len(read_slices(path, slices=slices)) if not at else 0)
        except DamagedFileError as error:
            found.append(str(error))
    assert [fact in str(each) for each in found].count(True) == 1


def test_a_footer_that_names_too_many_rows_is_a_damaged_file(write, monkeypatch, read_slices):
    path = write(table(), row_group_size=100)
    inner = pq.ParquetFile.iter_batches
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *a, **k: iter(list(inner(*a, **k))[:-1]))
    with pytest.raises(DamagedFileError, match="row group 0 holds 0 rows, and its footer says 100"):
        read_slices(path)


def test_too_little_memory_is_no_damage(write, monkeypatch, read_slices):
    """What is damaged may be left out; a slice that could not be read must not."""
    path = write(table())

    def fail(*args, **options):
        raise pa.ArrowMemoryError("malloc of size 64 failed")

    monkeypatch.setattr(pq, "ParquetFile", fail)
    with pytest.raises(SourceError, match="not enough memory") as caught:
        read_slices(path, slices=2)
    assert not isinstance(caught.value, DamagedFileError)


class Keys(encryption.KmsClient):
    """Keys that are no secret."""

    def __init__(self, connection: object) -> None:
        super().__init__()

    def wrap_key(self, key: bytes, name: str) -> bytes:
        return base64.b64encode(key)


@pytest.mark.parametrize("plain", [True, False], ids=["plain footer", "encrypted footer"])
def test_encrypted_files_are_refused_by_name(tmp_path, plain, read_slices):
    """pyarrow ends the process where it is asked for the size of an encrypted column."""
    options = encryption.EncryptionConfiguration(footer_key="f", column_keys={"c": ["text"]}, plaintext_footer=plain)
    properties = encryption.CryptoFactory(Keys).file_encryption_properties(encryption.KmsConnectionConfig(), options)
    path = tmp_path / "a.parquet"
    with pq.ParquetWriter(path, table().schema, encryption_properties=properties) as writer:
        writer.write_table(table())
    if plain:
        with pytest.raises(SourceError, match="it is encrypted Parquet"):
            read_slices(path)
    else:
        with pytest.raises(ConfigError, match="encrypted Parquet"):
            find_sources([str(path)], out=tmp_path / "out", choice=Choice(), by_key=False)


def memory(kind: str) -> int:
    """Bytes of memory of this process, as the kernel counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1]) << 10


@pytest.mark.parametrize("name", ["big.parquet", "big.arrow", "packed.arrow", "dictionary.arrow"])
def test_memory_is_bounded_whatever_the_size_of_a_row_group(tmp_path, name):
    """A row group, or a batch of Arrow, has 120 MB, or would have them if a dictionary were spread out."""
    path = tmp_path / name
    text, count = "x" * 40_000, 3000
    rows = pa.table({"text": pa.array([text] * count)})
    if name.startswith("dictionary"):
        rows = pa.table({"text": pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([text]))})
    if path.suffix == ".parquet":
        pq.write_table(rows, path, compression="none", use_dictionary=False, write_batch_size=16)
    else:
        options = pa.ipc.IpcWriteOptions(compression="lz4" if name.startswith("packed") else None)
        with pa.ipc.new_file(path, rows.schema, options=options) as writer:
            writer.write_table(rows)
    del rows
    pa.default_memory_pool().release_unused()
    file = list_file(str(path), path.stat(), name=path.name)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    pieces = read_documents(READERS[file.format], file.whole, Fields(text="text"), pytest.fail, lambda size: None)
    assert sum(len(piece.text) for piece in pieces) == count * len(text)
    assert memory("VmHWM") - before < 80 << 20


REAL = sorted((Path(pa.__file__).parent / "tests/data").rglob("*.[pf][ae]*"))


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_files_of_other_versions(path, tmp_path):
    """Those that pyarrow brings for its own tests; they have no text, so the rows are compared."""
    is_parquet = path.suffix == ".parquet"
    whole = pq.read_table(path) if is_parquet else pa.ipc.open_file(path).read_all()
    file = list_file(str(path), path.stat(), name=path.name)
    assert file.format == ("parquet" if is_parquet else "arrow")
    records = list(READERS[file.format].records(file.whole, None, pytest.fail, lambda size: None))
    assert [record.number for record in records] == list(range(len(whole)))
    numbers = [
        field.name for field in whole.schema if pa.types.is_floating(field.type) or pa.types.is_integer(field.type)
    ]
    assert numbers
    found = [{name: record.value[name] for name in numbers} for record in records]
    assert repr(found) == repr(whole.select(numbers).to_pylist())
