"""Conditions on columns: what they mean, and what is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.errors import ConfigError
from mixstream.selection.expression import Categories, Condition

ROWS = {
    "a": np.array([1, 2, 3], dtype=np.uint8),
    "s": np.array([0.1, 0.5, 0.9], dtype=np.float32),
    "l": Categories(np.array([0, 1, -1]), ["en", "de"]),
    "b": np.array([True, False, True]),
    "k": np.array([2**63 + 1, 5, 2**64 - 1], dtype=np.uint64),
    "e": np.zeros((3, 2)),
    "z": np.array([0, 1, 2]),
    "n": np.array([2**62, -(2**63), 3]),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a >= 2", [0, 1, 1]),
        ("a * 100 > 250", [0, 0, 1]),  # uint8 would wrap around
        ("300 > a", [1, 1, 1]),
        ("0.2 < s <= 0.9 and l == 'de'", [0, 1, 0]),
        ("s == 0.9", [0, 0, 1]),
        ("l != 'en'", [0, 1, 1]),
        ("'en' == l", [1, 0, 0]),
        ("l in ['en', 'fr']", [1, 0, 0]),
        ("not l in ('en', 'de')", [0, 0, 1]),
        ("a not in [1, -3]", [0, 1, 1]),
        ("a in []", [0, 0, 0]),
        ("b and not a > 2", [1, 0, 0]),
        ("a % 2 == 1 or s > 0.8", [1, 0, 1]),
        ("-a + +1 < -1", [0, 0, 1]),
        ("z // 2 == 1", [0, 0, 1]),
        ("b == True", [1, 0, 1]),
        ("k > 9223372036854775808", [1, 0, 1]),
        ("k - 6 < 0", [0, 1, 0]),  # uint64 would wrap around, and so would int64
        ("-k < -9223372036854775808", [1, 0, 1]),
        ("k + -1 >= 9223372036854775808", [1, 0, 1]),
        ("k // 2 == 4611686018427387904", [1, 0, 0]),
        ("k / 2 > 4e18", [1, 0, 1]),
        ("n * 4 > 5", [1, 0, 1]),
        ("-n > 9e18", [0, 1, 0]),
        ("n - 9 < 0", [0, 1, 1]),
        ("a + 18446744073709551615 >= 18446744073709551615 + 2", [0, 1, 1]),
        ("2 * 18446744073709551615 > k - a", [1, 1, 1]),
        ("n * n * 2 in [18, 5]", [0, 0, 1]),
        ("n * n % 7 == 2", [1, 0, 1]),
        ("a - 3 + k * 1.5 > 6.6", [1, 0, 1]),
    ],
)
def test_conditions_mean_what_python_means(text: str, expected: list[int]) -> None:
    assert Condition.parse(text).holds(ROWS).tolist() == list(map(bool, expected))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("__import__('os').system('true')", "is not allowed"),
        ("(a + 1).real > 1", "is not allowed"),
        ("'x'.real > 1", "is not allowed"),
        ("a.real() > 1", "is not allowed"),
        ("a" + ".b" * 200 + " > 1", "levels deep"),
        ("`` > 1", "no name in a pair of backticks"),
        ("`a > 1", "invalid syntax"),
        ("3`a` > 1", "touches what is beside it"),
        ("`a`b > 1", "touches what is beside it"),
        ("a[0] > 1", "is not allowed"),
        ("len(l) > 1", "is not allowed"),
        ("[x for x in a]", "is not allowed"),
        ("(lambda: 1)()", "is not allowed"),
        ("a if b else a", "is not allowed"),
        ("a ** 9 > 1", "is not allowed"),
        ("f'{a}' == '1'", "is not allowed"),
        ("a is 1", "is not allowed"),
        ("a == None", "is not allowed"),
        ("(a := 1) > 0", "is not allowed"),
        ("a in [b, 1]", "something else than literals"),
        ("a > 'x'", "compares numbers with"),
        ("l > 'a'", "compares texts"),
        ("l in [1]", "texts with numbers"),
        ("l + 1 > 2", "is no number"),
        ("a in s", "needs a list"),
        ("l not in ('en')", "needs a list"),
        ("s + a" + " * 18446744073709551615" * 20 + " > 1", "too large for a float"),
        ("a", "neither true nor false"),
        ("not a", "neither true nor false"),
        ("3", "literal"),
        ("1 < 2", "two literals"),
        ("e > 1", "rows of shape"),
        ("1 / z > 0", "divides by 0"),
        ("a > 99999999999999999999999", "64 bits"),
        ("unknown > 1", "no column 'unknown'"),
        ("a >", "invalid syntax"),
        ("", "invalid syntax"),
        ("-" * 150 + "a > 1", "nested"),
        ("a > 1 or " * 2000 + "b", "characters"),
        ("(" * 3000 + "a" + ")" * 3000, "condition"),
        ("a > '\0'", "condition"),
        ("a > '\\d'", "compares numbers with"),
    ],
)
def test_everything_else_is_refused_by_name(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        Condition.parse(text).holds(ROWS)


def test_an_unknown_column_is_named_with_those_that_exist() -> None:
    condition = Condition.parse("qualty > 1 and a > 1")
    with pytest.raises(ConfigError, match="'qualty' in scores/web; it has a, quality"):
        condition.require(["quality", "a"], where="scores/web")


@given(st.text(max_size=40))
def test_no_text_does_more_than_being_refused(text: str) -> None:
    try:
        found = Condition.parse(text).holds(ROWS)
    except ConfigError:
        return
    assert found.dtype == np.bool_
    assert len(found) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("score.code > 1", [0, 1]),
        ("score . code > 1", [0, 1]),
        ("`score.code` > 1 and score < 9", [0, 1]),
        ("`int score` == 3", [1, 0]),
        ("`über`.x + `a` > 4", [0, 1]),
        ("a.`b`.c == 1", [1, 0]),
        ("l == '`a`' and `l` != \"`\"", [1, 0]),
        ("_00 + `score` + _01 > 5 and `a` == 0", [1, 0]),
        ("0 < a.b.c <= 1", [1, 0]),
        ("`in` == 1 and not `not` == 2", [1, 0]),
    ],
)
def test_names_of_columns_may_be_anything(text, expected) -> None:
    numbers = {
        "score": [1, 2], "score.code": [1, 2], "int score": [3, 4], "über.x": [4, 1], "a": [0, 4], "_00": [3, 3],
        "_01": [2, 2], "a.b.c": [1, 0], "in": [1, 1], "not": [1, 2],
    }  # fmt: skip
    columns = {name: np.array(values) for name, values in numbers.items()}
    condition = Condition.parse(text)
    found = condition.holds({**columns, "l": Categories(np.array([0, 1]), ["`a`", "`"])})
    assert found.tolist() == [bool(each) for each in expected]


def test_errors_show_what_was_written() -> None:
    condition = Condition.parse("`wörter` < 3 and `a b` > 'x'")
    with pytest.raises(ConfigError, match=r"\"`a b` > 'x'\" compares numbers"):
        condition.holds({"wörter": np.zeros(1), "a b": np.zeros(1)})
