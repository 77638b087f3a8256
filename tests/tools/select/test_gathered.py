"""One column of scores, from values of any kind in any order; and the files that they come from."""

from __future__ import annotations

import gzip
from typing import Any

import numpy as np
import pytest
import zstandard

from mixstream.errors import SelectionError
from mixstream_tools.select.gathered import Gathered
from mixstream_tools.select.tables import find_tables

NAN = float("nan")


def gathered(*blocks: Any, rows: int = 6, spans: Any = "mean") -> Gathered:
    """A column of whose rows each block of values fills as many, from where the one before it ended."""
    column, begin = Gathered("score", rows=rows, spans=spans), 0
    for values in blocks:
        lines = np.arange(len(values))
        column.put(values, lines, lines + begin)
        begin += len(values)
    return column


def content(column: Gathered) -> list[Any]:
    rows = len(column.has_N)
    return [None if gone else value for value, gone in zip(column.values(0, rows), column.missing(0, rows))]


@pytest.mark.parametrize(
    ("blocks", "dtype", "values"),
    [
        ([[1, 2, -128]], "|i1", [1, 2, -128, None, None, None]),
        ([[1, 128]], "<i2", [1, 128, None, None, None, None]),
        ([[-(2**15) - 1]], "<i4", [-(2**15) - 1, *[None] * 5]),
        ([[2**63 - 1, -(2**63)]], "<i8", [2**63 - 1, -(2**63), *[None] * 4]),
        ([[True, False, None]], "|i1", [1, 0, *[None] * 4]),
        ([[1, 2.5]], "<f8", [1, 2.5, *[None] * 4]),
        ([[1, 2], [2.5]], "<f8", [1, 2, 2.5, *[None] * 3]),
        ([[2.5], [1, 2]], "<f8", [2.5, 1, 2, *[None] * 3]),
        ([[2**53, 0.5]], "<f8", [2**53, 0.5, *[None] * 4]),
        ([[2**53], [0.5], [-(2**53)]], "<f8", [2**53, 0.5, -(2**53), *[None] * 3]),
        ([[None, NAN, float("inf"), 1.5]], "<f8", [None, None, None, 1.5, None, None]),
        ([[None, NAN], [7]], "|i1", [None, None, 7, *[None] * 3]),
        ([np.array([0.5, NAN, 2], np.float32)], "<f4", [0.5, None, 2, *[None] * 3]),
        ([np.array([0.5], np.float16), np.array([0.25], np.float32)], "<f4", [0.5, 0.25, *[None] * 4]),
        ([np.array([0.5], np.float32), np.array([0.1])], "<f8", [0.5, 0.1, *[None] * 4]),
        ([np.array([0.5], np.float32), [3]], "<f8", [0.5, 3, *[None] * 4]),
        ([np.array([3], np.uint8), np.array([-300], np.int16)], "<i2", [3, -300, *[None] * 4]),
        ([np.array([2**63 - 1], np.uint64)], "<i8", [2**63 - 1, *[None] * 5]),
    ],
)
def test_a_column_holds_every_value_exactly(blocks: list[Any], dtype: str, values: list[Any]) -> None:
    column = gathered(*blocks)
    assert content(column) == values
    assert column.column(True).dtype == dtype
    assert column.nulls == sum(len(block) for block in blocks) - sum(value is not None for value in values)
    assert column.categories is None


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ([[2**53 + 1, 0.5]], r"'9007199254740993', where it has numbers with fractions"),
        ([[2**53 + 1], [0.5]], "an integer above 2[*][*]53.*would be rounded"),
        ([[0.5], [-(2**53) - 1]], "an integer above 2[*][*]53.*would be rounded"),
        ([np.array([0.5]), np.array([2**53 + 1])], "would be rounded"),
        ([np.array([2**53 + 1]), np.array([0.5])], "would be rounded"),
        ([np.array([1, 2**63], np.uint64)], "'9223372036854775808', where it has integers below 2[*][*]63"),
        ([np.array([0.5]), np.array([2**63], np.uint64)], "integers below 2[*][*]63"),
        ([[2**63]], "'9223372036854775808', where it has integers of 64 bits"),
        ([[-(2**63) - 1]], "integers of 64 bits"),
        ([["en", 3]], "'en', where it has numbers too, such as 3"),
        ([["en"], [3]], "'3', where it has texts"),
        ([[3], ["en"]], "'a text', where it has numbers"),
        ([[{"a": 1}]], "where it has numbers or texts"),
        ([[[1, 2]]], "where it has numbers or texts"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_value(blocks: list[Any], words: str) -> None:
    with pytest.raises(SelectionError, match=words):
        gathered(*blocks)


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ("mean", [0.75, 0.5, None, None, 3.0, None]),
        ("max", [1.0, 0.5, None, None, 4.0, None]),
        ("min", [0.0, 0.5, None, None, 2.0, None]),
        ("sum", [1.0, 0.5, 0.0, None, 6.0, None]),
    ],
)
def test_spans_become_one_number(spans: str, expected: list[Any]) -> None:
    documents = [
        [[0, 10, 0.0], [10, 40, 1.0]],  # a mean over characters
        [[5, 9, 0.5]],
        [],
        [[0, 1, 7.0], [1, 2, NAN]],
        [[3, 3, 2], [3, 3, 4]],  # spans without characters: over spans
        None,
    ]
    assert content(gathered(documents, spans=spans)) == expected


def test_texts_are_categories_in_their_order_and_later_lines_replace_earlier_ones() -> None:
    column = gathered(["en", None, "de", "fr"])
    assert column.categories == ["de", "en", "fr"]
    assert column.values(0, 6).tolist() == [1, -1, 0, 2, -1, -1]
    assert column.values_at(np.array([3, 1, 0])).tolist() == [2, -1, 1]
    assert not column.missing(0, 6).any()
    assert column.column(True).dtype == "<i4"
    column.put([None, "en", "ar"], np.array([2, 0]), np.array([0, 2]))
    assert column.categories == ["ar", "de", "en", "fr"]
    assert column.values(0, 4).tolist() == [0, -1, -1, 3]
    numbers = gathered([1, 2])
    numbers.put([None, 5], np.array([1, 0]), np.array([0, 1]))
    assert content(numbers) == [5, *[None] * 5]


def test_a_column_without_a_value_is_refused() -> None:
    with pytest.raises(SelectionError, match="'score' has no value in any line"):
        gathered([None, NAN]).column(None)


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("zst", zstandard.ZstdCompressor().compress)])
def test_tables_of_several_frames_are_read_whole_and_one_that_is_cut_short_is_refused(tmp_path, suffix, pack) -> None:
    line = b'{"id": "a", "score": 1}\n'
    path, packed = tmp_path / f"t.jsonl.{suffix}", pack(line * 3) + pack(line * 2000)
    path.write_bytes(packed)
    (table,) = find_tables([str(path)], None)
    blocks = list(table.blocks(["score"]))
    assert [value for block, _ in blocks for value in block["score"]] == [1] * 2003
    assert sum(size for _, size in blocks) == len(packed)
    path.write_bytes(packed[:-5])
    with pytest.raises(SelectionError, match="it cannot be read after line"):
        list(table.blocks(["score"]))
