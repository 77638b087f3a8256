"""Lines of JSON, CSV, TSV and XSV shards: what is written is read again, or refused when it is written."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.errors import EncodingError, MissingColumnError, ShardCorruptError
from mixstream.formats import (
    FileInfo,
    SplitInfo,
    decode_sample,
    get_json_encodings,
    get_xsv_encodings,
    is_json_encoded,
    is_json_encoding,
    is_xsv_encoding,
    join_files,
    read_offsets,
    xsv_decode,
    xsv_encode,
)
from mixstream.formats.split.lines import encode_files, encode_line

NONE = FileInfo(basename="", bytes=0, hashes={})
MARKS = {"json": ("\n", ""), "csv": ("\n", ","), "tsv": ("\r\n", "\t"), "xsv": ("\n", "||")}


def info(name, *, newline=None, separator=None, **columns):
    columns = columns or {"id": "int", "text": "str", "x": "float"}
    encodings = tuple(columns[column] for column in sorted(columns))
    return SplitInfo(
        name=name,
        samples=0,
        column_names=tuple(sorted(columns)),
        column_encodings=tuple({"int": "str_int", "float": "str_float", "str": "str"}[each] for each in encodings),
        column_sizes=(None,) * len(columns),
        encodings=encodings,
        newline=MARKS[name][0] if newline is None else newline,
        separator=MARKS[name][1] if separator is None else separator,
        compression=None,
        hashes=(),
        size_limit=None,
        raw=NONE,
        zip=None,
        meta=NONE,
    )


def shard(samples, like):
    """Return the bytes of a shard in memory, and its entry."""
    data, meta = encode_files([encode_line(sample, like) for sample in samples], like)
    files = {"raw": FileInfo(basename="a", bytes=len(data), hashes={})}
    files["meta"] = FileInfo(basename="a.meta", bytes=len(meta), hashes={})
    return join_files([meta, data]), replace(like, samples=len(samples), **files)


def rows(raw, entry):
    ends = read_offsets(raw, entry, where="a").tolist()
    return [decode_sample(raw[a:b], entry, where="a") for a, b in pairwise(ends)]


@pytest.mark.parametrize("name", MARKS)
@given(st.lists(st.tuples(st.integers(), st.text(), st.floats(allow_nan=False)), max_size=6))
def test_samples_come_back_as_they_were_or_are_refused(name, values):
    like, kept = info(name), []
    for number, text, x in values:
        sample = {"id": number, "text": text, "x": x, "more": None}
        try:
            encode_line(sample, like)
        except EncodingError:
            marks = [mark for mark in MARKS[name] if mark]
            surrogate = any("\ud800" <= each <= "\udfff" for each in text)
            assert name != "json"
            assert surrogate or any(mark in text for mark in marks) or text.startswith("|") or text.endswith("|")
            continue
        kept.append(sample)
    found = rows(*shard(kept, like))
    assert found == [{key: sample[key] for key in ("id", "text", "x")} for sample in kept]


@pytest.mark.parametrize(("text", "word"), [("a,b", "separator ','"), ("a\nb", r"newline '\\n'")])
def test_a_value_that_would_be_read_as_others_is_refused(text, word):
    with pytest.raises(EncodingError, match=word):
        encode_line({"id": 1, "text": text, "x": 0.5}, info("csv"))


def test_a_part_of_a_long_separator_at_the_end_of_a_value_is_refused():
    like = info("xsv", a="str", b="str")
    assert encode_line({"a": "x|y", "b": "z"}, like) == b"x|y||z\n"
    with pytest.raises(EncodingError, match="a part of the separator"):
        encode_line({"a": "x|", "b": "y"}, like)  # "x|||y" would be split into "x" and "|y"


@pytest.mark.parametrize("name", MARKS)
def test_numbers_of_numpy_are_numbers(name):
    sample = {"id": np.int32(7), "text": "a", "x": np.float32(0.1)}
    assert rows(*shard([sample], info(name))) == [{"id": 7, "text": "a", "x": float(np.float32(0.1))}]


@pytest.mark.parametrize("sample", [{"id": "1"}, {"id": 1.0}, {"text": 5}, {"text": b"a"}, {"x": 1}, {"x": None}])
@pytest.mark.parametrize("name", MARKS)
def test_values_of_another_type_are_refused(name, sample):
    with pytest.raises(EncodingError, match=f"column '{next(iter(sample))}'.*needs"):
        encode_line({"id": 1, "text": "a", "x": 0.5, **sample}, info(name))


def test_true_has_no_text_that_an_integer_is_read_from():
    with pytest.raises(EncodingError, match="got bool"):
        encode_line({"id": True, "text": "a", "x": 0.5}, info("csv"))
    assert encode_line({"id": True}, info("json", id="int")) == b'{"id": true}\n'  # JSON has it


def test_a_missing_column_is_named():
    with pytest.raises(MissingColumnError, match="'text'"):
        encode_line({"id": 1, "x": 0.5}, info("json"))


@pytest.mark.parametrize(
    ("name", "line", "word"),
    [
        ("json", b'{"id": 1, "text": "a", "x": 0.5}', "end with"),
        ("json", b'{"id": 1, "text": "a"}\n', "index says"),
        ("json", b'{"id": "1", "text": "a", "x": 0.5}\n', "'id' of encoding 'int'"),
        ("json", b"[1]\n", "index says"),
        ("json", b"{\n", "Expecting"),
        ("json", b"[" * 100_000 + b"\n", "recursion|Expecting"),
        ("csv", b"1,a\n", "2 values"),
        ("csv", b"1,a,0.5,2\n", "4 values"),
        ("csv", b"one,a,0.5\n", "encoding 'int'"),
        ("csv", b"1,\xff,0.5\n", "utf-8"),
        ("csv", b"", "end with"),
    ],
)
def test_a_line_that_is_none_of_these_columns_is_refused(name, line, word):
    with pytest.raises(ShardCorruptError, match=f"^shard 3: .*{word}"):
        decode_sample(line, info(name), where="shard 3")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda raw, entry: (raw[:-1], entry), "index says"),
        (lambda raw, entry: (raw, replace(entry, samples=3)), "2 samples, its index says 3"),
        (lambda raw, entry: (raw[:4] + b"\x01" + raw[5:], entry), "span bytes 1"),
        (lambda raw, entry: (raw[:8] + b"\x00" + raw[9:], entry), "sample 0 spans 0 bytes"),
        (lambda raw, entry: (raw[:8] + b"\xff" + raw[9:], entry), "sample 1 spans -"),
        (lambda raw, entry: (raw[:12] + b"\xff" + raw[13:], entry), "lines span"),
    ],
)
def test_offsets_that_do_not_fit_the_data_are_refused(change, word):
    sample = {"id": 1, "text": "a", "x": 0.5}
    with pytest.raises(ShardCorruptError, match=f"^a: .*{word}"):
        read_offsets(*change(*shard([sample, sample], info("json"))), where="a")


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("name", ["json", "csv"])
def test_an_offset_within_a_line_is_refused(name, at):
    """A CSV line that lost its first digit would be read as another number."""
    sample = {"id": 123, "text": "a", "x": 0.5}
    at -= name == "csv"
    raw, entry = shard([sample, sample], info(name))
    shifted = raw[: 4 + 4 * at] + bytes([raw[4 + 4 * at] + 1]) + raw[5 + 4 * at :]
    with pytest.raises(
        ShardCorruptError, match=r"^a: offset \d of its meta file is at no line's end|^a: its lines span"
    ):
        read_offsets(shifted, entry, where="a")


def test_the_meta_file_says_what_the_data_file_holds():
    like = info("csv", id="int")
    data, meta = encode_files([encode_line({"id": n}, like) for n in (5, 60)], like)
    assert data == b"id\n5\n60\n"
    assert np.frombuffer(meta[:16], "<u4").tolist() == [2, 3, 5, 8]
    assert json.loads(meta[16:]) == like.config()


def test_functions_have_the_names_of_mosaicml_streaming():
    assert get_json_encodings() == get_xsv_encodings() == {"str", "int", "float"}
    assert is_json_encoding("int")
    assert is_xsv_encoding("float")
    assert not is_json_encoding("uint8")
    assert not is_xsv_encoding("")
    assert is_json_encoded("str", "a")
    assert xsv_encode("float", 1.25) == "1.25"
    assert xsv_decode("int", "27") == 27
    with pytest.raises(EncodingError):
        is_json_encoded("int", "5")
    with pytest.raises(EncodingError, match="'uint8' is not known"):
        xsv_encode("uint8", 5)
    with pytest.raises(ShardCorruptError):
        xsv_decode("int", "five")
