"""One shard by its entry: `reader_from_json` and the classes of its results."""

import json

import pytest

import mixstream as ms
from mixstream.errors import IndexCorruptError, ShardCorruptError, ShardNotFoundError, UnsafeEncodingError
from mixstream.loader import readers

COLUMNS = {"id": "int", "text": "str"}


def write(out, writer, **options):
    with writer(columns=COLUMNS, out=out, size_limit=None, **options) as writing:
        for n in range(9):
            writing.write({"id": n, "text": f"row {n}"})
    return json.loads((out / "index.json").read_bytes())["shards"][0]


@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("name", ["MDS", "JSON", "CSV", "TSV", "XSV"])
def test_samples_by_number(name, compression, tmp_path):
    options = {"separator": "|"} if name == "XSV" else {}
    entry = write(tmp_path / "train", getattr(ms, f"{name}Writer"), compression=compression, **options)
    reader = readers.reader_from_json(tmp_path, "train", entry)
    assert type(reader) is getattr(readers, f"{name}Reader")
    expected = [{"id": n, "text": f"row {n}"} for n in range(9)]
    assert len(reader) == reader.size == reader.samples == 9
    assert list(reader) == reader[:] == reader[[*range(9)]] == expected
    assert reader[-1] == reader.get_item(8) == reader.decode_sample(reader.get_sample_data(8)) == expected[8]
    assert dict(zip(reader.column_names, reader.column_encodings)) == COLUMNS
    stored = sum(path.stat().st_size for path in (tmp_path / "train").glob("shard*"))
    assert (reader.get_zip_size() if compression else reader.get_raw_size()) == stored
    with pytest.raises(IndexError):
        reader[9]


def test_what_is_not_there_or_of_another_kind_is_refused(tmp_path):
    entry = write(tmp_path, ms.CSVWriter)
    with pytest.raises(ValueError, match="Expected to be `mds`"):
        readers.MDSReader.from_json(tmp_path, None, entry)
    with pytest.raises(IndexCorruptError, match="'arrow'"):
        readers.reader_from_json(tmp_path, None, entry | {"format": "arrow"})
    reader = readers.reader_from_json(tmp_path, None, entry)
    meta = tmp_path / "shard.00000.csv.meta"
    meta.write_bytes(b"\x08" + meta.read_bytes()[1:])
    with pytest.raises(ShardCorruptError, match="its index says 9"):
        reader[0]
    meta.unlink()
    with pytest.raises(ShardNotFoundError, match=r"shard\.00000\.csv\.meta"):
        reader[0]


def test_pickles_are_read_once_that_is_allowed(tmp_path):
    with ms.MDSWriter(columns={"x": "pkl"}, out=tmp_path) as writer:
        writer.write({"x": {1}})
    entry = json.loads((tmp_path / "index.json").read_bytes())["shards"][0]
    reader = readers.MDSReader.from_json(tmp_path, "", entry)
    with pytest.raises(UnsafeEncodingError, match="unsafe type"):
        reader[0]
    reader.validate(allow_unsafe_types=True)
    assert reader[0] == {"x": {1}}
