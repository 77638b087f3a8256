"""mosaicml-streaming and mixstream, in one process, on the same data (`make test-mosaic`).

Their writer against ours byte for byte; their readers on our datasets; ours on theirs. `tests/data/mosaic/` freezes
the same comparison for machines without that package; this one also varies the data.
"""

import json
import runpy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mixstream.formats as ours
from mixstream.writer import MDSWriter

streaming = pytest.importorskip("streaming", reason="compares live with mosaicml-streaming: make test-mosaic")
theirs = streaming.base.format.mds.encodings
get_compressions = streaming.base.compression.get_compressions

pytestmark = pytest.mark.mosaic

CASES = runpy.run_path(str(Path(__file__).with_name("cases.py")))["CASES"]
# gzip files hold the time of day; MDSWriter's quirk of a first shard without samples is not ours.
SAME = sorted(name for name in CASES if "gz" not in name and name != "oversize_first")


def write(writer, out, columns, samples, **options):
    with writer(columns=columns, out=str(out), **options) as writing:
        for sample in samples:
            writing.write(sample)


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def read(directory):
    index = ours.parse_index((directory / "index.json").read_bytes(), where=str(directory))
    for shard in index.shards:
        raw = (directory / (shard.zip or shard.raw).basename).read_bytes()
        if shard.compression:
            raw = ours.decompress(shard.compression, raw, raw_bytes=shard.raw.bytes, where=shard.raw.basename)
        for start, end in pairwise(ours.read_offsets(raw, shard, where=shard.raw.basename)):
            yield ours.decode_sample(raw[start:end], shard, where=shard.raw.basename)


def comparable(value):
    if isinstance(value, list):
        return [comparable(v) for v in value]
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype, value.shape, value.tobytes()
    if hasattr(value, "getpixel"):
        return value.mode, value.size, value.tobytes()
    return value


def test_the_same_names_are_known():
    assert ours.get_mds_encodings() == theirs.get_mds_encodings()
    assert set(ours.hash_names()) == streaming.base.hashing.get_hashes()
    assert all(map(ours.is_compression, get_compressions()))


@pytest.mark.parametrize("name", SAME)
def test_both_writers_write_the_same_bytes(name, tmp_path):
    case = CASES[name]
    for writer, out in ((streaming.MDSWriter, "theirs"), (MDSWriter, "ours")):
        write(writer, tmp_path / out, case.columns, case.samples(), **case.options)
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")


@pytest.mark.parametrize("compression", sorted(get_compressions()))
def test_every_compression_is_read_both_ways(compression):
    data = bytes(range(256)) * 40
    packed = ours.compress(compression, data)
    assert streaming.base.compression.decompress(compression, packed) == data
    their_packed = streaming.base.compression.compress(compression, data)
    assert ours.decompress(compression, their_packed, raw_bytes=len(data), where="") == data
    if compression.startswith("gz"):
        packed, their_packed = (p[:4] + p[8:] for p in (packed, their_packed))
    assert packed == their_packed


@pytest.mark.parametrize("name", ["scalars", "arrays", "tokens", "oversize", "raw_images", "encoded_images", "pickles"])
def test_their_local_dataset_reads_ours_as_we_do(name, tmp_path):
    case = CASES[name]
    write(MDSWriter, tmp_path, case.columns, case.samples(), **case.options)
    dataset = streaming.LocalDataset(str(tmp_path))
    mine = list(read(tmp_path))
    assert len(dataset) == len(mine)
    for n, sample in enumerate(mine):
        other = dataset[n]
        assert list(other) == list(sample)
        assert {k: comparable(v) for k, v in other.items()} == {k: comparable(v) for k, v in sample.items()}


@pytest.mark.parametrize("name", sorted(name for name in CASES if name.startswith("documents_")))
def test_their_streaming_dataset_decompresses_ours_and_checks_its_hashes(name, tmp_path):
    case = CASES[name]
    write(MDSWriter, tmp_path / "remote", case.columns, case.samples(), **case.options, metadata={"tokens": 1})
    dataset = streaming.StreamingDataset(
        remote=str(tmp_path / "remote"), local=str(tmp_path / "local"), batch_size=1, validate_hash="xxh3_64"
    )
    for other, sample in zip(dataset, case.samples(), strict=True):
        assert other["text"] == sample["text"]
        assert comparable(other["tokens"]) == comparable(sample["tokens"])


def test_merged_indexes_are_read(tmp_path):
    case = CASES["tokens"]
    samples = list(case.samples())
    write(streaming.MDSWriter, tmp_path / "00", case.columns, samples[:30], **case.options)
    write(MDSWriter, tmp_path / "01", case.columns, samples[30:], **case.options)
    streaming.base.util.merge_index(str(tmp_path))
    assert [s["id"] for s in read(tmp_path)] == list(range(60))


def test_unknown_keys_inside_a_shard_stop_their_reader_so_we_never_write_any(tmp_path):
    case = CASES["tokens"]
    write(MDSWriter, tmp_path / "ours", case.columns, case.samples(), **case.options, metadata={"a": 1})
    write(streaming.MDSWriter, tmp_path / "theirs", case.columns, case.samples(), **case.options)
    mine, other = (json.loads((tmp_path / n / "index.json").read_text()) for n in ("ours", "theirs"))
    assert mine["shards"] == other["shards"]
    assert mine.keys() - other.keys() == {"a"}


columns_strategy = st.fixed_dictionaries(
    {
        "text": st.text(max_size=30),
        "data": st.binary(max_size=30),
        "number": st.integers(-(2**63), 2**63 - 1),
        "json": st.recursive(st.none() | st.text() | st.integers(), st.lists, max_leaves=4),
        "array": st.lists(st.integers(0, 255), min_size=1, max_size=40).map(lambda v: np.array(v, np.uint8)),
    }
)


@settings(max_examples=40, deadline=None)
@given(samples=st.lists(columns_strategy, max_size=12), limit=st.integers(600, 900), hashed=st.booleans())
def test_both_writers_agree_on_any_samples(samples, limit, hashed, tmp_path_factory):
    root = tmp_path_factory.mktemp("any")
    columns = {"text": "str", "data": "bytes", "number": "int", "json": "json", "array": "ndarray"}
    options = {"size_limit": limit, "hashes": ["sha1"] if hashed else None}
    for writer, out in ((streaming.MDSWriter, "theirs"), (MDSWriter, "ours")):
        write(writer, root / out, columns, samples, **options)
    assert files(root / "ours") == files(root / "theirs")
