import struct
from contextlib import suppress
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.errors import EncodingError, MissingColumnError, MixstreamError, ShardCorruptError
from mixstream.formats import (
    FileInfo,
    ShardInfo,
    decode_sample,
    encode_sample,
    encode_shard,
    get_mds_encoded_size,
    read_offsets,
)

FIXED = {"id": "int", "tokens": "ndarray:uint16:4"}
MIXED = {"a": "str", "n": "int", "tokens": "ndarray:int32", "z": "json"}
WHERE = "web/shard.00003.mds"


def describe(columns, samples=0, size=0):
    names = tuple(sorted(columns))
    return ShardInfo(
        samples=samples,
        column_names=names,
        column_encodings=tuple(columns[name] for name in names),
        column_sizes=tuple(get_mds_encoded_size(columns[name]) for name in names),
        compression=None,
        hashes=(),
        size_limit=None,
        raw=FileInfo(basename="shard.00003.mds", bytes=size, hashes={}),
        zip=None,
    )


def encode(sample, columns):
    info = describe(columns)
    return encode_sample(sample, names=info.column_names, encodings=info.column_encodings, sizes=info.column_sizes)


def build(columns, samples):
    raw = encode_shard([encode(sample, columns) for sample in samples], describe(columns).config())
    return raw, describe(columns, len(samples), len(raw))


def mixed(n):
    return {"z": {"n": n}, "a": "é" * n, "tokens": np.arange(n + 1, dtype=np.int32), "n": n, "more": 1}


def fixed(n):
    return {"id": n, "tokens": np.full(4, n, np.uint16)}


def test_layout_is_that_of_the_specification():
    raw, info = build({"b": "bytes", "n": "int"}, [{"b": b"xy", "n": 1}, {"b": b"", "n": 2}])
    config = (
        b'{"column_encodings": ["bytes", "int"], "column_names": ["b", "n"], "column_sizes": [null, 8], '
        b'"compression": null, "format": "mds", "hashes": [], "size_limit": null, "version": 2}'
    )
    first = 4 + 12 + len(config)
    samples = struct.pack("<I", 2) + b"xy" + struct.pack("<q", 1), struct.pack("<I", 0) + struct.pack("<q", 2)
    offsets = first, first + len(samples[0]), first + len(samples[0]) + len(samples[1])
    assert raw == struct.pack("<4I", 2, *offsets) + config + b"".join(samples)
    assert read_offsets(raw, info, where=WHERE).tolist() == list(offsets)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.text(), st.integers(-(2**63), 2**63 - 1), st.binary(min_size=1))))
def test_samples_round_trip(rows):
    columns = {"t": "str", "i": "int", "u": "ndarray:uint8", "b": "bytes"}
    samples = [{"t": t, "i": i, "u": np.frombuffer(b, np.uint8), "b": b} for t, i, b in rows]
    raw, info = build(columns, samples)
    offsets = read_offsets(memoryview(raw), info, where=WHERE)
    assert offsets.dtype == np.int64
    for n, sample in enumerate(samples):
        decoded = decode_sample(raw[offsets[n] : offsets[n + 1]], info, where=WHERE)
        assert list(decoded) == sorted(columns)
        assert decoded["u"].tobytes() == sample["b"]
        assert {**decoded, "u": None} == {**sample, "u": None}


def test_offsets_are_read_from_any_buffer():
    raw, info = build(MIXED, [mixed(n) for n in range(5)])
    expected = read_offsets(raw, info, where=WHERE).tolist()
    for buffer in (memoryview(raw), bytearray(raw), np.frombuffer(raw, np.uint8)):
        assert read_offsets(buffer, info, where=WHERE).tolist() == expected


def test_decoded_samples_do_not_hold_the_shard():
    raw, info = build(MIXED, [mixed(2)])
    buffer = bytearray(raw)
    offsets = read_offsets(buffer, info, where=WHERE)
    view = memoryview(buffer)[offsets[0] : offsets[1]]
    sample = decode_sample(view, info, where=WHERE)
    view.release()
    buffer[:] = bytes(len(buffer))
    buffer.clear()  # fails while anything refers to it
    assert sample["tokens"].tolist() == [0, 1, 2]
    assert sample["a"] == "éé"


def test_a_shard_without_samples_is_read():
    raw, info = build(MIXED, [])
    assert read_offsets(raw, info, where=WHERE).tolist() == [len(raw)]


