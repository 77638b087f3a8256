"""The compiled gather equals its reference, on good shards and on bytes that anybody may have damaged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.data.gather import (
    Field,
    ShardTable,
    field_span,
    gather,
    gather_batches,
    gather_batches_reference,
    gather_by_shard,
    gather_reference,
)
from mixstream.formats import FixedStride, OffsetTable

CONFIG = b'{"a": 1}'


def shard_of(records: list[bytes]) -> np.ndarray:
    """Return the bytes of a shard, as MDS lays them out."""
    offsets = np.cumsum([0, *map(len, records)]) + 4 + 4 * (len(records) + 1) + len(CONFIG)
    return np.frombuffer(
        np.uint32(len(records)).tobytes() + offsets.astype("<u4").tobytes() + CONFIG + b"".join(records), dtype=np.uint8
    ).copy()


def record_of(columns: list[tuple[bytes, bool]]) -> bytes:
    """Return a record of (payload, whether its size varies) columns."""
    sizes = [len(payload) for payload, varies in columns if varies]
    return np.array(sizes, dtype="<u4").tobytes() + b"".join(payload for payload, _ in columns)


@st.composite
def gathers(draw, *, damaged: bool = False) -> tuple[Any, ...]:
    """Return (table, shard_B, row_B, field, out dtype); one column of several, in rows of several shards."""
    stored = np.dtype(draw(st.sampled_from(["<u1", "<u2", "<i4", "<u4", "<i8", "<f2", "<f4", "<f8"])))
    widened = stored if stored.kind != "u" else np.dtype("<i8")  # few kinds: each is compiled
    cast = draw(st.sampled_from([stored, widened]))
    elements, header = draw(st.integers(0, 5)), draw(st.sampled_from([b"", b"\x01", b"\x02\x07"]))
    before, after = (
        draw(st.lists(st.one_of(st.none(), st.integers(0, 5)), max_size=2)) for _ in range(2)
    )  # fixed sizes of the other columns, None for variable
    sizes = [*before, draw(st.booleans()) or None, *after]
    if sizes[len(before)] is not None:
        sizes[len(before)] = len(header) + elements * stored.itemsize
    table = ShardTable(4)
    for number in range(3):
        records = []
        for _ in range(draw(st.integers(1, 4))):
            columns = []
            for at, size in enumerate(sizes):
                if at == len(before):
                    values = draw(st.binary(min_size=elements * stored.itemsize, max_size=elements * stored.itemsize))
                    columns.append((header + values, size is None))
                else:
                    length = draw(st.integers(0, 4)) if size is None else size
                    columns.append((bytes(length), size is None))
            records.append(record_of(columns))
        data = shard_of(records)
        if damaged:
            for _ in range(draw(st.integers(0, 3))):
                data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
            if draw(st.booleans()):
                data = data[: draw(st.integers(0, len(data)))]
        if len(data):
            table.put(number, data)
    rows = st.integers(0, 5 if damaged else 0)
    shard_B = np.array(draw(st.lists(st.integers(0, 3 if damaged else 2), max_size=6)), dtype=np.int64)
    row_B = np.array([draw(rows) for _ in shard_B], dtype=np.int64)
    field = Field(
        rows=OffsetTable(begins=4),
        column=len(before),
        sizes_C=np.array([-1 if size is None else size for size in sizes], dtype=np.int64),
        dtype=stored,
        elements=elements,
        header=header,
    )
    return table, shard_B, row_B, field, cast


def all_of(arguments: tuple[Any, ...]) -> list[tuple[int, np.ndarray]]:
    table, shard_B, row_B, field, cast = arguments
    results = []
    for function in (gather, gather_by_shard, gather_reference):
        out = np.full((len(shard_B) + 2, field.elements), 99, dtype=cast)
        to_B = np.arange(len(shard_B), dtype=np.int64)[::-1] + 1
        with np.errstate(all="ignore"):  # any bytes are floats
            results.append((function(table, shard_B, row_B, field, out, to_B), out))
    return results


@settings(max_examples=150)
@given(gathers())
def test_compiled_equals_reference(arguments):
    *found, (expected, out_expected) = all_of(arguments)
    for got, out in found:
        assert got == expected == -1
        assert out.tobytes() == out_expected.tobytes() or np.array_equal(out, out_expected, equal_nan=True)
        assert (out[0] == 99).all()
        assert (out[-1] == 99).all()


@settings(max_examples=300)
@given(gathers(damaged=True))
def test_compiled_equals_reference_on_damaged_shards(arguments):
    """The same row is refused, and no byte outside a shard is ever read."""
    *found, (expected, out_expected) = all_of(arguments)
    done = len(arguments[1]) if expected < 0 else expected
    for got, out in found:
        assert got == expected
        if done:
            assert np.array_equal(out[-1 - done : -1], out_expected[-1 - done : -1], equal_nan=out.dtype.kind == "f")


@settings(max_examples=150)
@given(gathers(damaged=True), st.sampled_from([1, 2, 3]))
def test_batches_together_equal_their_reference_on_damaged_shards(arguments, batches):
    table, shard_B, row_B, field, cast = arguments
    rows = len(shard_B) // batches
    shard_B, row_B = shard_B[: rows * batches], row_B[: rows * batches]
    results = []
    for function, two_threads in ((gather_batches, False), (gather_batches, True), (gather_batches_reference, True)):
        around = [np.full((rows + 2, field.elements), 99, dtype=cast) for _ in range(batches)]
        with np.errstate(all="ignore"), pytest.MonkeyPatch.context() as patched:
            patched.setattr("mixstream.data.gather._HALVES", 0)
            bad = function(table, shard_B, row_B, field, [torch.from_numpy(out[1:-1]) for out in around], two_threads)
        assert all((out[[0, -1]] == 99).all() for out in around)
        done = rows * batches if bad < 0 else bad
        results.append((bad, np.concatenate([out[1:-1] for out in around])[:done]))
    for bad, found in results[:-1]:
        assert bad == results[-1][0]
        assert np.array_equal(found, results[-1][1], equal_nan=cast.kind == "f")


def test_batches_of_other_sizes_are_not_gathered_together():
    """Their rows would be written where none of them has any."""
    table = ShardTable(1)
    table.put(0, np.zeros(80, dtype=np.uint8))
    field = Field(
        rows=FixedStride(begins=0, stride=8, size=8),
        column=0,
        sizes_C=np.array([8]),
        dtype=np.dtype("<u2"),
        elements=4,
    )
    zero = np.zeros(4, dtype=np.int64)
    good = [torch.zeros((2, 4), dtype=torch.uint16) for _ in range(2)]
    assert gather_batches(table, zero, zero, field, good) == -1
    wide, wider = torch.zeros((2, 4), dtype=torch.int64), torch.zeros((2, 8), dtype=torch.uint16)
    for bad in ([good[0], good[0][:1]], [good[0], wide], [good[0], wider[:, ::2]]):
        with pytest.raises(ValueError, match="one shape and dtype, and are contiguous"):
            gather_batches(table, zero, zero, field, bad)
    with pytest.raises(ValueError, match="4 rows do not fill 1 batches of 2"):
        gather_batches(table, zero, zero, field, good[:1])


@pytest.mark.parametrize("elements", [63, 64, 65, 200, 2049])
@pytest.mark.parametrize("kinds", ["<u2 i8", "<i4 i8", "<u1 i8", "<u2 <u2", "<f4 <f4"])
@pytest.mark.parametrize("shift", [0, 8, 3])
def test_long_rows_of_several_batches_arrive_wherever_their_memory_begins(elements, kinds, shift):
    """They are written past the caches, a line of 64 bytes at a time; the first and the last may be of others too."""
    stored, made = kinds.split()
    dtype, table = np.dtype(stored), ShardTable(1)
    values = np.random.default_rng(0).integers(0, 1 << 60, (5, elements)).astype(dtype)
    values = values if dtype.kind == "u" else -values
    table.put(0, np.frombuffer(bytes(1) + values.tobytes(), dtype=np.uint8)[1:])
    size = elements * dtype.itemsize
    field = Field(
        rows=FixedStride(begins=0, stride=size, size=size),
        column=0,
        sizes_C=np.array([size]),
        dtype=dtype,
        elements=elements,
    )
    batch_bytes, outs = 2 * elements * np.dtype(made).itemsize, []
    for _ in range(2):
        memory = np.full(batch_bytes + 256, 7, dtype=np.uint8)
        begin = -memory.ctypes.data % 64 + shift
        outs.append((memory, begin, memory[begin : begin + batch_bytes].view(made).reshape(2, elements)))
    row_B = np.array([4, 0, 2, 1])
    assert (
        gather_batches(table, np.zeros(4, dtype=np.int64), row_B, field, [torch.from_numpy(out) for *_, out in outs])
        == -1
    )
    assert np.array_equal(np.concatenate([out for *_, out in outs]), values[row_B])
    for memory, begin, _ in outs:
        assert (memory[:begin] == 7).all()
        assert (memory[begin + batch_bytes :] == 7).all()


@pytest.mark.parametrize("read", [gather, gather_reference])
def test_a_row_before_the_first_is_refused(read):
    """What lies before the table would make a good offset."""
    table, out = ShardTable(1), np.zeros((1, 1), dtype=np.int64)
    table.put(0, np.array([8, 10, 12, 7], dtype="<u4").view(np.uint8))
    field = Field(rows=OffsetTable(begins=4), column=0, sizes_C=np.array([2]), dtype=np.dtype("<u2"), elements=1)
    assert read(table, np.array([0]), np.array([0]), field, out, np.array([0])) == -1
    assert read(table, np.array([0]), np.array([-1]), field, out, np.array([0])) == 0


def test_values_arrive_where_they_belong_and_are_cast():
    records = [record_of([(b"xyz"[:i], True), (np.arange(i, i + 3, dtype="<u2").tobytes(), False)]) for i in range(3)]
    table = ShardTable(2)
    table.put(1, shard_of(records))
    field = Field(rows=OffsetTable(begins=4), column=1, sizes_C=np.array([-1, 6]), dtype=np.dtype("<u2"), elements=3)
    out = np.zeros((4, 3), dtype=np.int64)
    rows = np.array([2, 0], dtype=np.int64)
    assert gather(table, np.array([1, 1]), rows, field, out, np.array([3, 1])) == -1
    assert out.tolist() == [[0, 0, 0], [0, 1, 2], [0, 0, 0], [2, 3, 4]]


def test_a_shard_that_is_not_there_is_refused():
    table = ShardTable(2)
    field = Field(rows=OffsetTable(begins=4), column=0, sizes_C=np.array([2]), dtype=np.dtype("<u2"), elements=1)
    out = np.zeros((1, 1), dtype=np.int64)
    table.put(0, shard_of([b"\x01\x00"]))
    table.drop(0)
    for number in (0, 1):
        assert gather(table, np.array([number]), np.array([0]), field, out, np.array([0])) == 0
    assert out.tolist() == [[0]]


@pytest.mark.parametrize("read", [gather, gather_by_shard, gather_reference])
def test_nothing_behind_a_shard_is_believed(read):
    """What lies behind its last byte would make good rows: the end of a sample, or the sample itself."""
    field = Field(rows=OffsetTable(begins=0), column=0, sizes_C=np.array([2]), dtype=np.dtype("<u2"), elements=1)
    behind = np.array([4, 6, 7], dtype="<u4").view(np.uint8)
    for begin, end, size in ((4, 6, 6), (4, 6, 7), (8, 10, 8), (8, 10, 9)):
        data = behind.copy()
        data[:8] = np.array([begin, end], dtype="<u4").view(np.uint8)
        for there, refused in ((size, 0), (10, -1)):
            table, out = ShardTable(1), np.zeros((1, 1), dtype=np.int64)
            table.put(0, data[:there])
            assert read(table, np.array([0]), np.array([0]), field, out, np.array([0])) == refused


@pytest.mark.parametrize("read", [gather, gather_by_shard, gather_reference])
@pytest.mark.parametrize("sizes", [[2, 2], [2, -1], [-1, 2]])
def test_a_sample_that_is_longer_or_shorter_than_its_columns_is_refused(read, sizes):
    whole = record_of([(b"ab", sizes[0] < 0), (b"cd", sizes[1] < 0)])
    for column in (0, 1):
        field = Field(
            rows=OffsetTable(begins=4), column=column, sizes_C=np.array(sizes), dtype=np.dtype("<u2"), elements=1
        )
        for record, refused in ((whole, -1), (whole + b"e", 0), (whole[:-1], 0), (whole[:-2], 0)):
            table, out = ShardTable(1), np.zeros((1, 1), dtype=np.int64)
            table.put(0, shard_of([record, b"fghij"]))
            assert read(table, np.array([0]), np.array([0]), field, out, np.array([0])) == refused


@pytest.mark.parametrize("read", [gather, gather_by_shard, gather_reference])
@pytest.mark.parametrize("size", [-1, 4])
def test_a_header_that_differs_is_refused(read, size):
    """As where a row of an `ndarray:uint16` column has another shape than the first."""
    table = ShardTable(1)
    table.put(0, shard_of([record_of([(b"\x01\x04ab", size < 0)]), record_of([(b"\x01\x05ab", size < 0)])]))
    field = Field(
        rows=OffsetTable(begins=4),
        column=0,
        sizes_C=np.array([size]),
        dtype=np.dtype("u1"),
        elements=2,
        header=b"\x01\x04",
    )
    out = np.zeros((2, 2), dtype=np.uint8)
    assert read(table, np.array([0, 0]), np.array([0, 1]), field, out, np.array([0, 1])) == 1
    assert out.tolist() == [[97, 98], [0, 0]]


@pytest.mark.parametrize("record", [b"", b"\x09\x00\x00\x00ab", b"\x02\x00"])
def test_sizes_that_cannot_be_have_no_span(record):
    field = Field(rows=OffsetTable(begins=4), column=0, sizes_C=np.array([-1]), dtype=np.dtype("u1"), elements=2)
    assert field_span(np.frombuffer(record, dtype=np.uint8), field) is None


@pytest.mark.parametrize(("overlap", "begins"), [(0, 0), (1, 0), (1, 3)])
@pytest.mark.parametrize(("stored", "made"), [("<u2", "i8"), ("<u4", "i8"), ("<i4", "i4"), ("<u1", "u1")])
def test_rows_at_equal_distances_are_gathered_and_none_beyond_their_shard(stored, made, overlap, begins):
    dtype, length = np.dtype(stored), 6
    table, draw = ShardTable(3), np.random.default_rng(0)
    shards = [draw.integers(0, 200, 5 * length + overlap).astype(dtype) for _ in range(2)]
    for number, tokens in enumerate(shards):  # shifted by a byte: parts of files need not be aligned
        table.put(number, np.frombuffer(bytes(1 + begins) + tokens.tobytes(), np.uint8)[1:])
    size = (length + overlap) * dtype.itemsize
    field = Field(
        rows=FixedStride(begins=begins, stride=length * dtype.itemsize, size=size),
        column=0,
        sizes_C=np.array([size]),
        dtype=dtype,
        elements=length + overlap,
    )
    shard_B, row_B = np.array([1, 0, 1, 0]), np.array([4, 0, 0, 3])
    for read in (gather, gather_by_shard, gather_reference):
        out = np.zeros((6, length + overlap), dtype=made)
        assert read(table, shard_B, row_B, field, out, np.array([5, 2, 0, 1])) == -1
        for shard, row, to in zip(shard_B, row_B, [5, 2, 0, 1]):
            assert out[to].tolist() == shards[shard][row * length : (row + 1) * length + overlap].tolist()
        for bad in (5, -1, 1 << 40, -(1 << 40)):
            assert read(table, shard_B, np.array([4, 0, bad, 0]), field, out, np.arange(4)) == 2
        assert read(table, np.array([0, 2]), np.array([0, 0]), field, out, np.arange(2)) == 1, "no such shard"
