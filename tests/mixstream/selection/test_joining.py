"""Keys of rows, and lines of a table that meet them: equal to a search by hand, within stated memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from mixstream.errors import ConfigError, SelectionError
from mixstream.selection import Keys, Meetings, index_keys
from mixstream.selection.joining import KeyIndex
from mixstream.selection.keys import content_keys, parse_hashes, value_keys

VALUES = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=12)


@given(VALUES, VALUES)
def test_an_index_finds_what_a_search_by_hand_finds(rows: list[str], table: list[str]) -> None:
    line_M, row_M = KeyIndex(value_keys(rows)).find(value_keys(table))
    expected = [(line, row) for line, value in enumerate(table) for row, other in enumerate(rows) if other == value]
    assert list(zip(line_M.tolist(), row_M.tolist())) == expected


def test_keys_meet_only_if_all_of_them_agrees() -> None:
    """Keys of 64 bits that are equal by chance are told apart by their checks."""
    rows = Keys(key_B=np.array([7, 7, 3], np.uint64), check_B=np.array([1, 2, 3], np.uint64))
    table = Keys(key_B=np.array([7, 3, 7], np.uint64), check_B=np.array([2, 9, 1], np.uint64))
    line_M, row_M = KeyIndex(rows).find(table)
    assert (line_M.tolist(), row_M.tolist()) == ([0, 2], [1, 0])


@given(VALUES.filter(bool), st.lists(VALUES, max_size=4), st.sampled_from(["first", "last", "error"]))
def test_of_lines_about_one_row_one_counts(rows: list[str], blocks: list[list[str]], duplicates) -> None:
    index, meetings = KeyIndex(value_keys(rows)), Meetings(len(rows), duplicates=duplicates)
    table = [value for block in blocks for value in block]
    again = any(value in rows and value in table[:at] for at, value in enumerate(table))
    found: dict[int, int] = {}
    try:
        before = 0
        for block in blocks:
            line_M, row_M = index.find(value_keys(block))
            line_M, row_M = meetings.add({"id": block}, len(block), line_M, row_M, ["id"])
            found.update(zip(row_M.tolist(), (line_M + before).tolist()))
            before += len(block)
    except SelectionError:
        assert duplicates == "error"
        assert again
        return
    assert not (again and duplicates == "error")
    for row, value in enumerate(rows):
        lines = [line for line, other in enumerate(table) if other == value]
        assert found.get(row) == (lines[-1 if duplicates == "last" else 0] if lines else None)
        assert meetings.met_N[row] == bool(lines)
    assert meetings.lines == len(table)
    assert meetings.unmatched == sum(value not in rows for value in table)


def test_keys_of_values_and_contents() -> None:
    assert value_keys(["x"]).key_B[0] == xxhash.xxh3_128_intdigest(b"x") & (2**64 - 1)
    assert content_keys([b"x", np.frombuffer(b"x", np.uint8)]).key_B.tolist() == [xxhash.xxh3_64_intdigest(b"x")] * 2
    assert value_keys([np.array([1, 2])]).key_B.tolist() != value_keys([np.array([2, 1])]).key_B.tolist()
    for value in (1.5, None, True, ["x"]):
        with pytest.raises(ConfigError, match="a key is"):
            value_keys([value])


@pytest.mark.parametrize(
    "values", [np.array([-1, 5]), [2**64 - 1, 5], ["ffffffffffffffff", "0x5"], np.array([2**64 - 1, 5], np.uint64)]
)
def test_hashes_of_other_programs(values) -> None:
    assert parse_hashes(values, what="column 'h'").tolist() == [2**64 - 1, 5]


@pytest.mark.parametrize("values", [["xyz"], [None], ["f" * 17], [1.5]])
def test_what_is_no_hash_is_refused(values) -> None:
    with pytest.raises(ConfigError, match="column 'h'"):
        parse_hashes(values, what="column 'h'")


def test_blocks_of_keys_take_their_places() -> None:
    keys = index_keys([(2, value_keys(["c"])), (0, value_keys(["a", "b"]))], 3)
    expected = value_keys(["a", "b", "c"])
    assert keys.key_B.tolist() == expected.key_B.tolist()
    assert keys.check_B is not None
    assert expected.check_B is not None
    assert keys.check_B.tolist() == expected.check_B.tolist()


def test_a_join_of_many_rows_stays_within_its_memory() -> None:
    rows = 2_000_000
    rng = np.random.default_rng(0)
    keys = Keys(key_B=rng.integers(0, 1 << 63, rows).astype(np.uint64), check_B=np.arange(rows, dtype=np.uint64))
    tracemalloc.start()
    try:
        index = KeyIndex(keys)
        _, row_M = index.find(Keys(key_B=keys.key_B[1000:2000], check_B=keys.check_B[1000:2000]))  # type: ignore[index]
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert row_M.tolist() == list(range(1000, 2000))
    assert held < 24.5 * rows  # bytes
    assert peak < 33 * rows
