"""Arrow files, Feather and streams: every row once, wherever they are cut, and what is said of damaged ones."""

import random
import struct
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import feather

from mixstream.errors import ConfigError
from mixstream_tools.convert.documents.fields import Fields
from mixstream_tools.convert.files.choice import Choice
from mixstream_tools.convert.files.source_files import DamagedFileError, Slice, SourceError
from mixstream_tools.convert.readers import arrow, arrow_bytes
from mixstream_tools.convert.readers.arrow import ARROW
from mixstream_tools.convert.sources.sources import find_sources, list_file

TEXTS = [f"ä document {at}\n" * (at % 5) for at in range(300)]
DOCUMENTS = [(at, text, at % 7) for at, text in enumerate(TEXTS) if text]
FIELDS = Fields(text="text", keep=("meta.n",))


def table(kind: pa.DataType = pa.string()) -> pa.Table:  # noqa: B008  # it is immutable
    meta = [{"n": at % 7, "more": [at]} for at in range(len(TEXTS))]
    return pa.table({"image": [b"\xff" * 50] * len(TEXTS), "text": pa.array(TEXTS).cast(kind), "meta": meta})


def written(
    path: Path, rows: pa.Table, *, rows_each: int = 64, stream: bool = False, packed: str | None = None
) -> Path:
    options = pa.ipc.IpcWriteOptions(compression=packed)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(path, rows.schema, options=options) as writer:
        writer.write_table(rows, max_chunksize=rows_each)
    return path


@pytest.fixture(params=["held", "mapped"])
def held(request, monkeypatch):
    """Once with what fits into memory, and once with what does not."""
    if request.param == "mapped":
        monkeypatch.setattr(arrow, "HELD", 0)
        monkeypatch.setattr(arrow_bytes, "HELD", 64)


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("stream", [False, True], ids=["file", "stream"])
@pytest.mark.parametrize("packed", [None, "lz4", "zstd"])
@pytest.mark.parametrize("slices", [1, 2, 7, 400])
def test_slices_hold_the_rows_of_the_file(tmp_path, stream, packed, slices, read_slices):
    path = written(tmp_path / "a.arrow", table(), stream=stream, packed=packed)
    assert read_slices(path, slices=slices, fields=FIELDS) == DOCUMENTS


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("stream", [False, True], ids=["file", "stream"])
@pytest.mark.parametrize(
    "kind",
    [pa.large_string(), pa.string_view(), pa.binary(), pa.binary_view(), pa.dictionary(pa.int8(), pa.string())],
    ids=str,
)
def test_text_of_any_type(tmp_path, stream, kind, read_slices):
    if pa.types.is_dictionary(kind):
        rows = table().slice(0, 100)
        rows = rows.set_column(1, "text", rows["text"].combine_chunks().dictionary_encode().cast(kind))
    else:
        rows = table(kind)
    path = written(tmp_path / "a.arrow", rows, stream=stream, packed="lz4")
    assert read_slices(path, slices=3, fields=FIELDS) == DOCUMENTS[: 80 if len(rows) == 100 else None]


@pytest.mark.parametrize("deltas", [False, True])
def test_dictionaries_that_change_within_a_stream(tmp_path, deltas, read_slices):
    """A slice has the dictionaries of its own batches, whichever came before."""
    chunks = [TEXTS[: 64 * (at + 1)] if deltas else TEXTS[64 * at : 64 * (at + 1)] for at in range(5)]
    schema = pa.schema([("text", pa.dictionary(pa.int32(), pa.string()))])
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=deltas)
    with pa.ipc.new_stream(tmp_path / "a.arrow", schema, options=options) as writer:
        for at, dictionary in enumerate(chunks):
            indices = [64 * at + k if deltas else k for k in range(len(TEXTS[64 * at : 64 * (at + 1)]))]
            column = pa.DictionaryArray.from_arrays(pa.array(indices, pa.int32()), pa.array(dictionary))
            writer.write_batch(pa.record_batch([column], schema=schema))
    for slices in (1, 9, 100):
        found = read_slices(tmp_path / "a.arrow", slices=slices)
        assert found == [(at, text) for at, text, _ in DOCUMENTS]


