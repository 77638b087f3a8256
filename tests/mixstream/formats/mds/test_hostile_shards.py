"""Shards from an attacker: one of our errors, or what the bytes say by the specification.

`read_by_the_book` is the specification once more, as plainly as it can be said; the two readers of mixstream, sample by
sample and many rows at once, must agree with it and with each other on every shard, whole or damaged.
"""

from __future__ import annotations

import itertools
import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.data.gather import Field, ShardTable, gather, gather_reference
from mixstream.errors import ShardCorruptError
from mixstream.formats import (
    FileInfo,
    OffsetTable,
    ShardInfo,
    decode_sample,
    encode_sample,
    encode_shard,
    fixed_array,
    get_mds_encoded_size,
    mds_decode,
    mds_encode,
    read_offsets,
)

WHERE = "web/shard.00003.mds"


def describe(columns: dict[str, str], samples: int = 0, size: int = 0) -> ShardInfo:
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


def build(columns: dict[str, str], samples: list[dict[str, Any]]) -> tuple[bytes, ShardInfo]:
    info = describe(columns)
    records = [
        encode_sample(sample, names=info.column_names, encodings=info.column_encodings, sizes=info.column_sizes)
        for sample in samples
    ]
    raw = encode_shard(records, info.config())
    return raw, describe(columns, len(samples), len(raw))


def read_by_the_book(raw: bytes, info: ShardInfo) -> list[dict[str, bytes] | None] | None:
    """Return the payloads of each sample (None for one that does not add up), or None if the header cannot be."""
    count = info.samples
    if len(raw) != info.raw.bytes or len(raw) < 8 + 4 * count:
        return None
    said, *offsets = struct.unpack_from(f"<{count + 2}I", raw)
    rising = all(a <= b for a, b in itertools.pairwise(offsets))
    if said != count or not rising or offsets[0] < 8 + 4 * count or offsets[-1] != len(raw):
        return None
    samples: list[dict[str, bytes] | None] = []
    for begin, end in itertools.pairwise(offsets):
        record, sample = BytesIO(raw[begin:end]), {}
        head = [record.read(4) if size is None else struct.pack("<I", size) for size in info.column_sizes]
        if any(len(word) < 4 for word in head):
            return None  # less than its columns take: the header is to blame
        for name, word in zip(info.column_names, head):
            sample[name] = record.read(size := int.from_bytes(word, "little"))
            if len(sample[name]) != size:
                break
        else:
            samples.append(None if record.read() else sample)
            continue
        samples.append(None)
    return samples


def one_by_one(raw: bytes, info: ShardInfo) -> list[dict[str, Any] | None] | None:
    """Read a shard as `Domain` does: header first, then each sample; None in place of what is refused."""
    try:
        offsets = read_offsets(raw, info, where=WHERE)
    except ShardCorruptError:
        return None
    samples: list[dict[str, Any] | None] = []
    for begin, end in zip(offsets.tolist(), offsets[1:].tolist()):
        try:
            samples.append(decode_sample(raw[begin:end], info, where=WHERE))
        except ShardCorruptError:
            samples.append(None)
    return samples


def many_at_once(raw: bytes, info: ShardInfo, like: dict[str, Any]) -> list[dict[str, Any] | None]:
    """Gather every row of a shard whose header is good; None for rows that are not of the shapes of `like`."""
    table = ShardTable(1)
    table.put(0, np.frombuffer(raw, dtype=np.uint8))
    sizes_C = np.array([-1 if size is None else size for size in info.column_sizes], dtype=np.int64)
    rows: list[dict[str, Any] | None] = [{} for _ in range(info.samples)]
    for column, (name, encoding) in enumerate(info.columns.items()):
        value = np.asarray(like[name])
        payload = mds_encode(encoding, like[name])
        header = b"" if fixed_array(encoding) else payload[: len(payload) - value.nbytes]
        field = Field(
            rows=OffsetTable(begins=4),
            column=column,
            sizes_C=sizes_C,
            dtype=value.dtype,
            elements=value.size,
            header=header,
        )
        for row, found in enumerate(rows):
            answers = []
            for function in (gather, gather_reference):
                out = np.zeros((1, value.size), dtype=value.dtype)
                zero = np.zeros(1, dtype=np.int64)
                answers.append((function(table, zero, np.array([row]), field, out, zero), out.tobytes()))
            assert answers[0] == answers[1]
            if found is None or answers[0][0] >= 0:
                rows[row] = None
            else:
                found[name] = np.frombuffer(answers[0][1], value.dtype).reshape(value.shape)
    return rows


words = st.sampled_from([0, 1, 2, 3, 5, 7, 8, 2**16, 2**31 - 1, 2**31, 2**32 - 8, 2**32 - 1])


HOW = ["nudge", "nudge", "nudge", "size", "size", "size", "byte", "byte", "word", "swap", "length"]


