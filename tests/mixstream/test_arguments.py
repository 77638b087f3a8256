"""Numbers, switches and texts as callers give them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import mixstream as ms
from mixstream.arguments import flag, normalise_fields, plain, real, text, whole
from mixstream.errors import ConfigError


class Index:
    """An integer of another library."""

    def __index__(self) -> int:
        return 7


@pytest.mark.parametrize(
    "value", [7, np.int8(7), np.uint64(7), np.array(7), torch.tensor(7), torch.tensor(7, dtype=torch.uint8), Index()]
)
def test_integers_of_any_type_are_ints(value):
    for found in (whole("x", value), real("x", value)):
        assert (type(found), found) == (int, 7)


@pytest.mark.parametrize(
    "value",
    [0.25, np.float32(0.25), np.float16(0.25), np.array(0.25), torch.tensor(0.25), Fraction(1, 4), Decimal("0.25")],
)
def test_numbers_of_any_type_are_floats(value):
    found = real("x", value)
    assert (type(found), found) == (float, 0.25)
    with pytest.raises(ConfigError, match="`x` is a whole number of rows, got"):
        whole("x", value, of="rows")


NO_NUMBERS: list[Any] = [
    True, False, np.True_, torch.tensor(True), np.array(True), "7", b"7", None, [7], (7,), {}, 7j, np.array([1, 2]),
    np.array([0.5]), torch.tensor([0.5, 0.5]), int, math.nan, np.nan, np.float32("nan"), torch.tensor(math.nan),
    math.inf, -math.inf, np.datetime64(7, "s"),
]  # fmt: skip


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
@pytest.mark.parametrize("convert", [whole, real])
def test_what_is_no_number_is_refused_by_name(value, convert):
    with pytest.raises(ConfigError, match=r"`lag` .*, got"):
        convert("lag", value)


def test_limits_are_named():
    counts: list[tuple[dict[str, Any], str]] = [
        ({"least": 1, "of": "rows"}, "`x` must be at least 1 row, got 0"),
        ({"least": 2, "of": "rows", "advice": "give more"}, "`x` must be at least 2 rows, got 0; give more"),
        ({"most": -1}, "`x` must be at most -1, got 0"),
    ]
    for given, said in counts:
        with pytest.raises(ConfigError, match=said):
            whole("x", 0, **given)
    numbers: list[tuple[dict[str, Any], str]] = [
        ({"least": 0.5}, "at least 0.5, got 0"),
        ({"above": 0, "of": "seconds"}, "above 0 seconds, got 0"),
    ]
    for kw, said in numbers:
        with pytest.raises(ConfigError, match=said):
            real("x", 0, **kw)
    assert real("x", math.inf, infinite=True) == math.inf


def test_switches_and_texts():
    assert [flag("x", value) for value in (True, np.False_, torch.tensor(True), np.array(False))] == [1, 0, 1, 0]
    for value in (1, 0, "false", "", None, 1.0, np.array([True]), np.int64(1)):
        with pytest.raises(ConfigError, match="`shuffle` is True or False, got"):
            flag("shuffle", value)
    assert type(text("x", np.str_("web"))) is str
    for value in (1, None, b"web"):
        with pytest.raises(ConfigError, match="`name` is a text"):
            text("name", value)


def test_a_tree_without_numpys_numbers_stays_the_same_object():
    for tree in ({"a": [1, 2.5, (3, "x")], 4: None}, [np.arange(3)], "web", 3):
        assert plain("x", tree) is tree
    assert repr(plain("x", {"a": (np.float64(0.5), [np.int32(2)]), np.int64(3): np.str_("b")})) == (
        "{'a': (0.5, [2]), 3: 'b'}"
    )
    with pytest.raises(ConfigError, match="`weights` has True in it"):
        plain("weights", {"web": [1, True]})


@dataclass(frozen=True)
class Record:
    """What `normalise_fields` normalises."""

    count: int = 1
    rate: float | None = None
    on: bool = False
    weights: Any = None

    def __post_init__(self) -> None:
        normalise_fields(self)


def test_fields_are_normalised_by_their_types():
    same = Record(count=3, rate=0.5, on=True, weights={"a": 1.5})
    other = Record(count=np.int64(3), rate=np.float64(0.5), on=np.True_, weights={"a": np.float64(1.5)})  # type: ignore[arg-type]
    assert repr(same) == repr(other)
    assert repr(Record(rate=2)) == "Record(count=1, rate=2, on=False, weights=None)"  # as it always was
    wrong: list[dict[str, Any]] = [{"count": True}, {"count": None}, {"count": 1.0}, {"rate": False}, {"on": 1}]
    wrong.append({"weights": [True]})
    for given in wrong:
        with pytest.raises(ConfigError, match=f"`Record {next(iter(given))}`"):
            Record(**given)


@pytest.mark.parametrize("value", [10**400, -(10**400), np.ma.masked, torch.ones((), device="meta")], ids=range(4))
def test_a_number_that_no_float_holds_is_refused_by_name(value):
    with pytest.raises(ConfigError, match="`proportion`"):
        ms.Stream(remote="x", proportion=value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ms.mixers.Static([1, 1]),
        lambda: ms.mixers.Static(None),
        lambda: ms.mixers.Schedule(None),
        lambda: ms.mixers.Schedule({0: [1, 2]}),
        lambda: ms.mixers.LMO(targets=1.0),
        lambda: ms.mixers.LMO(targets=np.array(1.0)),
        lambda: ms.mixers.Aioli(targets="abc"),
    ],
)
def test_what_is_no_mapping_of_numbers_is_refused_by_name(make):
    with pytest.raises(ConfigError, match=r"proportions|weights|targets"):
        make()
