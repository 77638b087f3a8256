"""A large index is read in blocks as `parse_index` reads it, or not at all."""

import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixstream.errors import IndexCorruptError
from mixstream.formats import ShardList, parse_index, read_blocks


def entry(number=0, *, name="shard.{:05}.mds", packed=False, **changes):
    raw = {"basename": name.format(number), "bytes": 1000 + number, "hashes": {"xxh64": f"{number:016x}"}}
    found = {
        "column_encodings": ["int", "ndarray:int32"],
        "column_names": ["id", "tokens"],
        "column_sizes": [8, None],
        "compression": "zstd:3" if packed else None,
        "format": "mds",
        "hashes": ["xxh64"],
        "raw_data": raw,
        "samples": number % 50,
        "size_limit": 1 << 26,
        "version": 2,
        "zip_data": {"basename": f"{raw['basename']}.zstd", "bytes": 500, "hashes": {"xxh64": "ab"}}
        if packed
        else None,
    }
    return {**found, **changes}


def dumped(entries, **top):
    return json.dumps({"shards": entries, "version": 2, **top}, sort_keys=True).encode()


def in_blocks(data, size):
    return [data[at : at + size] for at in range(0, len(data), size)]


def checked(data, *, size=700):
    """Return what is read in blocks, which is what is read at once, or nothing."""
    found = read_blocks(in_blocks(data, size))
    if found is not None:
        expected = parse_index(data, where="index.json")
        assert isinstance(found.shards, ShardList)
        assert found == expected
        assert (found.extra, found.hashes) == (expected.extra, expected.hashes)
    return found


@pytest.mark.parametrize("size", [1, 99, 5000, 1 << 20])
@pytest.mark.parametrize("packed", [False, True])
def test_entries_of_one_kind(packed, size):
    data = dumped([entry(i, packed=packed) for i in range(99_990, 100_020)], about={"made": "here"}, after_shards=[1.5])
    found = checked(data, size=size)
    assert len(found.shards.kinds) == 1
    assert found.extra == {"about": {"made": "here"}, "after_shards": [1.5]}
    assert found.shards[-1].raw.basename == "shard.100019.mds"
    assert found.shards[3:5] == tuple(found.shards)[3:5]
    with pytest.raises(IndexError):
        found.shards[30]


