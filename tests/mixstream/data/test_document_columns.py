"""The columns of documents, against a slow reference in plain Python, for all that can stand in rows."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.data import document_columns as kernels
from mixstream.data.document_columns import document_columns, mask_documents_reference
from mixstream.data.document_masks import DocumentMasks
from mixstream.data.listed_borders import ListedBorders, ShardRows, listed_borders, listed_borders_reference
from mixstream.data.row_documents import BorderTokens, RowBorders
from mixstream.data.span_documents import span_borders
from mixstream.data.span_table import Spans
from mixstream.errors import ConfigError, ShardCorruptError
from mixstream.types import Addresses

rows_of_lengths = st.integers(1, 12).flatmap(
    lambda length: st.lists(
        st.lists(st.tuples(st.integers(1, length), st.booleans()), min_size=1, max_size=5).map(
            lambda parts: fill(parts, length)
        ),
        min_size=1,
        max_size=4,
    )
)
"""Rows of one length: lists of (tokens, whether it is padding)."""


def fill(parts: list[tuple[int, bool]], length: int) -> list[tuple[int, bool]]:
    row: list[tuple[int, bool]] = []
    for tokens, padding in parts:
        if (room := length - sum(n for n, _ in row)) > 0:
            row.append((min(tokens, room), padding))
    if (room := length - sum(n for n, _ in row)) > 0:
        row.append((room, False))
    return row


def borders_of(rows: list[list[tuple[int, bool]]]) -> RowBorders:
    begin, token, document = [0], [], []
    for row in rows:
        at = 0
        for tokens, padding in row:
            token.append(at)
            document.append(-1 if padding else len(document) + 100)
            at += tokens
        begin.append(len(token))
    return RowBorders(
        begin_B1=np.array(begin), token_N=np.array(token, dtype=np.int32), document_N=np.array(document, dtype=np.int64)
    )


def slow(
    tokens: list[list[int]], rows: list[list[tuple[int, bool]]], counts: list[list[int]] | None, *, shifted: bool
) -> dict[str, Any]:
    """What a trainer expects, token by token."""
    found: dict[str, Any] = {"position_ids": [], "document_ids": [], "labels": [], "cu_seqlens": [0]}
    for i, row in enumerate(rows):
        positions, documents, labels = [], [], []
        number = 0
        for length, padding in row:
            begin = len(positions)
            for t in range(length):
                positions.append(t)
                documents.append(-1 if padding else number)
                target = t + 1 if shifted else t
                is_predicted = not padding and 0 < target < length
                if is_predicted and counts is not None:
                    is_predicted = counts[i][begin + target] != 0
                labels.append(tokens[i][begin + target] if is_predicted else -100)
            number += not padding
            found["cu_seqlens"].append(found["cu_seqlens"][-1] + length)
        found["position_ids"].append(positions)
        found["document_ids"].append(documents)
        found["labels"].append(labels)
    found["max_seqlen"] = max(n for row in rows for n, _ in row)
    return found


@pytest.mark.parametrize("compiled", [True, False])
@settings(max_examples=60, deadline=None)
@given(rows=rows_of_lengths, shifted=st.booleans(), masked=st.booleans(), seed=st.integers(0, 99))
def test_columns_are_those_of_a_slow_reference(compiled, rows, shifted, masked, seed):
    generator = np.random.default_rng(seed)
    shape = len(rows), sum(n for n, _ in rows[0])
    tokens_BS, counts_BS = generator.integers(0, 50, shape), generator.integers(0, 2, shape)
    if not compiled:
        given_counts = counts_BS.astype(np.uint8) if masked else np.empty((0, 0), np.uint8)
        borders = borders_of(rows)
        out = [np.empty(shape, dtype) for dtype in (np.int64, np.int32, np.int64)]
        ends = np.empty(len(borders.token_N) + 1, np.int32)
        places = borders.begin_B1, borders.token_N, borders.document_N
        longest = mask_documents_reference(tokens_BS, given_counts, *places, shifted, *out, ends)
        names = ("position_ids", "document_ids", "labels", "cu_seqlens")
        found = dict(zip(names, (array.tolist() for array in (*out, ends)))) | {"max_seqlen": longest}
    else:
        columns, segments = document_columns(
            tokens_BS,
            borders_of(rows),
            counts_BS=counts_BS if masked else None,
            labels="shifted" if shifted else "unshifted",
        )
        assert segments.ends_D1.tolist() == columns["cu_seqlens"].tolist()
        assert [columns[name].dtype for name in ("position_ids", "document_ids", "labels", "cu_seqlens")] == [
            *(np.int64, np.int32, np.int64, np.int32)
        ]
        found = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in columns.items()}
    expected = slow(tokens_BS.tolist(), rows, counts_BS.tolist() if masked else None, shifted=shifted)
    assert found == expected


@pytest.mark.parametrize(
    ("begin", "token"), [([0, 1], [1]), ([0, 2], [0, 4]), ([0, 3], [0, 2, 2]), ([0, 0], []), ([0, 2], [0, -1])]
)
@pytest.mark.parametrize("loop", [kernels.mask_documents, mask_documents_reference])
def test_borders_of_other_rows_are_refused(loop, begin, token, monkeypatch):
    monkeypatch.setattr(kernels, "mask_documents", loop)
    borders = RowBorders(
        begin_B1=np.array(begin), token_N=np.array(token, np.int32), document_N=np.zeros(len(token), np.int64)
    )
    with pytest.raises(ShardCorruptError, match="do not fit them"):
        document_columns(np.zeros((1, 4), np.int64), borders)


@pytest.mark.parametrize("tokens", [np.zeros(4, int), np.zeros((2, 4))])
def test_what_is_no_row_of_tokens_is_refused(tokens):
    with pytest.raises(ConfigError, match="rows of tokens"):
        document_columns(tokens, borders_of([[(4, False)]] * 2))


# --- borders --------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=12),
    tokens=st.integers(1, 6),
    overlap=st.integers(0, 1),
    unit=st.sampled_from([1, 2, 4]),
    ends=st.booleans(),
    shift=st.integers(0, 7),
)
def test_borders_that_files_list(lengths, tokens, overlap, unit, ends, shift):
    """Begins or ends, in tokens or bytes, at any alignment; documents without tokens are nowhere."""
    total = sum(lengths)
    rows = max(total - overlap, 0) // tokens
    listed = np.cumsum(lengths) if ends else np.cumsum([0, *lengths[:-1]])
    raw = np.concatenate([np.zeros(shift, np.uint8), (listed * unit).astype("<i8").view(np.uint8)])
    file = SimpleNamespace(data=raw, at=shift, count=len(listed), unit=unit)
    place = ShardRows(file=file, token=0, stride=tokens, tokens=tokens + overlap)
    found = ListedBorders(shard_rows=lambda shard: place).borders(
        np.zeros(rows, np.int64), np.arange(rows)[::-1].copy()
    )
    owner = [number for number, length in enumerate(lengths) for _ in range(length)]
    for i, row in enumerate(reversed(range(rows))):
        mine = owner[row * tokens : row * tokens + tokens + overlap]
        expected = [t for t in range(len(mine)) if not t or mine[t] != mine[t - 1]]
        assert found.token_N[found.begin_B1[i] : found.begin_B1[i + 1]].tolist() == expected


@pytest.mark.parametrize(("most", "asked"), [(1 << 32, [0, 9, 3]), (2, [0, 9, 3, 9, 0, 3])])
def test_a_shard_is_asked_for_once_while_it_is_kept(most, asked):
    def rows(shard: int) -> ShardRows:
        seen.append(shard)
        data = np.array([shard + 1], "<i8").view(np.uint8)
        return ShardRows(file=SimpleNamespace(data=data, at=0, count=1, unit=1), token=0, stride=12, tokens=12)

    seen: list[int] = []
    borders = ListedBorders(shard_rows=rows, most=most)
    for shards in ([0], [0, 9], [9, 9, 3], [0, 3]):
        found = borders.borders(np.array(shards), np.zeros(len(shards), np.int64))
        assert found.token_N.tolist() == [token for shard in shards for token in (0, shard + 1)]
    assert seen == asked


def test_the_loop_over_listed_borders_equals_its_reference():
    generator = np.random.default_rng(3)
    listed = np.sort(generator.integers(0, 400, 60)).astype("<i8")
    rows = 20
    facts = (
        np.full(rows, listed.ctypes.data, np.uint64),
        np.full(rows, len(listed)),
        np.ones(rows, np.int64),
        generator.integers(0, 380, rows),
        np.full(rows, 20),
    )
    out = []
    for loop in (listed_borders, listed_borders_reference):
        begin, token, document = np.zeros(rows + 1, np.int64), np.zeros(500, np.int32), np.zeros(500, np.int64)
        count = loop(*facts, begin, token, document)
        out.append((count, begin.tolist(), token[:count].tolist(), document[:count].tolist()))
    assert out[0] == out[1]
    assert listed_borders(*facts, begin, token[:3], document[:3]) == out[0][0], "it says how much room it needs"


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 9).flatmap(
        lambda length: st.lists(st.lists(st.integers(0, 3), min_size=length, max_size=length), min_size=1, max_size=4)
    ),
    st.sampled_from([(0, None), (None, 1), (0, 1)]),
)
def test_borders_by_tokens(rows, marks):
    """The token that ends a document belongs to it; the one that begins it, too; equal ends at the end are padding."""
    end, begin = marks
    found = BorderTokens(end=end, begin=begin).in_rows(np.array(rows))
    for i, row in enumerate(rows):
        tail = len(row)
        while tail and end is not None and row[tail - 1] == end:
            tail -= 1
        padding = max(tail, 0) + 1 if len(row) - tail >= 2 else len(row)
        starts = [
            t
            for t in range(len(row))
            if not t or (end is not None and row[t - 1] == end) or (begin is not None and row[t] == begin)
        ]
        expected = [(t, t == padding) for t in starts if t <= padding]
        here = slice(found.begin_B1[i], found.begin_B1[i + 1])
        assert list(zip(found.token_N[here].tolist(), (found.document_N[here] < 0).tolist())) == expected


def test_borders_of_spans():
    """Joined spans and empty ones begin nothing, a row within a document does; what is left is padding."""
    spans = Spans(
        begin_B1=np.array([0, 3, 3, 5]),
        shard_N=np.zeros(5, np.int64),
        sample_N=np.arange(5),
        start_N=np.zeros(5, np.int64),
        tokens_N=np.array([2, 0, 4, 1, 5]),
        joined_N=np.array([True, False, False, False, True]),
    )
    found = span_borders(spans, 6)
    assert found.begin_B1.tolist() == [0, 2, 3, 4]
    assert found.token_N.tolist() == [0, 2, 0, 0]
    assert (found.document_N < 0).tolist() == [False, False, True, False]


@pytest.mark.parametrize("ends", [False, True])
def test_a_token_that_never_ends_a_document_is_warned_of_once(ends):
    tokens_BS = np.zeros((1024, 1024), dtype=np.uint16)
    tokens_BS[:, -1] = 7 if ends else 0
    masks = DocumentMasks(known=[BorderTokens(end=7)], offset_K=np.zeros(1, np.int64), names=("web",))
    zeros_B = np.zeros(1024, dtype=np.int64)
    at, told = Addresses(domain_B=zeros_B, shard_B=zeros_B, row_B=zeros_B), []
    for _ in range(6):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            masks.columns(tokens_BS, at)
        told += [str(each.message) for each in found]
    assert len(told) == (not ends)
    assert ends or "4,194,304 tokens of the domains ['web']: none of them is eos_id=7" in told[0]
