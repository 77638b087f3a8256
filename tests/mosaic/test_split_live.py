"""JSON, CSV, TSV and XSV shards of mosaicml-streaming and of mixstream, in one process (`make test-mosaic`).

Their writers against ours byte for byte; their readers on our datasets; ours on theirs, alone and beside MDS.
"""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mixstream as ms
import mixstream.formats as ours

streaming = pytest.importorskip("streaming", reason="compares live with mosaicml-streaming: make test-mosaic")
pytestmark = pytest.mark.mosaic

NAMES = ("JSON", "CSV", "TSV", "XSV")
COLUMNS = {"text": "str", "id": "int", "x": "float"}
HASHES = ["md5", "sha1", "xxh3_64"]
VALUES = st.lists(
    st.tuples(
        st.integers(),
        st.text(st.characters(exclude_characters=",\t\n\r|", exclude_categories=["Cs"]), max_size=40),
        st.floats(allow_nan=False),
    ),
    max_size=20,
)


def sample(n):
    return {"id": n - 20, "text": f"sample {n} é\u2028", "x": n / 7}


def write(package, name, out, samples=None, **options):
    options = {"columns": COLUMNS, "size_limit": 300} | options
    if name == "XSV":
        options.setdefault("separator", "||")
    with getattr(package, f"{name}Writer")(out=str(out), **options) as writing:
        for each in [sample(n) for n in range(40)] if samples is None else samples:
            writing.write(each)


def files(directory: Path):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("limit", [None, 300, "1kb"])
@pytest.mark.parametrize("compression", [None, "br:3", "bz2", "snappy", "zstd:7"])
@pytest.mark.parametrize("name", NAMES)
def test_both_writers_write_the_same_bytes(name, compression, limit, tmp_path):
    for package, out in ((streaming, "theirs"), (ms, "ours")):
        write(package, name, tmp_path / out, compression=compression, hashes=HASHES, size_limit=limit)
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")


@pytest.mark.parametrize("options", [{"newline": "\r\n"}, {"newline": "\n\n"}])
@pytest.mark.parametrize("name", NAMES)
def test_with_another_newline_too(name, options, tmp_path):
    for package, out in ((streaming, "theirs"), (ms, "ours")):
        write(package, name, tmp_path / out, **options)
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")
    assert list(streaming.LocalDataset(str(tmp_path / "ours"))) == [sample(n) for n in range(40)]
    assert list(ms.LocalDataset(tmp_path / "theirs")) == [sample(n) for n in range(40)]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(values=VALUES)
def test_samples_of_any_content(name, values, tmp_path_factory):
    samples = [dict(zip(("id", "text", "x"), each)) for each in values]
    place = tmp_path_factory.mktemp("split")
    for package, out in ((streaming, "theirs"), (ms, "ours")):
        write(package, name, place / out, samples, size_limit=None)
    assert files(place / "ours") == files(place / "theirs")
    assert list(ms.LocalDataset(place / "theirs")) == samples


@pytest.mark.parametrize("compression", [None, "zstd:7", "gz:3"])
@pytest.mark.parametrize("name", NAMES)
def test_their_streaming_dataset_reads_ours_and_ours_reads_theirs(name, compression, tmp_path):
    expected = [sample(n) for n in range(40)]
    for package, out in ((streaming, "theirs"), (ms, "ours")):
        write(package, name, tmp_path / out, compression=compression, hashes=HASHES)
    for package, remote in ((streaming, "ours"), (ms, "theirs")):
        stream = package.Stream(remote=str(tmp_path / remote), local=str(tmp_path / f"local-{remote}"))
        dataset = package.StreamingDataset(streams=[stream], batch_size=1, shuffle=False, validate_hash="sha1")
        assert list(dataset) == expected
        assert len(dataset) == 40
    assert list(ms.LocalDataset(tmp_path / "theirs")) == expected


def test_merged_indexes_of_several_formats_are_read_by_both(tmp_path):
    for at, name in enumerate(NAMES):
        part = [sample(n) for n in range(at * 10, at * 10 + 10)]
        write(ms if at % 2 else streaming, name, tmp_path / f"{at}", part)
    expected = [sample(n) for n in range(40)]
    # their form without a list takes the data files of JSON shards for indexes
    streaming.base.util.merge_index([str(tmp_path / f"{at}" / "index.json") for at in range(4)], str(tmp_path))
    assert sorted(ms.LocalDataset(tmp_path), key=lambda each: each["id"]) == expected
    (tmp_path / "index.json").unlink()
    ms.merge_index(str(tmp_path))
    assert list(streaming.LocalDataset(str(tmp_path))) == expected


def test_a_sample_larger_than_the_limit(tmp_path):
    samples = [sample(1), sample(2) | {"text": "long" * 200}, sample(3)]
    for package, out in ((streaming, "theirs"), (ms, "ours")):
        write(package, "JSON", tmp_path / out, samples)
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")
    write(streaming, "JSON", tmp_path / "first", samples[1:])  # they begin with a shard of no samples
    assert list(ms.LocalDataset(tmp_path / "first")) == samples[1:]


def test_the_same_names_are_known():
    assert ours.get_compressions() == streaming.base.compression.get_compressions()
    assert ours.get_hashes() == streaming.base.hashing.get_hashes()
    assert ours.get_index_basename() == streaming.base.format.get_index_basename()
    for name in ("str", "int", "float", "", "uint8"):
        assert ours.is_json_encoding(name) == streaming.base.format.json.encodings.is_json_encoding(name)
        assert ours.is_xsv_encoding(name) == streaming.base.format.xsv.encodings.is_xsv_encoding(name)
    for compression in ours.get_compressions() - {"snappy"}:
        extension = streaming.base.compression.get_compression_extension(compression)
        assert ours.get_compression_extension(compression) == extension
    data = b"tokens " * 100
    for name in ours.get_hashes():
        assert ours.get_hash(name, data) == streaming.base.hashing.get_hash(name, data)
    for compression in ("br:3", "bz2", "gz:3", "snappy", "zstd:7", None):
        assert ours.decompress(compression, streaming.base.compression.compress(compression, data)) == data