def test_entries_of_several_kinds_in_turns():
    kinds = [{}, {"packed": True}, {"size_limit": None}, {"hashes": [], "raw_data": {"basename": "x", "bytes": 999}}]
    entries = [entry(i, name=f"{i % 4}/a.{{}}", **kinds[i // 5 % 3]) for i in range(60)]
    found = checked(dumped(entries))
    assert [kind.raw.basename for kind in found.shards.kinds] == ["0/a.0", "1/a.5", "2/a.10"]
    assert found.shards.kind_S.tolist() == [i // 5 % 3 for i in range(60)]


@pytest.mark.parametrize(("separators", "indent"), [((",", ":"), None), ((", ", ": "), 1), ((",\r\n", " :\t"), None)])
def test_any_white_space(separators, indent):
    entries = {"version": 2, "shards": [entry(i) for i in range(20)]}
    data = json.dumps(entries, separators=separators, indent=indent).encode()
    assert checked(b" \n" + data + b"\n ") is not None


def test_names_in_any_order_are_one_by_one_different():
    entries = [entry(i, name=f"{'ba'[i % 2]}/x{{}}") for i in range(20)]
    assert checked(dumped(entries)) is not None
    assert checked(dumped([*entries, entry(4, name="b/x{}")])) is None


WRONG = {
    "two alike": [entry(1), entry(2), entry(1), entry(3)],
    "alike but for case": [entry(1, name="A{}"), entry(2), entry(1, name="a{}"), entry(3)],
    "alike in a row": [entry(1), entry(1), entry(2)],
    "a raw file like a compressed one": [entry(1, name="a{}", packed=True), entry(1, name="a{}.zstd"), entry(2)],
    "file and directory": [entry(1, name="a"), entry(2, name="a/b"), entry(3)],
    "file and directory above": [entry(1, name="a/b/c"), entry(2, name="A"), entry(3)],
    "leads out": [entry(1), entry(2, name="../{}"), entry(3)],
    "leads out below": [entry(1), entry(2, name="a/../../{}"), entry(3)],
    "absolute": [entry(1, name="/etc/{}"), entry(2, name="/etc/{}"), entry(3)],
    "backslash": [entry(1), entry(2, name="a\\{}"), entry(3)],
    "reserved": [entry(1), entry(2, name=".mixstream-{}"), entry(3)],
    "reserved below": [entry(1), entry(2, name="a/.mixstream-{}"), entry(3)],
    "unfinished": [entry(1), entry(2, name="a.TMP"), entry(3)],
    "the index": [entry(1), entry(2, name="a/Index.json"), entry(3)],
    "long": [entry(1), entry(2, name="a" * 241), entry(3)],
    "too many samples": [entry(1), entry(2, samples=84), entry(3)],
    "negative": [entry(1), entry(2, samples=-1), entry(3)],
    "huge": [entry(1), entry(2, samples=10**30), entry(3)],
    "a large file": [
        entry(1),
        entry(2, raw_data={"basename": "x", "bytes": 1 << 32, "hashes": {"xxh64": "1"}}),
        entry(3),
    ],
    "nothing compressed": [
        entry(1, packed=True),
        entry(2, packed=True, zip_data={"basename": "z", "bytes": 0, "hashes": {"xxh64": "a"}}),
        entry(3, packed=True),
    ],
    "compressed to more": [
        entry(1, packed=True),
        entry(2, packed=True, zip_data={"basename": "z", "bytes": 9000, "hashes": {"xxh64": "a"}}),
        entry(3, packed=True),
    ],
    "compression without a file": [entry(1), entry(2, compression="zstd:3"), entry(3)],
    "another version": [entry(1), entry(2, version=1), entry(3)],
    "another format": [entry(1), entry(2, format="other"), entry(3)],
    "wrong size": [entry(1), entry(2, column_sizes=[9, None]), entry(3)],
    "no columns": [entry(1), entry(2, column_names=None), entry(3)],
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_left_to_parse_index(what):
    data = dumped(WRONG[what])
    with pytest.raises(IndexCorruptError):
        parse_index(data, where="index.json")
    assert read_blocks(in_blocks(data, 4096)) is None


TEXTS = {
    "cut": lambda text: text[:-200],
    "no end": lambda text: text[:-1],
    "more behind": lambda text: text + b"{}",
    "a comma at the end": lambda text: text.replace(b'}], "version"', b'}, ], "version"'),
    "no comma": lambda text: text.replace(b"null}, {", b"null} {", 1),
    "two commas": lambda text: text.replace(b"null}, {", b"null},, {", 1),
    "shards twice": lambda text: text[:-1] + b', "shards": []}',
    "shards twice, with entries": lambda text: text[:-1] + b', "shards": ' + dumped([entry(9)])[11:-15] + b"}",
    "shards twice, by an escape": lambda text: text[:-1] + b', "shard\\u0073": ' + dumped([entry(9)])[11:-15] + b"}",
    "shards twice before": lambda text: b'{"shards": [], ' + text[1:],
    "shards in a text": lambda text: b'{"x\\"shards": [' + text.partition(b"[")[2],
    "shards further in": lambda text: b'{"a": ' + text + b', "version": 2}',
    "another version": lambda text: text[:-2] + b"1}",
    "no version": lambda text: text.replace(b', "version": 2}', b"}"),
    "a key twice in an entry": lambda text: text.replace(b'"samples": ', b'"samples": 7, "samples": '),
    "an escape": lambda text: text.replace(b"shard.00002", b"shard.0000\\u0032"),
    "zero bytes": lambda text: text.replace(b"shard.00002", b"shard.0000\x00"),
    "not UTF-8": lambda text: text.replace(b"shard.00002", b"shard.0000\xff"),
    "a leading zero": lambda text: text.replace(b'"samples": 2', b'"samples": 02'),
    "a fraction": lambda text: text.replace(b'"samples": 2', b'"samples": 2.0'),
    "an exponent": lambda text: text.replace(b'"samples": 2', b'"samples": 2e0'),
    "a list of hashes": lambda text: re.sub(rb'"hashes": \{[^}]*\}', b'"hashes": ["abc"]', text),
    "nothing": lambda text: b"",
    "no shards": lambda text: b'{"shards": [], "version": 2}',
    "nested": lambda text: b'{"shards": ' + b"[" * 100_000,
    "nested entries": lambda text: b'{"shards": [' + b'{"a": ' * 100_000,
}


@pytest.mark.parametrize("what", TEXTS)
def test_texts_that_are_odd_are_read_as_they_are_at_once(what):
    data = TEXTS[what](dumped([entry(i) for i in range(6)]))
    try:
        parse_index(data, where="index.json")
    except IndexCorruptError:
        assert read_blocks(in_blocks(data, 300)) is None
    else:
        checked(data, size=300)


@settings(max_examples=150, deadline=None)
@example(at=30, text=b'"', size=200)
@given(at=st.integers(0, 3500), text=st.binary(max_size=3), size=st.integers(1, 2000))
def test_any_change_of_the_text_is_seen_alike(at, text, size):
    data = dumped([entry(i, packed=i > 5) for i in range(10)], about=1)
    data = data[:at] + text + data[at + len(text) :]
    try:
        parse_index(data, where="index.json")
    except IndexCorruptError:
        assert read_blocks(in_blocks(data, size)) is None
    else:
        checked(data, size=size)


def test_many_kinds_are_left_to_parse_index():
    assert checked(dumped([entry(i, size_limit=i % 900) for i in range(900)]), size=1 << 20) is not None
    assert checked(dumped([entry(i, size_limit=i) for i in range(1200)]), size=1 << 20) is None


def test_white_space_behind_an_entry_and_many_large_kinds_are_left_to_the_decoder():
    """Each block would be looked at again with all that follow, and a pattern takes long to compile."""
    taken = []
    head, tail = dumped([entry(0), entry(1)]).split(b"}, {", 1)

    def blocks():
        yield head + b"}"
        for _ in range(1000):
            taken.append(len(taken))
            yield b" " * 4096

    assert read_blocks(iter([head + b"}", *[b" " * 4096] * 3, b", {" + tail])) is not None
    assert read_blocks(blocks()) is None
    assert len(taken) < 40
    many = [entry(i, about="x" * 30_000 + str(i)) for i in range(60)]
    assert read_blocks([dumped(many)]) is None
    assert read_blocks([dumped(many[:20])]) is not None
