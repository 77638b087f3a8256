import copy
import json
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.errors import IndexCorruptError, MixstreamError
from mixstream.formats import FileInfo, Index, ShardInfo, dump_index, parse_index

REMOVE = object()


def shard(number=0, **changes):
    entry = {
        "version": 2,
        "format": "mds",
        "compression": None,
        "hashes": ["sha1"],
        "size_limit": 1 << 26,
        "samples": 3,
        "column_names": ["id", "tokens"],
        "column_encodings": ["int", "ndarray:int32"],
        "column_sizes": [8, None],
        "raw_data": {"basename": f"shard.{number:05}.mds", "bytes": 1000, "hashes": {"sha1": "ab"}},
        "zip_data": None,
    }
    entry.update(changes)
    return {key: value for key, value in entry.items() if value is not REMOVE}


def file(basename="shard.00000.mds", size=1000):
    return {"basename": basename, "bytes": size, "hashes": {}}


def dump(*shards, **top):
    return json.dumps({"version": 2, "shards": list(shards), **top}, sort_keys=True).encode()


def parse(data):
    return parse_index(data, where="s3://corpus/web/index.json")


def test_every_fact_of_an_index_is_kept():
    packed = shard(1, compression="zstd:7", zip_data=file("shard.00001.mds.zstd", 500))
    index = parse(dump(shard(), packed))
    first, second = index.shards
    assert first == ShardInfo(
        samples=3,
        column_names=("id", "tokens"),
        column_encodings=("int", "ndarray:int32"),
        column_sizes=(8, None),
        compression=None,
        hashes=("sha1",),
        size_limit=1 << 26,
        raw=FileInfo(basename="shard.00000.mds", bytes=1000, hashes={"sha1": "ab"}),
        zip=None,
    )
    assert first.columns == {"id": "int", "tokens": "ndarray:int32"}
    assert second.compression == "zstd:7"
    assert second.zip == FileInfo(basename="shard.00001.mds.zstd", bytes=500, hashes={})
    assert first.config() == {
        key: value for key, value in shard().items() if key not in {"samples", "raw_data", "zip_data"}
    }


def test_dump_is_the_inverse_of_parse_byte_for_byte():
    for data in (dump(), dump(shard()), dump(shard(), shard(1, compression="br", zip_data=file("b.br", 9)))):
        assert dump_index(parse(data)) == data


def test_unknown_keys_at_top_are_kept_and_inside_a_shard_are_dropped():
    extra = {"tokens": 12, "nested": {"a": [1, None, "ü"]}}
    index = parse(dump(shard(checksum="x"), **extra))
    assert index.extra == extra
    assert parse(dump_index(index)) == index
    assert dump_index(index) == dump(shard(), **extra)


@pytest.mark.parametrize("extra", [{"shards": 1}, {"version": 3}, {"a": object()}, {"a": float("nan")}, {"a": {1, 2}}])
def test_extra_that_json_or_the_format_cannot_hold_is_refused(extra):
    with pytest.raises((TypeError, ValueError)):
        dump_index(Index(shards=(), extra=extra))


def test_optional_keys_may_be_absent():
    index = parse(dump(shard(compression=REMOVE, hashes=REMOVE, size_limit=REMOVE, zip_data=REMOVE)))
    assert index.shards[0] == replace(parse(dump(shard())).shards[0], hashes=(), size_limit=None)


@pytest.mark.parametrize(
    "basename", ["00/shard.00000.mds", "a/b/c/d.mds", "..a", "a..b/c.", ".hidden", "é漢", "/".join(["x" * 240] * 4)]
)
def test_paths_below_the_directory_are_legal(basename):
    assert parse(dump(shard(raw_data=file(basename)))).shards[0].raw.basename == basename


@pytest.mark.parametrize(
    "basename",
    [
        "",
        "/etc/passwd",
        "..",
        ".",
        "../a",
        "a/..",
        "a/../../b",
        "a/./b",
        "./a",
        "a//b",
        "a/",
        "a\\b",
        "..\\a",
        "C:a",
        "C:\\a",
        "a\0b",
        "a\nb",
        "a\x7f",
        "index.json",
        pytest.param("x" * 241, id="a long name"),
        pytest.param("é" * 121, id="a name of many bytes"),
        pytest.param("x/" * 512 + "x", id="long"),
    ],
)
def test_paths_that_leave_the_directory_or_hide_are_refused(basename):
    for entry in (shard(raw_data=file(basename)), shard(compression="gz", zip_data=file(basename, 10))):
        with pytest.raises(IndexCorruptError, match=r"s3://corpus/web/index\.json: shard 1 has basename"):
            parse(dump(shard(5), entry))


