"""The hashes that an index carries of itself: found wherever they are wrong, and nowhere else."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mixstream as ms
from mixstream.errors import ConfigError, IndexCorruptError
from mixstream.formats import (
    INDEX_HASHES,
    FileInfo,
    Index,
    ShardInfo,
    check_index_hash,
    dump_index,
    hash_hex,
    hash_names,
    parse_index,
)

WHERE = "s3://corpus/web/index.json"


def index_of(shards: int = 3, **extra: Any) -> Index:
    entries = [
        ShardInfo(
            samples=3,
            column_names=("tokens",),
            column_encodings=("ndarray:int32",),
            column_sizes=(None,),
            compression=None,
            hashes=("sha1",),
            size_limit=1 << 26,
            raw=FileInfo(basename=f"shard.{number:05}.mds", bytes=1000 + number, hashes={"sha1": "ab"}),
            zip=None,
        )
        for number in range(shards)
    ]
    return Index(shards=tuple(entries), extra=extra)


def check(data: bytes, algorithm: str | None) -> None:
    check_index_hash(data, algorithm, where=WHERE)


def test_without_hashes_the_bytes_are_those_of_mdswriter():
    index = index_of(note="ü", tokens=12)
    assert INDEX_HASHES.encode() not in dump_index(index)
    assert dump_index(index, hashes=()) == dump_index(index)


def test_the_hash_is_that_of_the_index_without_it():
    index = index_of(note="ü", tokens=12)
    written = json.loads(dump_index(index, hashes=("xxh3_64", "sha1")))
    digests = written.pop(INDEX_HASHES)
    plain = dump_index(index)
    assert json.dumps(written, sort_keys=True).encode() == plain
    assert digests == {name: hash_hex(name, plain) for name in ("xxh3_64", "sha1")}


@pytest.mark.parametrize("algorithm", hash_names())
def test_every_hash_can_be_carried(algorithm):
    data = dump_index(index_of(), hashes=(algorithm,))
    check(data, algorithm)
    with pytest.raises(IndexCorruptError, match=rf"^{WHERE}: Checksum failure: {algorithm} .*fetch the index again"):
        check(data.replace(b"1001", b"1003"), algorithm)


def test_an_index_read_with_hashes_is_written_with_hashes_that_are_right():
    data = dump_index(index_of(note=1), hashes=("xxh3_64", "sha1"))
    index = parse_index(data, where=WHERE)
    assert index.hashes == ("sha1", "xxh3_64")
    assert index.extra == {"note": 1}
    assert dump_index(index) == data
    assert dump_index(index, hashes=()) == dump_index(index_of(note=1))
    check(dump_index(replace(index, shards=index.shards[1:])), "xxh3_64")


def test_an_index_without_the_hash_passes_and_none_checks_nothing():
    check(dump_index(index_of()), "xxh3_64")
    check(dump_index(index_of(), hashes=("sha1",)), "xxh3_64")
    check(dump_index(index_of(), hashes=("sha1",)).replace(b"1001", b"1003"), None)


def test_mosaicml_streaming_looks_past_the_hash():
    """It reads `shards` and `version` of the top level and nothing else (specs/mds.md section 1)."""
    plain, carried = (json.loads(dump_index(index_of(), hashes=names)) for names in ((), ("xxh64",)))
    assert {key: carried[key] for key in ("shards", "version")} == plain


@settings(max_examples=50)
@given(st.sampled_from([None, 0, 2, "\t"]), st.booleans(), st.booleans())
def test_layout_order_and_escapes_do_not_matter(indent, ascii_only, reverse):
    top = json.loads(
        dump_index(index_of(note="ü\u2028", number=1.5e300, deep=[{"b": 1, "a": None}]), hashes=("xxh64",))
    )
    if reverse:
        top = {key: top[key] for key in reversed(top)}
        top["shards"] = [{key: shard[key] for key in reversed(shard)} for shard in top["shards"]]
    text = json.dumps(top, indent=indent, ensure_ascii=ascii_only)
    check(text.encode(), "xxh64")


@settings(max_examples=200)
@given(st.data())
def test_every_other_change_is_found(data):
    whole = dump_index(index_of(2, tokens=12), hashes=("xxh3_64",))
    before = json.loads(whole)
    damaged = bytearray(whole)
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged[at] = data.draw(st.integers(0, 255))
    try:
        after = json.loads(damaged)
    except ValueError:
        after = None
    carried = isinstance(after, dict) and isinstance(after.get(INDEX_HASHES), dict) and "xxh3_64" in after[INDEX_HASHES]
    if after == before or (isinstance(after, dict) and not carried and INDEX_HASHES not in after):
        check(bytes(damaged), "xxh3_64")  # the same index, or one that has lost the hash's name
    elif after is None or carried:
        with pytest.raises(IndexCorruptError):
            check(bytes(damaged), "xxh3_64")


def test_metadata_keyed_by_numbers_is_hashed_as_it_will_be_read():
    data = dump_index(index_of(tokens={9: 1, 10: 2, 1.5: 3}), hashes=("xxh3_64",))
    check(data, "xxh3_64")
    assert dump_index(parse_index(data, where=WHERE)) == data


def test_metadata_that_could_not_be_read_again_is_not_written():
    with pytest.raises(ValueError, match="could not be read again"):
        dump_index(index_of(note="\ud800"))


@pytest.mark.parametrize("value", [b"null", b"5", b'["xxh64"]', b'{"xxh64": null}', b'{"xxh64": 5}', b'{"xxh64": {}}'])
def test_hashes_of_another_shape_are_refused(value):
    data = b'{"mixstream_hashes": ' + value + b', "shards": [], "version": 2}'
    for call in (lambda: check(data, "xxh64"), lambda: parse_index(data, where=WHERE)):
        with pytest.raises(IndexCorruptError, match=WHERE):
            call()


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{", b"\xff", b'{"a": 1} x', b"[" * 100_000])
def test_what_is_no_index_is_refused(data):
    with pytest.raises(IndexCorruptError, match=WHERE):
        check(data, "xxh64")


def test_names_that_are_not_known_are_refused():
    with pytest.raises(ConfigError, match="'crc99' is not known"):
        dump_index(index_of(), hashes=("crc99",))
    data = dump_index(index_of(), hashes=("xxh64",)).replace(b"xxh64", b"crc99")
    with pytest.raises(ConfigError, match="'crc99' is not known"):
        check(data, "crc99")


def test_the_key_belongs_to_the_format(tmp_path):
    with pytest.raises(ValueError, match=INDEX_HASHES):
        dump_index(Index(shards=(), extra={INDEX_HASHES: {}}))
    with pytest.raises(ConfigError, match=INDEX_HASHES):
        ms.MDSWriter(columns={"n": "int"}, out=tmp_path / "out", metadata={INDEX_HASHES: {"xxh64": "00"}})