def test_a_missing_column_is_named_and_further_keys_are_ignored():
    assert encode({**fixed(1), "extra": object()}, FIXED) == encode(fixed(1), FIXED)
    with pytest.raises(MissingColumnError, match=r"^the sample lacks column 'tokens'; it has \['id'\]") as caught:
        encode({"id": 1}, FIXED)
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, EncodingError)


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("text", "numpy array"),
        (np.zeros(4, np.int16), "uint16"),
        (np.zeros(5, np.uint16), r"\(5,\)"),
        (b"123", "3 bytes"),
        (b"123456789", "9 bytes where it takes 8"),
    ],
)
def test_a_value_that_does_not_fit_names_its_column(value, word):
    with pytest.raises(EncodingError, match=rf"column 'tokens' of encoding 'ndarray:uint16:4'.*{word}"):
        encode({"id": 1, "tokens": value}, FIXED)


def test_bytes_pass_as_already_encoded():
    tokens = np.arange(4, dtype=np.uint16)
    assert encode({"id": b"12345678", "tokens": tokens.tobytes()}, FIXED) == b"12345678" + tokens.tobytes()


def test_offsets_never_wrap():
    class Long(bytes):  # a gigabyte that takes none
        def __len__(self):
            return 1 << 30

    with pytest.raises(EncodingError, match=r"4 samples.*offsets reach 4294967295.*size_limit"):
        encode_shard([Long()] * 4, describe(FIXED).config())


def changed(raw, at, value):
    return raw[: 4 * at] + struct.pack("<I", value) + raw[4 * at + 4 :]


@pytest.mark.parametrize("columns", [FIXED, MIXED])
@pytest.mark.parametrize(
    ("damage", "fact"),
    [
        (lambda raw: raw[:-1], "bytes, its index says"),
        (lambda raw: raw + b"\0", "bytes, its index says"),
        (lambda _: b"", "it has 0 bytes"),
        (lambda raw: changed(raw, 0, 4), "holds 4 samples, its index says 3"),
        (lambda raw: changed(raw, 0, 2**32 - 1), "holds 4294967295 samples"),
        (lambda raw: changed(raw, 1, 0), "span bytes 0 to"),
        (lambda raw: changed(raw, 1, 19), "span bytes 19 to"),
        (lambda raw: changed(raw, 2, 5), "sample 0 spans -"),
        (lambda raw: changed(raw, 3, 2**32 - 1), "sample 2 spans -|sample 1 spans 4"),
        (lambda raw: changed(raw, 4, 2**32 - 1), "to 4294967295"),
        (lambda raw: changed(raw, 4, len(raw) - 1), "samples span"),
    ],
)
def test_a_damaged_header_is_refused_with_file_fact_and_remedy(columns, damage, fact):
    raw, info = build(columns, [(mixed if columns is MIXED else fixed)(n) for n in range(3)])
    with pytest.raises(ShardCorruptError, match=fact) as caught:
        read_offsets(damage(raw), info, where=WHERE)
    assert str(caught.value).startswith(WHERE)
    assert "fetch it again" in str(caught.value)


def test_fixed_size_samples_have_exactly_their_size():
    raw, info = build(FIXED, [fixed(n) for n in range(3)])
    offsets = read_offsets(raw, info, where=WHERE)
    with pytest.raises(ShardCorruptError, match="sample 0 spans 17 bytes, its columns take 16"):
        read_offsets(changed(raw, 2, offsets[1] + 1), info, where=WHERE)


def test_an_index_that_promises_more_than_the_file_is_refused():
    raw, _ = build(FIXED, [fixed(0)])
    with pytest.raises(ShardCorruptError, match="header of 1000000000 samples alone takes 4000000008"):
        read_offsets(raw, describe(FIXED, 10**9, len(raw)), where=WHERE)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 11,
        struct.pack("<3I", 0, 0, 0),
        struct.pack("<3I", 2**32 - 1, 2**32 - 1, 2**32 - 1) + bytes(8),
        encode(mixed(2), MIXED)[:-1],
        encode(mixed(2), MIXED) + b"\0",
        struct.pack("<I", 5) + encode(mixed(2), MIXED)[4:],
    ],
)
def test_a_sample_s_sizes_are_checked_before_they_are_believed(data):
    with pytest.raises(ShardCorruptError, match=WHERE):
        decode_sample(data, describe(MIXED), where=WHERE)


def test_a_damaged_value_names_file_column_and_remedy():
    data = encode({**mixed(2), "z": b"{"}, MIXED)
    with pytest.raises(ShardCorruptError, match=rf"{WHERE}: column 'z' of encoding 'json': .*fetch it again"):
        decode_sample(data, describe(MIXED), where=WHERE)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damaged_byte_gives_samples_or_our_error(data):
    raw, info = build(MIXED, [mixed(n) for n in range(3)])
    damaged = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with suppress(MixstreamError):
        offsets = read_offsets(damaged, info, where=WHERE)
        for start, end in pairwise(offsets):
            decode_sample(bytes(damaged[start:end]), info, where=WHERE)
