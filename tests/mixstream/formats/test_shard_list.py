"""Shards as arrays answer what tuples of entries answer."""

import pickle

import numpy as np
import pytest

from mixstream.formats import (
    FileInfo,
    ShardInfo,
    ShardList,
    content_facts,
    dump_index,
    dump_shard_list,
    file_names,
    first_of_kinds,
    kinds_of,
    load_shard_list,
    of_kinds,
    parse_index,
    raw_bytes_of,
    raw_names,
    read_blocks,
    samples_of,
    zip_bytes_of,
)
from mixstream.formats.mds.index import Index


def info(number, kind):
    hashes = ({}, {"xxh64": f"{number:x}"}, {"xxh64": f"{number:x}", "sha1": "b", "{0}": "c"})[kind]
    raw = FileInfo(basename=f"{number:05}.mds", bytes=1000 + number, hashes=hashes)
    return ShardInfo(
        samples=number % 7,
        column_names=("x",),
        column_encodings=("int",),
        column_sizes=(8,),
        compression="zstd:3" if kind else None,
        hashes=tuple(hashes),
        size_limit=kind,
        raw=raw,
        zip=FileInfo(basename=f"{number:05}.mds.zstd", bytes=400, hashes=hashes) if kind else None,
    )


ENTRIES = tuple(info(i, i // 10 % 3) for i in range(70))
TEXT = dump_index(Index(shards=ENTRIES, extra={"about": {"b": 1, "a": 2.5}}), hashes=("xxh3_64",))
INDEX = read_blocks([TEXT])
SHARDS = INDEX.shards


@pytest.mark.parametrize("of", [samples_of, raw_bytes_of, zip_bytes_of])
def test_numbers_of_all_shards(of):
    np.testing.assert_array_equal(of(SHARDS), of(ENTRIES))


def test_shards_are_those_of_the_tuple():
    assert isinstance(SHARDS, ShardList)
    assert SHARDS == ENTRIES == tuple(SHARDS) == tuple(SHARDS[i] for i in range(-70, 0))
    assert ENTRIES[:-1] != SHARDS
    assert pickle.loads(pickle.dumps(SHARDS)) == ENTRIES


def test_facts_are_those_that_states_were_made_of():
    assert "".join(content_facts(SHARDS)) == "".join(content_facts(ENTRIES))


def test_names_of_files():
    assert list(raw_names(SHARDS)) == list(raw_names(ENTRIES))
    assert file_names(SHARDS, remote=True) == file_names(ENTRIES, remote=False) == file_names(SHARDS, remote=False)
    bare = read_blocks([dump_index(Index(shards=ENTRIES[:9], extra={}))]).shards
    assert (len(file_names(bare, remote=True)), len(file_names(bare, remote=False))) == (9, 0)


def test_kinds():
    assert kinds_of(SHARDS) == (ENTRIES[0], ENTRIES[10], ENTRIES[20])
    assert list(first_of_kinds(SHARDS)) == [(0, ENTRIES[0]), (10, ENTRIES[10]), (20, ENTRIES[20])]
    assert of_kinds(SHARDS, [5, 6, 7]).tolist() == [5 + i // 10 % 3 for i in range(70)]
    assert (list(first_of_kinds(ENTRIES[:2])), of_kinds(ENTRIES[:2], [3, 4]).tolist()) == (
        [(0, ENTRIES[0]), (1, ENTRIES[1])],
        [3, 4],
    )


def test_the_compact_form_says_the_same():
    data = dump_shard_list(INDEX, text="12", digest="34")
    found, digest = load_shard_list(data, text="12")
    assert (found, digest) == (parse_index(TEXT, where="index.json"), "34")
    assert found.hashes == ("xxh3_64",)
    assert len(data) < len(TEXT) / 2


def test_the_compact_form_of_another_text_is_not_believed():
    assert load_shard_list(dump_shard_list(INDEX, text="12", digest="34"), text="13") is None


def test_a_damaged_compact_form_is_not_believed():
    data = dump_shard_list(INDEX, text="12", digest="34")
    for at in range(0, len(data), 7):
        assert load_shard_list(data[:at], text="12") is None
        assert load_shard_list(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], text="12") is None
    assert load_shard_list(data + b"\0", text="12") is None


def changed(**arrays):
    """Return a compact form of shards that contradict themselves, whose checksum is right."""
    given = {"kinds": SHARDS.kinds, "kind_S": SHARDS.kind_S, "samples_S": SHARDS.samples_S}
    shards = ShardList(**{**given, "raw": SHARDS.raw, "zip": SHARDS.zip, **arrays})
    return dump_shard_list(Index(shards=shards, extra={}), text="12", digest="34")


def test_arrays_that_are_not_possible_are_not_believed():
    assert load_shard_list(changed(), text="12") is not None
    assert load_shard_list(changed(kind_S=SHARDS.kind_S + 1), text="12") is None
    assert load_shard_list(changed(samples_S=SHARDS.samples_S + 1000), text="12") is None
    assert load_shard_list(changed(zip=SHARDS.zip.joined([SHARDS.zip, SHARDS.zip])), text="12") is None
