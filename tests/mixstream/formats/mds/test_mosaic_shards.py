"""What mosaicml-streaming wrote (`tests/data/mosaic/`) is read as what it was given (`tests/mosaic/cases.py`)."""

import importlib.util
import runpy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mixstream.formats import decode_sample, decompress, dump_index, hash_hex, parse_index, read_offsets

TESTS = Path(__file__).parents[3]
DATA = TESTS / "data" / "mosaic"
CASES = runpy.run_path(str(TESTS / "mosaic" / "cases.py"))["CASES"]
EXTRAS = {"documents_br": "brotli", "documents_br5": "brotli", "documents_snappy": "snappy"}
EXTRAS |= {"raw_images": "PIL", "encoded_images": "PIL"}


def case_params():
    for name in CASES:
        missing = name in EXTRAS and importlib.util.find_spec(EXTRAS[name]) is None
        yield pytest.param(name, marks=pytest.mark.skipif(missing, reason=f"needs {EXTRAS.get(name)}"))


def read(directory):
    index = parse_index((directory / "index.json").read_bytes(), where=str(directory))
    for shard in index.shards:
        stored = shard.zip or shard.raw
        raw = (directory / stored.basename).read_bytes()
        assert len(raw) == stored.bytes
        assert stored.hashes == {name: hash_hex(name, raw) for name in shard.hashes}
        if shard.compression:
            raw = decompress(shard.compression, raw, raw_bytes=shard.raw.bytes, where=stored.basename)
        assert shard.raw.hashes == {name: hash_hex(name, raw) for name in shard.hashes}
        for start, end in pairwise(read_offsets(raw, shard, where=stored.basename)):
            yield decode_sample(raw[start:end], shard, where=stored.basename)


def comparable(value, encoding):
    """Return what must be equal after a round trip."""
    if encoding in {"jpeg_array", "jpegarray"}:
        return len(value)  # JPEG files in, images out
    if isinstance(value, list) and encoding.startswith("list"):
        return [comparable(v, encoding[5:-1]) for v in value]
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype, value.shape, value.tobytes()
    if hasattr(value, "getpixel"):
        return value.size, None if encoding == "jpeg" else value.tobytes()
    return type(value), value


@pytest.mark.parametrize("name", list(case_params()))
def test_read_equals_what_was_written(name):
    columns = CASES[name].columns
    for read_back, given in zip(read(DATA / name), CASES[name].samples(), strict=True):
        assert list(read_back) == sorted(columns)
        for column, encoding in columns.items():
            if isinstance(given[column], bytes) and encoding == "png":
                assert read_back[column].size == (8, 8)
            elif isinstance(given[column], bytes) and encoding == "pkl":
                assert read_back[column] is None
            else:
                assert comparable(read_back[column], encoding) == comparable(given[column], encoding), column


@pytest.mark.parametrize("name", list(CASES))
def test_index_is_dumped_as_it_was_written(name):
    data = (DATA / name / "index.json").read_bytes()
    assert dump_index(parse_index(data, where=name)) == data


def test_fixtures_cover_what_they_say():
    indexes = {name: parse_index((DATA / name / "index.json").read_bytes(), where=name) for name in CASES}
    assert indexes["oversize_first"].shards[0].samples == 0
    assert indexes["empty"].shards == ()
    assert len(indexes["one_shard"].shards) == 1 < len(indexes["tokens"].shards)
    assert {shard.compression for index in indexes.values() for shard in index.shards} >= {None, "zstd:7", "br:5"}
    assert sum(file.stat().st_size for file in DATA.rglob("*") if file.is_file()) < 300_000
