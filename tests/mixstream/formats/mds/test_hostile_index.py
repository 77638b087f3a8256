"""An index from an attacker: one of our errors, or an index that is valid throughout."""

from __future__ import annotations

import json
import os
import time
import tracemalloc
from contextlib import suppress
from typing import Any
from unicodedata import normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.errors import IndexCorruptError
from mixstream.formats import (
    Index,
    check_index_hash,
    dump_index,
    fixed_array,
    get_mds_encoded_size,
    is_compression,
    is_mds_encoding,
    parse_index,
)

WHERE = "s3://corpus/web/index.json"
U32 = 2**32 - 1


def entry(number: int, **changes: Any) -> dict[str, Any]:
    packed = number % 2 == 1
    return {
        "version": 2,
        "format": "mds",
        "compression": "zstd:3" if packed else None,
        "hashes": ["sha1"],
        "size_limit": 1 << 26,
        "samples": 3,
        "column_names": ["id", "text", "tokens"],
        "column_encodings": ["int", "str", "ndarray:uint16:16"],
        "column_sizes": [8, None, 32],
        "raw_data": {"basename": f"shard.{number:05}.mds", "bytes": 400, "hashes": {"sha1": "ab"}},
        "zip_data": {"basename": f"shard.{number:05}.mds.zstd", "bytes": 200, "hashes": {}} if packed else None,
        **changes,
    }


def top(**changes: Any) -> dict[str, Any]:
    return {"version": 2, "shards": [entry(number) for number in range(3)], "tokens": 12, **changes}


def named(basename: str) -> bytes:
    return json.dumps(top(shards=[entry(0, raw_data={"basename": basename, "bytes": 400, "hashes": {}})])).encode()


def believe(index: Index) -> None:
    """Assert of an index that was accepted what the layers above rely on."""
    paths = []
    for shard in index.shards:
        columns = list(zip(shard.column_names, shard.column_encodings, shard.column_sizes, strict=True))
        assert list(shard.column_names) == sorted(set(shard.column_names))
        for _, encoding, size in columns:
            assert is_mds_encoding(encoding)
            assert get_mds_encoded_size(encoding) == size
            assert size is None or 0 < size <= U32
        record = sum(4 if size is None else size for _, _, size in columns)
        assert 0 <= shard.samples <= U32
        assert 8 + shard.samples * (4 + record) <= shard.raw.bytes <= U32
        assert (shard.zip is None) == (shard.compression is None)
        assert shard.compression is None or is_compression(shard.compression)
        assert shard.zip is None or 0 < shard.zip.bytes <= 2 * shard.raw.bytes + 4096
        for file in (shard.raw, shard.zip):
            if file is not None:
                assert type(file.bytes) is int
                paths.append(file.basename)
    for path in paths:
        assert os.path.normpath(os.path.join("/cache/web", path)) == f"/cache/web/{path}"  # noqa: PTH118
        assert not set(path) & set("\\:\0\n\r\x1b\x9b\u2028")
        for part in path.split("/"):
            assert len(part.encode()) <= 240
            assert not part.lower().startswith(".mixstream-")
            assert not (part[0] == "." and part.lower().endswith(".partial"))
        assert not path.lower().endswith((".tmp", "/index.json"))
        assert path.lower() != "index.json"
    twins = {normalize("NFC", path).casefold() for path in paths}
    assert len(twins) == len(paths)
    assert not any(a.startswith(f"{b}/") for a in twins for b in twins)
    again = dump_index(index, hashes=("xxh3_64",))
    check_index_hash(again, "xxh3_64", where=WHERE)
    assert parse_index(again, where=WHERE).shards == index.shards


def accepted(data: bytes) -> Index | None:
    """Return the index, or None if it is refused as it should be: by IndexCorruptError, with place and remedy."""
    try:
        index = parse_index(data, where=WHERE)
    except IndexCorruptError as error:
        refusal = str(error)
    else:
        believe(index)
        return index
    assert refusal.startswith(f"{WHERE}: ")
    assert refusal.endswith("fetch the index again, or write the dataset again")
    assert len(refusal) < 1500
    return None


