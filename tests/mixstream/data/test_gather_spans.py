"""The compiled loops of spans equal their references, on good shards and on bytes that anybody may have damaged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.data.gather import ShardTable
from mixstream.data.gather_spans import SpanField, gather_spans, gather_spans_reference
from mixstream.data.span_table import (
    JOINED,
    EvenRows,
    Spans,
    SpanTable,
    StoredSpans,
    collect_spans,
    collect_spans_reference,
)
from mixstream.formats import OffsetTable, mds_encode

U2, I8 = np.dtype("<u2"), np.dtype("<i8")


def shard_of(records: list[bytes]) -> np.ndarray:
    """Return the bytes of a shard, as MDS lays them out."""
    offsets = np.cumsum([0, *map(len, records)]) + 4 + 4 * (len(records) + 1)
    head = np.uint32(len(records)).tobytes() + offsets.astype("<u4").tobytes()
    return np.frombuffer(head + b"".join(records), dtype=np.uint8).copy()


@st.composite
def stores(draw, *, damaged: bool) -> tuple[ShardTable, SpanField, list[list[int]]]:
    """Return shards, how their tokens lie, and the tokens of each sample of each shard."""
    kind = draw(st.sampled_from(["flat", "shaped", "fixed"]))
    lengths = [draw(st.lists(st.integers(1, 300 if kind == "shaped" else 5), min_size=1, max_size=4)) for _ in range(2)]
    if kind == "fixed":
        lengths = [[3] * len(each) for each in lengths]
    table, begin = ShardTable(3), draw(st.integers(0, 3))
    for number, each in enumerate(lengths):
        tokens = [np.arange(100 * at, 100 * at + length, dtype=U2) for at, length in enumerate(each)]
        if kind == "flat":
            data = np.frombuffer(bytes(begin) + b"".join(t.tobytes() for t in tokens), dtype=np.uint8).copy()
        elif kind == "shaped":
            columns = [(b"xy"[: at % 3], mds_encode("ndarray:uint16", t)) for at, t in enumerate(tokens)]
            data = shard_of([np.array([len(a), len(b)], "<u4").tobytes() + a + b for a, b in columns])
        else:
            data = shard_of([b"z" + t.tobytes() for t in tokens])
        if damaged:
            for _ in range(draw(st.integers(0, 3))):
                data[draw(st.integers(0, min(len(data), 40) - 1))] = draw(st.integers(0, 255))
            data = data[: draw(st.integers(len(data) // 2, len(data)))]
        if len(data):
            table.put(number, data)
    if kind == "flat":
        return table, SpanField(dtype=U2, flat=begin), [[sum(each)] for each in lengths]
    sizes_C = np.array([-1, -1] if kind == "shaped" else [1, 6])
    rows = OffsetTable(begins=4)
    return table, SpanField(dtype=U2, rows=rows, column=1, sizes_C=sizes_C, shaped=kind == "shaped"), lengths


@st.composite
def gathers(draw, *, damaged: bool) -> tuple[ShardTable, Spans, SpanField]:
    table, field, lengths = draw(stores(damaged=damaged))
    rows = draw(st.lists(st.integers(0, 3), max_size=4))
    spans = []
    for _ in range(sum(rows)):
        shard = draw(st.integers(0, 1))
        sample = draw(st.integers(0, len(lengths[shard]) - 1))
        start = draw(st.integers(0, lengths[shard][sample]))
        tokens = draw(st.integers(0, lengths[shard][sample] - start))
        spans.append([shard, sample, start, tokens])
    if damaged and spans:
        for _ in range(draw(st.integers(0, 2))):
            spans[draw(st.integers(0, len(spans) - 1))][draw(st.integers(1, 3))] = draw(st.integers(-2, 400))
    shard_N, sample_N, start_N, tokens_N = np.array(spans, dtype=np.int64).reshape(-1, 4).T.copy()
    begin_B1 = np.concatenate(([0], np.cumsum(rows))).astype(np.int64)
    return table, Spans(
        begin_B1=begin_B1, shard_N=shard_N, sample_N=sample_N, start_N=start_N, tokens_N=tokens_N,
        joined_N=np.zeros(len(shard_N), dtype=bool),
    ), field  # fmt: skip


def both(gather: tuple[ShardTable, Spans, SpanField], dtype: np.dtype[Any], length: int) -> list[Any]:
    table, spans, field = gather
    results = []
    for function in (gather_spans, gather_spans_reference):
        out = np.full((len(spans.begin_B1) + 1, length), 77, dtype=dtype)
        to_B = np.arange(len(spans.begin_B1) - 1, dtype=np.int64)[::-1] + 1
        results.append((function(table, spans, field, out, to_B, 9), out, to_B))
    return results


@settings(max_examples=80)
@given(gathers(damaged=False), st.sampled_from([U2, I8]))
def test_compiled_equals_reference(gather, dtype):
    (got, out, _), (expected, out_expected, _) = both(gather, dtype, 900)
    assert got == expected == -1
    assert np.array_equal(out, out_expected)
    assert (out[0] == 77).all()  # no row but the given ones is written
    assert (out[-1] == 77).all()


@settings(max_examples=150)
@given(gathers(damaged=True), st.integers(0, 400))
def test_compiled_equals_reference_on_damaged_bytes_and_spans(gather, length):
    """The same row is refused, and no byte outside a sample is ever read."""
    (got, out, to_B), (expected, out_expected, _) = both(gather, I8, length)
    assert got == expected
    done_B = to_B[: got if got >= 0 else None]
    assert np.array_equal(out[done_B], out_expected[done_B])


@pytest.mark.parametrize("read", [gather_spans, gather_spans_reference])
def test_a_value_has_as_many_elements_as_it_says(read):
    value = mds_encode("ndarray:uint16", np.arange(4, dtype=U2))
    field = SpanField(dtype=U2, rows=OffsetTable(begins=4), sizes_C=np.array([-1]), shaped=True)
    one_N, none_N = np.ones(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    spans = Spans(
        begin_B1=np.array([0, 1]), shard_N=none_N, sample_N=none_N, start_N=none_N, tokens_N=3 * one_N,
        joined_N=np.zeros(1, dtype=bool),
    )  # fmt: skip
    for count, refused in ((4, -1), (3, 0), (5, 0), (0, 0)):
        data = value[:1] + bytes([count]) + value[2:]
        table, out = ShardTable(1), np.zeros((1, 4), dtype=I8)
        table.put(0, shard_of([np.array([len(data)], "<u4").tobytes() + data]))
        assert read(table, spans, field, out, none_N, 9) == refused
        assert out.tolist() == ([[0, 1, 2, 9]] if refused else [[0, 0, 0, 0]])


@st.composite
def tables(draw) -> tuple[SpanTable, np.ndarray, np.ndarray]:
    table = SpanTable(4)
    for number in range(2):
        counts = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
        begin_R1 = np.concatenate(([0], np.cumsum(counts))).astype(np.uint32)
        span_N3 = np.array(
            draw(st.lists(st.integers(0, 2**32 - 1), min_size=3 * sum(counts), max_size=3 * sum(counts)))
        )
        if draw(st.integers(0, 4)) == 0:
            begin_R1[draw(st.integers(0, len(begin_R1) - 1))] = draw(st.integers(0, 2**32 - 1))
        table.put(number, StoredSpans(begin_R1=begin_R1, span_N3=span_N3.astype(np.uint32).reshape(-1, 3)))
    table.put(
        2, EvenRows(rows=draw(st.integers(0, 5)), seq_len=draw(st.integers(1, 9)), stored=draw(st.integers(1, 4)))
    )
    shard_B = np.array(draw(st.lists(st.integers(0, 3), max_size=5)), dtype=np.int64)
    row_B = np.array([draw(st.integers(0, 3)) for _ in shard_B], dtype=np.int64)
    return table, shard_B, row_B


@settings(max_examples=80)
@given(tables())
def test_compiled_collection_equals_reference(given_):
    got, expected = collect_spans(*given_), collect_spans_reference(*given_)
    if isinstance(expected, int):
        assert got == expected
        return
    assert isinstance(got, Spans)
    for name in Spans.__slots__:
        assert np.array_equal(getattr(got, name), getattr(expected, name)), name


def test_a_row_of_stored_rows_that_are_cut_anew():
    """Rows of 5 over stored rows of 3: the second has the last token of row 1, all of row 2 and one of row 3."""
    table = SpanTable(1)
    table.put(0, EvenRows(rows=2, seq_len=5, stored=3))
    found = collect_spans(table, np.array([0]), np.array([1]))
    assert isinstance(found, Spans)
    assert [found.sample_N.tolist(), found.start_N.tolist(), found.tokens_N.tolist()] == [
        [1, 2, 3],
        [2, 0, 0],
        [1, 3, 1],
    ]
    assert found.joined_N.tolist() == [False, True, True]


def test_a_span_that_goes_on_with_a_document_is_marked():
    table = SpanTable(1)
    spans = np.array([[0, 1, 2], [1, 0, 3 | JOINED]], dtype=np.uint32)
    table.put(0, StoredSpans(begin_R1=np.array([0, 2], dtype=np.uint32), span_N3=spans))
    found = collect_spans(table, np.array([0]), np.array([0]))
    assert isinstance(found, Spans)
    assert (found.tokens_N.tolist(), found.joined_N.tolist()) == ([2, 3], [False, True])
    assert replace(found).begin_B1.tolist() == [0, 2]