@st.composite
def damaged(draw, raw: bytes, info: ShardInfo) -> bytes:
    """Return the shard with words of its header, sizes and shapes, or any bytes, changed; or cut, or made longer."""
    data = bytearray(raw)
    header = 8 + 4 * info.samples
    starts = [int(offset) for offset in read_offsets(raw, info, where=WHERE)[:-1]]
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        how = draw(st.sampled_from(HOW))
        if how == "length":
            end = draw(st.integers(0, len(data)))
            data = data[:end] if draw(st.booleans()) else data + data[end : end + 9]
        elif len(data) != len(raw):
            continue
        elif how == "byte":
            data[draw(st.integers(starts[0] if draw(st.booleans()) else 0, len(data) - 1))] = draw(st.integers(0, 255))
        else:
            at = 4 * draw(st.integers(0, header // 4 - 1))
            if how == "nudge":  # where one sample ends and the next begins
                at = 4 * draw(st.integers(2, info.samples))
            if how == "size":  # the first bytes of a sample: sizes of columns, then shapes of arrays
                at = min(draw(st.sampled_from(starts)) + draw(st.integers(0, 10)), len(data) - 4)
            (now,) = struct.unpack_from("<I", data, at)
            other = (now + draw(st.sampled_from([-8, -4, -3, -2, -1, 1, 2, 3, 4, 8]))) % 2**32
            if how == "word":
                other = draw(words)
            if how == "swap":
                (other,) = struct.unpack_from("<I", data, 4 * draw(st.integers(0, header // 4 - 1)))
            struct.pack_into("<I", data, at, other)
    return bytes(data)


GATHERED = [
    {"tokens": "ndarray:uint16:4"},
    {"tokens": "ndarray:uint16"},
    {"a": "int", "b": "ndarray:int32", "c": "uint8"},
    {"a": "ndarray:uint8", "b": "ndarray:uint8:2,2", "c": "ndarray:float32"},
]


def numbers(encoding: str, key: int) -> Any:
    fixed = fixed_array(encoding)
    if fixed is not None:
        return np.full(fixed[1], key, fixed[0])[()] if encoding != "int" else key
    return np.arange(key, key + 6, dtype=encoding.partition(":")[2]).reshape(2, 3)


@settings(max_examples=250)
@given(st.data())
def test_both_readers_agree_on_every_shard(data):
    columns = data.draw(st.sampled_from(GATHERED))
    samples = [{name: numbers(encoding, key) for name, encoding in columns.items()} for key in range(3)]
    raw, info = build(columns, samples)
    raw = data.draw(damaged(raw, info))
    if data.draw(st.booleans()):
        info = describe(columns, info.samples, len(raw))  # an index that says the length of what is there
    slow = one_by_one(raw, info)
    book = read_by_the_book(raw, info)
    if slow is None:
        assert book is None or None in book  # one record that cannot be: then the whole shard is refused
        return
    assert book is not None
    fast = many_at_once(raw, info, samples[0])
    for sample, payloads, row in zip(slow, book, fast, strict=True):
        if sample is None or payloads is None:
            assert sample is None
            assert row is None
            continue
        for name, encoding in columns.items():
            assert np.array_equal(sample[name], mds_decode(encoding, payloads[name]), equal_nan=name == "c")
        same_shape = all(np.shape(sample[name]) == np.shape(samples[0][name]) for name in columns)
        if row is None:
            width = {name: payloads[name][:1] for name in columns if not fixed_array(columns[name])}
            first = {name: mds_encode(columns[name], samples[0][name])[:1] for name in width}
            assert not same_shape or width != first  # a shape may be written in wider words than it needs
        else:
            for name in columns:
                assert np.asarray(sample[name]).tobytes() == np.asarray(row[name]).tobytes()


@pytest.mark.parametrize("columns", GATHERED[1:])
@pytest.mark.parametrize("more", [-3, 1, 4])
def test_a_record_longer_than_its_columns_is_refused_by_both(columns, more):
    """As where one offset is wrong: the record before it has bytes to spare, or too few, the one behind is shifted."""
    samples = [{name: numbers(encoding, key) for name, encoding in columns.items()} for key in range(3)]
    raw, info = build(columns, samples)
    damaged = bytearray(raw)
    struct.pack_into("<I", damaged, 8, struct.unpack_from("<I", raw, 8)[0] + more)
    slow = one_by_one(bytes(damaged), info)
    fast = many_at_once(bytes(damaged), info, samples[0])
    assert slow is not None
    assert [sample is None for sample in slow] == [row is None for row in fast] == [True, True, False]


@settings(max_examples=200)
@given(st.binary(max_size=64), st.integers(0, 2**32 - 1), st.sampled_from(GATHERED))
def test_any_bytes_under_any_index(raw, samples, columns):
    info = describe(columns, samples, len(raw))
    slow, book = one_by_one(raw, info), read_by_the_book(raw, info)
    assert (slow is None) >= (book is None)
