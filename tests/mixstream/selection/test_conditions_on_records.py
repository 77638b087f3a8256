"""Conditions for one record at a time: they mean what they mean for columns; what they cannot answer is an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mixstream.selection import Categories, Condition, record_condition

RECORDS: list[dict[str, Any]] = [
    {"n": 3, "s": 0.25, "l": "en", "b": True, "z": 1, "k": 2**63 + 1},
    {"n": -7, "s": 0.5, "l": "de", "b": False, "z": -2, "k": 5},
    {"n": 2**62, "s": -1.5, "l": "", "b": True, "z": 4, "k": 2**64 - 1},
]
TEXTS = ["de", "", "en", "other"]
COLUMNS = {
    "n": np.array([each["n"] for each in RECORDS]),
    "s": np.array([each["s"] for each in RECORDS]),
    "l": Categories(np.array([TEXTS.index(each["l"]) for each in RECORDS]), TEXTS),
    "b": np.array([each["b"] for each in RECORDS]),
    "z": np.array([each["z"] for each in RECORDS], dtype=np.int8),
    "k": np.array([each["k"] for each in RECORDS], dtype=np.uint64),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n > 0", [1, 0, 1]),
        ("n >= 3", [1, 0, 1]),
        ("n < 3", [0, 1, 0]),
        ("n <= 3", [1, 1, 0]),
        ("n == 3.0", [1, 0, 0]),
        ("n != -7", [1, 0, 1]),
        ("0.5 > s", [1, 0, 1]),
        ("-2 < s < 0.5", [1, 0, 1]),
        ("-2 < s < 0.5 < n", [1, 0, 1]),
        ("3 >= n > s", [1, 0, 0]),
        ("n > 0 and s > 0", [1, 0, 0]),
        ("n > 0 and s > 0 and l == 'de'", [0, 0, 0]),
        ("n < 0 or s < 0", [0, 1, 1]),
        ("n == 3 or s == 0.5 or b", [1, 1, 1]),
        ("not n > 0", [0, 1, 0]),
        ("not (n > 0 and s > 0)", [0, 1, 1]),
        ("not b or z > 3", [0, 1, 1]),
        ("b", [1, 0, 1]),
        ("b == True", [1, 0, 1]),
        ("l == 'en'", [1, 0, 0]),
        ("'en' != l", [0, 1, 1]),
        ("l in ['en', 'fr']", [1, 0, 0]),
        ("l not in ('en', 'de')", [0, 0, 1]),
        ("z in [1, -2.0]", [1, 1, 0]),
        ("z in []", [0, 0, 0]),
        ("n + z == 4", [1, 0, 0]),
        ("n - z < 0", [0, 1, 0]),
        ("n * z * 100 > 1000", [0, 1, 1]),
        ("n * 4 > 9223372036854775808", [0, 0, 1]),
        ("s / z < -0.2", [0, 1, 1]),
        ("n / 2 == 1.5", [1, 0, 0]),
        ("n // 2 == -4", [0, 1, 0]),
        ("n % 4 == 1", [0, 1, 0]),
        ("n % -4 == -1", [1, 0, 0]),
        ("s % 1 == 0.5", [0, 1, 1]),
        ("-z > 1", [0, 1, 0]),
        ("+z - -1 == 2", [1, 0, 0]),
        ("b + b == 2", [1, 0, 1]),
        ("k - 6 < 0", [0, 1, 0]),
        ("k > 9223372036854775808", [1, 0, 1]),
    ],
)
def test_a_condition_means_the_same_for_a_record_and_for_columns(text: str, expected: list[int]) -> None:
    condition = Condition.parse(text)
    holds = record_condition(condition)
    assert [holds(record.__getitem__) for record in RECORDS] == list(map(bool, expected))
    assert condition.holds(COLUMNS).tolist() == list(map(bool, expected))


@pytest.mark.parametrize(
    ("text", "value", "word"),
    [
        ("x > 1", None, "None cannot be compared with 1"),
        ("not x > 1", None, "cannot be compared"),
        ("x != 1", None, "cannot be compared"),
        ("x in []", None, "cannot be compared"),
        ("x in [1, 2]", None, "cannot be compared"),
        ("x < 0.5", float("nan"), "nan cannot be compared with 0.5"),
        ("not x < 0.5", float("nan"), "cannot be compared"),
        ("0.5 != x", float("nan"), "cannot be compared"),
        ("x + 1 > 0", float("nan"), "x is nan, no number"),
        ("x - x == 0", float("inf"), "cannot be compared"),
        ("x > 1", "3", "'3' cannot be compared with 1"),
        ("x == 1", "1", "cannot be compared"),
        ("x != 'a'", 3, "cannot be compared"),
        ("x in ['a', 'b']", 3, "cannot be compared"),
        ("x in [3, 'a']", 3, "cannot be compared"),
        ("x not in [3, 4]", "3", "cannot be compared"),
        ("x == 'a'", ["a"], "cannot be compared"),
        ("'a' == x", ["a"], "cannot be compared"),
        ("'a' != x", ["b"], "cannot be compared"),
        ("1 in x", 1, "1 cannot be compared with 1"),
        ("1 in x", "1", "cannot be compared"),
        ("x == 'a'", {"a": 1}, "cannot be compared"),
        ("x + 1 > 1", "3", "x is '3', no number"),
        ("x * 2 == 'aa'", "a", "no number"),
        ("-x < 1", None, "no number"),
        ("x", 1, "x is 1, neither true nor false"),
        ("not x", None, "neither true nor false"),
        ("x and 1 < 2", "yes", "neither true nor false"),
        ("1 / x > 0", 0, "'1 / x > 0' divides by 0"),
        ("1 // x > 0", 0.0, "divides by 0"),
        ("1 % x > 0", False, "divides by 0"),
        ("x * 1.5 > 0", 10**400, "too large for a float"),
    ],
)
def test_what_a_condition_cannot_answer_is_an_error_and_neither_yes_nor_no(text: str, value: Any, word: str) -> None:
    holds = record_condition(Condition.parse(text))
    with pytest.raises(ValueError, match=word):
        holds({"x": value}.__getitem__)


def test_what_is_missing_is_an_error_of_the_lookup_where_it_is_needed() -> None:
    def lookup(name: str) -> Any:
        if name != "x":
            raise ValueError(f"no {name}")
        return 1

    for text in ("x == 1 and y == 1", "x != 1 or y == 1", "x - 1 <= y", "0 < x < y", "not y"):
        with pytest.raises(ValueError, match="no y"):
            record_condition(Condition.parse(text))(lookup)
    assert not record_condition(Condition.parse("x != 1 and y == 1"))(lookup)
    assert record_condition(Condition.parse("x == 1 or y == 1"))(lookup)
    assert not record_condition(Condition.parse("1 < x < y"))(lookup)
