"""The form of the state of a user's mixer without `check`: what differs from its first state is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mixstream.errors import StateError
from mixstream.mixers.form import Part, check_alike

FIRST: dict[str, Any] = {
    "weights_K": np.array([0.25, 0.75]),
    "seen_K": np.array([0, 0]),
    "history_TK": np.zeros((3, 2)),
    "losses": [1.0, 2],
    "names": ["a", "b", "c"],
    "inner": {"rate": 0.5, "step": 0, "is_warm": False, "law": "power"},
    "nothing": None,
}


def changed(**changes: Any) -> dict[str, Any]:
    return {**FIRST, **changes}


def inner(**changes: Any) -> dict[str, Any]:
    return changed(inner={**FIRST["inner"], **changes})


@pytest.mark.parametrize(
    "state",
    [
        FIRST,
        changed(more=1),
        changed(weights_K=np.array([np.nan, np.inf], dtype=np.float32)),
        changed(seen_K=np.array([7, 9], dtype=np.int32)),
        changed(history_TK=np.ones((9, 2))),
        changed(losses=[0, -1.5]),
        changed(names=[]),
        changed(nothing={"now": 1}),
        inner(rate=1),
        inner(step=np.int64(3)),
        inner(is_warm=True),
    ],
)
def test_states_of_the_same_form_are_taken(state: Any) -> None:
    check_alike(state, FIRST, 2)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (None, "its content is None, and has to be a table"),
        ([FIRST], "has to be a table"),
        ({key: value for key, value in FIRST.items() if key != "seen_K"}, "it has no seen_K"),
        (changed(inner={"rate": 0.5}), "it has no inner.step"),
        (changed(inner=3), "its inner is 3, and has to be a table"),
        (changed(weights_K=[0.25, 0.75]), "its weights_K is .*has to be an array of float64"),
        (changed(weights_K=np.array([1, 2])), "has to be an array of float64"),
        (changed(weights_K=np.array([0.2, 0.3, 0.5])), r"float64 \[3\] .*has to be a float64 array \[2\]"),
        (changed(weights_K=np.ones((1, 2))), r"has to be a float64 array \[2\]"),
        (changed(seen_K=np.array([0.0, 1.0])), "its seen_K is .*has to be an array of int64"),
        (changed(history_TK=np.zeros((3, 3))), r"its history_TK is .*has to be a float64 array \[any, 2\]"),
        (changed(history_TK=np.zeros(2)), r"has to be a float64 array \[any, 2\]"),
        (changed(losses=[1.0]), "its losses is .*has to be a list of 2 numbers"),
        (changed(losses=[1.0, "2"]), "has to be a list of 2 numbers"),
        (changed(losses=[1.0, True]), "has to be a list of 2 numbers"),
        (changed(losses=3), "has to be a list of 2 numbers"),
        (changed(names="abc"), "its names is 'abc', and has to be a list;"),
        (inner(rate="0.5"), "its inner.rate is '0.5', and has to be a number"),
        (inner(step=True), "its inner.step is True, and has to be a number"),
        (inner(step=None), "has to be a number"),
        (inner(is_warm=1), "its inner.is_warm is 1, and has to be a bool"),
        (inner(law=2), "its inner.law is 2, and has to be a str"),
    ],
)
def test_a_part_of_another_form_is_refused_by_name(state: Any, words: str) -> None:
    with pytest.raises(StateError, match=words):
        check_alike(state, FIRST, 2)


@pytest.mark.parametrize(
    ("value", "ask", "words"),
    [
        (3, lambda part: part["x"], "its m is 3, and has to be a table"),
        (3, lambda part: part.keys({"x"}), "has to be a table"),
        ({"x": 1, "z": 2}, lambda part: part.keys({"x"}, {"y"}), r"has to be a table of \['x'\]"),
        ({"y": 1}, lambda part: part.keys({"x"}, {"y"}), r"has to be a table of \['x'\]"),
        (True, lambda part: part.whole(least=0), "whole number of at least 0"),
        (1.0, lambda part: part.whole(least=0), "whole number of at least 0"),
        (5, lambda part: part.whole(least=0, most=4), "at least 0 and at most 4"),
        (float("nan"), lambda part: part.number(least=0, most=1), "a number from 0 to 1"),
        (1.5, lambda part: part.number(least=0, most=1), "a number from 0 to 1"),
        (False, lambda part: part.number(least=0, most=1), "a number from 0 to 1"),
        (np.array([0.5, np.nan]), lambda part: part.array(2), "finite numbers;"),
        (np.array([0.5, np.inf]), lambda part: part.array(2, unknown=True), "finite numbers or NaN;"),
        (np.array([0.5, -0.1]), lambda part: part.array(2, least=0, most=1), "finite numbers from 0 to 1;"),
        (np.array([0.5, 0.4]), lambda part: part.simplex(2), "weights that sum to 1"),
        (np.array([0.5, 0.5]), lambda part: part.simplex(2, within=np.array([1, 0])), "0 for domains that are left"),
        (np.array([0.5, 0.5]), lambda part: part.prior(np.array([3.0, 1.0])), r"the prior of the run, \[0.75, 0.25\]"),
        (np.array([0.01, 0.99]), lambda part: part.prior(np.array([0.0, 1.0])), r"the prior of the run, \[0.0, 1.0\]"),
    ],
)
def test_a_part_says_what_it_has_to_be(value: Any, ask: Any, words: str) -> None:
    with pytest.raises(StateError, match=words):
        ask(Part(value, "m"))


def test_parts_that_fit_are_returned() -> None:
    assert Part({"x": 1, "y": 2}).keys({"x"}, {"y", "z"}) == {"x", "y"}
    assert Part(4).whole(least=0, most=4) == 4
    assert Part(1).number(least=0, most=1) == 1.0
    assert Part(np.array([0.74, 0.26])).prior(np.array([3.0, 1.0])).tolist() == [0.74, 0.26]
    assert Part(np.array([0.5, 0.5])).prior(None).tolist() == [0.5, 0.5]