def test_feather_is_read_and_its_first_version_is_refused_by_name(tmp_path, read_slices):
    feather.write_feather(table(), tmp_path / "a.feather", compression="lz4")
    assert read_slices(tmp_path / "a.feather", slices=2, fields=FIELDS) == DOCUMENTS
    (tmp_path / "b").mkdir()
    (tmp_path / "b/a.feather").write_bytes(b"FEA1" + bytes(100))
    with pytest.raises(ConfigError, match="Feather in its first version"):
        find_sources([str(tmp_path / "b")], out=tmp_path / "out", choice=Choice(), by_key=False)


def test_a_file_whose_first_message_lacks_its_length(tmp_path, read_slices):
    """As polars writes it; what counts is the schema in the footer."""
    path = written(tmp_path / "a.arrow", table())
    data = bytearray(path.read_bytes())
    data[8:16] = struct.pack("<II", 4, 0xFFFFFFF2)
    path.write_bytes(data)
    assert read_slices(path, fields=FIELDS) == DOCUMENTS


def test_text_that_is_no_utf8_is_one_bad_document(tmp_path, read_slices):
    data = pa.py_buffer(b"a\xff\xfec")
    column = pa.Array.from_buffers(pa.string(), 3, [None, pa.array([0, 1, 3, 4], pa.int32()).buffers()[1], data])
    path = written(tmp_path / "a.arrow", pa.table({"text": column}))
    bad: list[str] = []
    assert read_slices(path, bad=bad) == [(0, "a"), (2, "c")]
    assert bad == [f"{path}, row 1: field 'text' is not UTF-8 (at character 0)"]


def test_offsets_that_lie_are_a_damaged_file(tmp_path, read_slices):
    """pyarrow reads a file without looking at them, and then memory that is not its own."""
    offsets = pa.array([0, 1 << 30, 2, 4], pa.int32()).buffers()[1]
    column = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"abcd")])
    path = written(tmp_path / "a.arrow", pa.table({"text": column}))
    with pytest.raises(DamagedFileError, match="damaged"):
        read_slices(path)


@pytest.mark.parametrize(
    ("damage", "kept", "fact"),
    [
        (lambda data: data[:-1], 300, "without the mark of an end"),
        (lambda data: data[: len(data) // 2], 128, "ends at byte"),
        (lambda data: data + b"more than this", 300, "14 bytes follow behind the end of the stream"),
        (lambda data: data[:300] + b"\0" * 9, 0, "damaged"),
    ],
)
@pytest.mark.parametrize("slices", [1, 5])
def test_a_damaged_stream_keeps_what_came_before(tmp_path, damage, kept, fact, slices):
    path = tmp_path / "a.arrow"
    path.write_bytes(damage(written(path, table(), stream=True).read_bytes()))
    file = list_file(str(path), path.stat(), name="a.arrow")
    rows, faults = [], []
    for at in range(slices):
        piece = Slice(file=file, start=file.size * at // slices, stop=file.size * (at + 1) // slices)
        try:
            rows.extend(record.number for record in ARROW.records(piece, None, pytest.fail, lambda size: None))
        except DamagedFileError as error:
            faults.append(str(error))
    assert rows == list(range(kept))
    assert len(faults) == 1
    assert fact in faults[0]


def test_a_file_without_a_footer_is_damaged(tmp_path, read_slices):
    path = written(tmp_path / "a.arrow", table())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DamagedFileError, match="it has no footer, so it is cut short"):
        read_slices(path)


@pytest.mark.usefixtures("held")
def test_no_bytes_crash_the_process(tmp_path, read_slices):
    """Files with some bytes changed: they are read, or it is said what is wrong, and never anything else."""
    choose = random.Random(7)
    names = [
        written(tmp_path / f"{stream}{packed}.arrow", table().slice(0, 70), stream=stream, packed=packed)
        for stream in (False, True)
        for packed in (None, "zstd")
    ]
    whole = [path.read_bytes() for path in names]
    path, seen = tmp_path / "x.arrow", set()
    for _ in range(400):
        data = bytearray(choose.choice(whole))
        for _ in range(choose.choice([1, 3, 20])):
            near = choose.choice([len(data), 1000, 1000])
            data[choose.randrange(8, near)] = choose.choice([0, 255, choose.randrange(256)])
        path.write_bytes(data)
        try:
            read_slices(path, bad=[])
            seen.add("read")
        except SourceError as error:
            seen.add(type(error).__name__)
        except AssertionError:
            seen.add("read")
    assert {"read", "DamagedFileError"} <= seen