def one_of(*groups: list[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(*map(st.sampled_from, groups))


hostile_numbers = one_of(
    [-1, 0, 1, -(2**31), 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**400],
    [0.0, 3.0, 1.5, -0.0, 1e18, 1e308, True, False, None, "3", [3], {}],
)
hostile_paths = st.one_of(
    one_of(
        [
            "",
            "/",
            "/etc/passwd",
            "..",
            "../x",
            "a/../../x",
            "..\\x",
            "C:x",
            "c:/x",
            "\\\\host\\x",
            "a\0b",
            "//x",
            "~/x",
        ],
        ["\uff0e\uff0e/x", "\u2024\u2024/x", "..\u200b/x", "a\u2215..\u2215x", "%2e%2e/x", "\u202excod.mds", "\x9b2J"],
        ["index.json", "INDEX.JSON", "a/index.json", "\u0131ndex.json", "a/index.json/b", "index.json.tmp", "tmp"],
        ["\xe9.mds", "e\u0301.mds", "E\u0301.MDS", "\xc9.mds", "\u1e9e", "ss", "\xdf"],
        [".mixstream-lock", ".MIXSTREAM-need.1.ab", "a/.mixstream-origin", ".mixstream-x/y", ".x.PARTIAL"],
        [".shard.00001.mds.partial", "a/.b.partial/c", "shard.00001.mds.tmp", "shard.00001.mds", "SHARD.00002.MDS"],
        ["shard.00001.mds/x", "shard.00001.mds.zstd", "x" * 241, "\xe9" * 121, "a/" * 600 + "a", "\u6f22" * 2000],
        [" ", "-rf", "*", "a?b", "a#b", "a&b", "$HOME", "`id`", "nul", "a.", "a "],
    ),
    st.text(max_size=8),
    st.text(alphabet="./\\a:", max_size=6),
)
hostile_encodings = one_of(
    ["ndarray:uint16:99999999999,9999999", "ndarray:uint8:4294967295", "ndarray:uint8:4294967296", "ndarray:int32:-1"],
    ["ndarray:float64:536870911", "ndarray:uint8:" + ",".join("1" * 63), "ndarray:uint8:" + "1," * 99999 + "1"],
    [
        "ndarray:uint8:0",
        "ndarray:object:4",
        "ndarray:<U4:4",
        "ndarray",
        "ndarray:",
        "pkl",
        "list[pkl]",
        "pil",
        "",
        "\0",
    ],
    ["ndarray:uint16:16", "int", "str", "eval", "NDARRAY:UINT16:16", "ndarray:uint16:1_6", "ndarray:uint16: 16"],
)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), hostile_numbers),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
hostile = st.one_of(hostile_numbers, hostile_paths, hostile_encodings, anything)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the paths of all values of a JSON document."""
    inner: Any = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(below for key, value in inner for below in places(value, (*path, key)))]


PLACES = places(top())


@settings(max_examples=400)
@given(st.data())
def test_any_value_replaced_anywhere(data):
    """Valid JSON of the right shape, but for one to three values that are not what they should be."""
    document: Any = {"": top()}
    for _ in range(data.draw(st.integers(1, 3))):
        place = ("", *data.draw(st.sampled_from(PLACES)))
        value = data.draw(hostile_paths if place[-1] == "basename" else hostile)
        node = document
        with suppress(KeyError, IndexError, TypeError):  # an earlier one has taken its parent away
            for key in place[:-1]:
                node = node[key]
            how = data.draw(st.sampled_from(["replace", "replace", "remove", "add"]))
            if how == "replace":
                node[place[-1]] = value
            elif how == "remove":
                del node[place[-1]]
            elif isinstance(node, list):
                node.append(value)
            else:
                node[data.draw(st.text(max_size=3))] = value
    accepted(json.dumps(document.get("")).encode())


@settings(max_examples=300)
@given(st.lists(hostile_paths, min_size=1, max_size=4))
def test_any_set_of_paths(paths):
    """Also where no single path is bad, but two are the same on some file system."""
    shards = [entry(0, raw_data={"basename": path, "bytes": 400, "hashes": {}}) for path in paths]
    accepted(json.dumps(top(shards=shards)).encode())


@settings(max_examples=400)
@given(st.data())
def test_damaged_text(data):
    """Bytes replaced, cut, doubled or put in, among them what other parsers are tolerant of."""
    text = bytearray(json.dumps(top()).encode())
    pieces = [b"\xff", b"\xef\xbb\xbf", b"\0", b"NaN", b"1e400", b"-", b"9" * 400, b"\\ud800", b"//", b",", b"{", b"]"]
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 12)))
        if data.draw(st.booleans()):
            text[start:end] = data.draw(st.one_of(st.binary(max_size=3), st.sampled_from(pieces)))
        else:
            text[start:start] = text[start:end]
    accepted(bytes(text))


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_raw_bytes(data):
    assert accepted(data) is None
    with suppress(IndexCorruptError):
        check_index_hash(data, "xxh3_64", where=WHERE)


@pytest.mark.parametrize(
    ("key", "first", "last"), [("version", "3", "2"), ("samples", "-1", "3"), ("basename", '"../x"', '"x"')]
)
def test_of_a_key_that_stands_twice_the_last_counts_as_in_every_json_reader(key, first, last):
    text = json.dumps(top(shards=[entry(0)]))
    value = json.dumps({"version": 2, "samples": 3, "basename": "shard.00000.mds"}[key])
    good = text.replace(f'"{key}": {value}', f'"{key}": {first}, "{key}": {last}')
    bad = text.replace(f'"{key}": {value}', f'"{key}": {last}, "{key}": {first}')
    assert good != text
    assert accepted(good.encode()) is not None
    assert accepted(bad.encode()) is None


@pytest.mark.parametrize(
    ("data", "good"),
    [
        (lambda _: b"[" * 50_000_000, False),
        (lambda size: b"[" * size, False),
        (lambda size: b'{"a":' * (size // 5), False),
        (lambda size: b'{"version": 2, "shards": ' + b"[" * size, False),
        (lambda size: b'{"version": 2, "shards": [], "a": ' + b"[" * (size // 2) + b"]" * (size // 2) + b"}", False),
        (lambda size: b'{"version": 2, "shards": [' + b"{}," * (size // 3) + b"{}]}", False),
        (lambda size: b'{"version": 2, "shards": [], "a": "' + b"x" * size + b'"}', True),
        (lambda size: b'{"version": ' + b"9" * size + b"}", False),
        (lambda size: json.dumps(top(version="x" * size)).encode(), False),
        (lambda size: named("x" * size), False),
        (lambda size: json.dumps(top(shards=[entry(0, compression="z" * size)])).encode(), False),
        (lambda size: json.dumps(top(shards=[entry(0, column_encodings=["int", "str", "n" * size])])).encode(), False),
        (lambda size: json.dumps(top(shards=[entry(0, format="f" * size)])).encode(), False),
        (lambda size: b" " * size + json.dumps(top()).encode(), True),
        (lambda size: b"\xef\xbb\xbf" + json.dumps(top()).encode(), False),
        (lambda size: json.dumps(top()).encode("utf-16"), False),
    ],
)
def test_size_alone_does_no_harm(data, good):
    """Megabytes are refused, or read, in seconds; memory is a few times what they are, and the message short."""
    text = data(5_000_000)
    tracemalloc.start()
    began = time.thread_time()
    try:
        message = ""
        parse_index(text, where=WHERE)
    except IndexCorruptError as error:
        message = str(error)
    finally:
        seconds, peak = time.thread_time() - began, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert good == (message == "")
    assert len(message) < 2000
    assert peak < 5 * len(text) + (1 << 20)
    assert seconds < 20


def test_sums_of_sizes_do_not_wrap():
    """Bytes that samples need are counted without an end: 2**30 samples of 2**32 bytes do not fit 4 GiB."""
    for samples, encoding in ((2**30, "ndarray:uint8:4294967292"), (U32, "ndarray:float64:536870911"), (2, "int")):
        size = get_mds_encoded_size(encoding)
        least = 8 + samples * (4 + (size or 0))
        for bytes_, good in ((least & U32, least <= U32), (least - 1, False), (least, least <= U32)):
            file = {"basename": "s", "bytes": bytes_, "hashes": {}}
            columns = {"column_names": ["a"], "column_encodings": [encoding], "column_sizes": [size]}
            index = accepted(json.dumps(top(shards=[entry(0, samples=samples, raw_data=file, **columns)])).encode())
            assert (index is not None) == good


@pytest.mark.parametrize(
    "encoding",
    ["ndarray:uint16:99999999999,9999999", "ndarray:uint8:4294967296", "ndarray:uint8:65536,65536", "ndarray:object:1"],
)
def test_absurd_shapes_are_no_encodings(encoding):
    assert not is_mds_encoding(encoding)
    assert fixed_array(encoding) is None
    columns = {"column_names": ["a"], "column_encodings": [encoding], "column_sizes": [8]}
    assert accepted(json.dumps(top(shards=[entry(0, samples=0, **columns)])).encode()) is None


CACHE = [
    ".mixstream-origin",
    ".mixstream-lock",
    "a/.mixstream-need.12.ab",
    ".Mixstream-x/y",
    ".shard.00000.mds.partial",
]
OTHERS = ["a/.x.partial", ".x.partial/y", "shard.00000.mds.tmp", "a.TMP", "index.json", "00/index.json", "Index.JSON"]


@pytest.mark.parametrize("name", [*CACHE, *OTHERS])
def test_names_that_the_cache_and_writers_use_are_refused(name):
    with pytest.raises(IndexCorruptError, match=r"has basename '.*reserved names.*fetch the index again"):
        parse_index(named(name), where=WHERE)


@pytest.mark.parametrize("name", ["mixstream-lock", "a.partial", ".partial.mds", "a.tmp/b", ".tmpx", "index.json.mds"])
def test_names_that_only_look_like_those_are_legal(name):
    index = accepted(named(name))
    assert index is not None
    assert index.shards[0].raw.basename == name


@pytest.mark.parametrize(
    ("one", "other"),
    [("a/x", "A/X"), ("\xe9", "e\u0301"), ("\xc9", "e\u0301"), ("stra\xdfe", "STRASSE"), ("s", "\u017f")],
)
def test_names_that_some_file_system_takes_for_one_are_refused(one, other):
    shards = [entry(0, raw_data={"basename": name, "bytes": 400, "hashes": {}}) for name in (one, other)]
    with pytest.raises(IndexCorruptError, match=r"shard 1 has basename .*another file .*the same on some systems"):
        parse_index(json.dumps(top(shards=shards)).encode(), where=WHERE)
