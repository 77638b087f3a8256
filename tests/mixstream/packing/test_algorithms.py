"""Documents become rows as the algorithms say: against brute force, and by laws."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.errors import ConfigError
from mixstream.packing.algorithms import Pieces, pack_documents
from mixstream.packing.fit import best_fit, best_fit_reference, first_fit, first_fit_reference

LENGTHS = st.lists(st.integers(0, 30), max_size=40).map(lambda each: np.array(each, dtype=np.int64))


def rows_of(made: Pieces) -> list[list[tuple[int, int, int]]]:
    """Return (document, first token, tokens) of the pieces of each row."""
    pieces = list(zip(made.document_N.tolist(), made.begin_N.tolist(), made.tokens_N.tolist()))
    edges = made.begin_R1.tolist()
    return [pieces[a:b] for a, b in pairwise(edges)]


@pytest.mark.parametrize(
    ("algorithm", "rows", "cut", "dropped"),
    [
        ("concat", [[8], [6, 2], [5, 3]], 3, 7),
        ("best-fit", [[8], [6, 2], [7], [5, 3]], 1, 0),
        ("first-fit", [[8], [6, 2], [7], [5, 3]], 1, 0),
    ],
)
def test_the_published_example(algorithm, rows, cut, dropped):
    """arXiv 2404.10830, figure 1: documents of 14, 7, 5, 2 and 3 tokens in rows of 8."""
    made = pack_documents(np.array([14, 7, 5, 2, 3]), seq_len=8, algorithm=algorithm)
    assert [[tokens for *_, tokens in row] for row in rows_of(made)] == rows
    assert (made.documents, made.cut, made.dropped) == (5, cut, dropped)


@settings(max_examples=100)
@given(st.lists(st.integers(1, 12), max_size=40), st.integers(12, 20))
def test_compiled_equals_brute_force(lengths, seq_len):
    tokens_I = np.array(sorted(lengths, reverse=True), dtype=np.int64)
    assert best_fit(tokens_I, seq_len).tolist() == best_fit_reference(tokens_I, seq_len).tolist()
    assert first_fit(tokens_I, seq_len).tolist() == first_fit_reference(tokens_I, seq_len).tolist()


@settings(max_examples=100)
@given(
    LENGTHS,
    st.integers(1, 12),
    st.sampled_from(["concat", "best-fit", "first-fit"]),
    st.sampled_from(["cut", "truncate", "drop"]),
    st.randoms(use_true_random=False),
)
def test_every_token_is_in_one_row_or_is_counted_as_dropped(tokens_D, seq_len, algorithm, long_documents, random):
    long_documents = "cut" if algorithm == "concat" else long_documents
    order = list(range(len(tokens_D)))
    random.shuffle(order)
    order_D = np.array(order, dtype=np.int64)
    made = pack_documents(
        tokens_D, seq_len=seq_len, algorithm=algorithm, long_documents=long_documents, order_D=order_D
    )
    rows = rows_of(made)
    seen = [(document, begin + i) for row in rows for document, begin, tokens in row for i in range(tokens)]
    assert len(seen) == len(set(seen)) == int(tokens_D.sum()) - made.dropped
    assert all(begin < tokens_D[document] for document, begin in seen)
    assert all(0 < sum(tokens for *_, tokens in row) <= seq_len for row in rows)
    where = {}
    for at, row in enumerate(rows):
        for document, _, tokens in row:
            where.setdefault(document, []).append((at, tokens))
    whole = sum(len(each) == 1 and each[0][1] == tokens_D[document] for document, each in where.items())
    assert made.cut == len(where) - whole
    assert made.documents == int((tokens_D > 0).sum())
    if algorithm == "concat":
        assert all(sum(tokens for *_, tokens in row) == seq_len for row in rows)
        assert [document for document, _ in seen] == sorted((d for d, _ in seen), key=order.index)
        assert made.dropped < seq_len
    else:
        longest = [max(row, key=lambda piece: piece[2]) for row in rows]
        assert all(row == sorted(row, key=lambda piece: (order.index(piece[0]), piece[1])) for row in rows)
        openers = [[(order.index(d), b) for d, b, t in row if t == best[2]] for row, best in zip(rows, longest)]
        assert all(min(a) < max(b) for a, b in pairwise(openers))  # rows in the order of their openers
        if long_documents == "cut":
            assert made.dropped == 0
            assert made.cut == int((tokens_D > seq_len).sum())


def test_rows_are_not_in_the_order_of_lengths():
    """Neither the longest document of a row nor the number of its documents grows or falls with the row's number."""
    tokens_D = (np.random.default_rng(0).pareto(1.2, 4000) * 60 + 5).astype(np.int64)
    made = pack_documents(tokens_D, seq_len=512, algorithm="best-fit")
    rows = rows_of(made)
    for values in ([max(t for *_, t in row) for row in rows], [len(row) for row in rows]):
        assert abs(np.corrcoef(np.arange(len(rows)), values)[0, 1]) < 0.1


def test_best_fit_wastes_little():
    tokens_D = (np.random.default_rng(1).pareto(1.1, 20_000) * 100 + 30).astype(np.int64)
    made = pack_documents(tokens_D, seq_len=2048, algorithm="best-fit")
    assert 1 - made.tokens_N.sum() / (made.rows * 2048) < 0.01


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"algorithm": "next-fit"}, "best-fit"),
        ({"long_documents": "skip"}, "truncate"),
        ({"algorithm": "concat", "long_documents": "drop"}, "concat"),
        ({"seq_len": 0}, "seq_len=0"),
    ],
)
def test_what_is_not_known_is_refused(given, named):
    arguments = {"seq_len": 8, "algorithm": "best-fit"} | given
    with pytest.raises(ConfigError, match=named):
        pack_documents(np.array([3]), **arguments)