def test_two_files_never_share_a_path():
    with pytest.raises(IndexCorruptError, match=r"shard 1.*shard\.00000\.mds"):
        parse(dump(shard(0), shard(0)))
    with pytest.raises(IndexCorruptError, match="another file"):
        parse(dump(shard(0, compression="gz", zip_data=file("shard.00000.mds", 10))))
    with pytest.raises(IndexCorruptError, match="'a/b' is both a file and a directory"):
        parse(dump(shard(raw_data=file("a/b/c")), shard(raw_data=file("a/b"))))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"version": 3}, "version 3"),
        ({"format": "parquet"}, "'parquet'.*mds, json, csv, tsv, xsv"),
        ({"format": "csv"}, "encoding 'ndarray:int32', which format 'csv' does not have"),
        ({"format": "xsv"}, "encoding 'ndarray:int32', which format 'xsv' does not have"),
        ({"samples": -1}, "-1 samples"),
        ({"samples": 2**32}, "4294967296 samples"),
        ({"samples": 1.5}, "samples"),
        ({"samples": "3"}, "samples"),
        ({"samples": True}, "samples"),
        ({"samples": None}, "samples"),
        ({"samples": 10**400}, "0000 samples"),
        ({"samples": 100}, "1000 bytes; 100 samples.* at least 1608"),
        ({"samples": 10**9}, "at least"),
        ({"raw_data": file(size=-1)}, "-1 bytes"),
        ({"raw_data": file(size=3)}, "3 bytes"),
        ({"raw_data": file(size=2**32)}, "4294967296 bytes"),
        ({"raw_data": file(size=10**30)}, "at least .*, and a shard at most 4294967295"),
        ({"raw_data": file(size=None)}, "bytes"),
        ({"raw_data": None}, "raw_data"),
        ({"raw_data": {}}, "raw_data"),
        ({"raw_data": REMOVE}, "raw_data"),
        ({"samples": REMOVE}, "samples"),
        ({"column_names": REMOVE}, "lacks column_names"),
        ({"column_names": ["id"]}, "1 column names, 2 encodings and 2 sizes"),
        ({"column_names": ["tokens", "id"]}, "sorted"),
        ({"column_names": ["id", "id"]}, "must be sorted and unique"),
        ({"column_names": ["id", 5]}, "column_names"),
        ({"column_names": "id"}, "column_names"),
        ({"column_encodings": ["int", "int128"]}, "'tokens' of encoding 'int128'"),
        ({"column_encodings": ["int", "ndarray:int32:4"]}, "size None; encoding 'ndarray:int32:4' has 16"),
        ({"column_sizes": [4, None]}, "'id' of size 4; encoding 'int' has 8"),
        ({"column_sizes": [None, None]}, "size None"),
        ({"column_sizes": [8, -1]}, "size -1"),
        ({"column_sizes": [8, 0]}, "size 0"),
        ({"compression": "lzma"}, "lzma"),
        ({"compression": ""}, "compression ''"),
        ({"compression": "zstd"}, "no zip_data"),
        ({"zip_data": file("z", 10)}, "zip_data"),
        ({"compression": "zstd", "zip_data": file("z", 0)}, "zip_data takes 0 bytes"),
        ({"compression": "zstd", "zip_data": file("z", -5)}, "zip_data takes -5 bytes"),
        ({"compression": "zstd", "zip_data": file("z", 10**12)}, "zip_data takes 1000000000000 bytes"),
        ({"hashes": "sha1"}, "hashes"),
        ({"size_limit": "64mb"}, "size_limit"),
    ],
)
def test_what_cannot_be_is_refused_with_file_fact_and_remedy(changes, word):
    with pytest.raises(IndexCorruptError, match=word) as caught:
        parse(dump(shard(5), shard(**changes)))
    assert str(caught.value).startswith("s3://corpus/web/index.json: ")
    assert "fetch the index again" in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(data, id=name)
        for name, data in {
            "nothing": b"",
            "not json": b"<xml>",
            "not utf-8": b'{"version": 2, "shards": [], "a": "\xff"}',
            "list": b"[]",
            "null": b"null",
            "no shards": b'{"version": 2}',
            "shards null": b'{"version": 2, "shards": null}',
            "shard null": b'{"version": 2, "shards": [null]}',
            "no version": b'{"shards": []}',
            "version 1": b'{"version": 1, "shards": []}',
            "version text": b'{"version": "2", "shards": []}',
            "cut": dump(shard())[:-5],
            "more behind": dump(shard()) + b"{}",
            "deep": b'{"version": 2, "shards": [], "a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
            "deep shards": b'{"version": 2, "shards": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
            "deep version": b'{"shards": [], "version": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
            "5000 digits": dump(shard()).replace(b"1000", b"1" * 5000),
            "5000 digits of version": b'{"shards": [], "version": ' + b"1" * 5000 + b"}",
            "5000 digits at top": b'{"version": 2, "shards": [], "a": ' + b"1" * 5000 + b"}",
            "nan": b'{"version": 2, "shards": [], "a": NaN}',
            "lone surrogate": b'{"version": 2, "shards": [], "a": "\\ud800"}',
        }.items()
    ],
)
def test_what_is_no_index_is_refused(data):
    with pytest.raises(IndexCorruptError, match=r"^s3://corpus/web/index\.json: .*fetch the index again"):
        parse(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(st.data(), json_values)
def test_any_value_at_any_place_gives_an_index_or_our_error(data, value):
    document = {"version": 2, "shards": [copy.deepcopy(shard(n)) for n in range(2)]}
    place, key = document, data.draw(st.sampled_from(sorted(document)))
    while isinstance(place[key], dict | list) and place[key] and data.draw(st.integers(0, 3)):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    place[key] = value
    try:
        index = parse(json.dumps(document).encode())
    except MixstreamError:
        return
    assert parse(dump_index(index)) == index


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damaged_byte_gives_an_index_or_our_error(data):
    damaged = bytearray(dump(shard(0), shard(1, compression="zstd", zip_data=file("z", 10))))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse(bytes(damaged))
    except IndexCorruptError:
        return


def test_cost_does_not_grow_with_samples():
    columns = {"column_names": ["x"], "column_encodings": ["uint8"], "column_sizes": [1]}
    entries = [shard(n, samples=800_000_000, raw_data=file(f"{n}.mds", 2**32 - 1), **columns) for n in range(100)]
    data = dump(*entries)
    start = time.thread_time()
    index = parse(data)
    assert time.thread_time() - start < 1
    assert sum(shard.samples for shard in index.shards) == 80_000_000_000
