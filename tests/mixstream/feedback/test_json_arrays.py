"""What a mixer remembers comes back from JSON bit for bit."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mixstream.errors import MixstreamError, StateError
from mixstream.feedback.json_arrays import from_json, to_json

DTYPES = ("bool", "int8", "int32", "int64", "uint16", "uint64", "float16", "float32", "float64")
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
TREES = st.recursive(PLAIN | ARRAYS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


def through_json(value: Any) -> Any:
    return from_json(json.loads(json.dumps(to_json(value), allow_nan=False)))


def same(left: Any, right: Any) -> bool:
    """Tell whether two trees are equal to the bit, types and NaN's payloads among it."""
    if isinstance(left, np.ndarray):
        return (
            isinstance(right, np.ndarray)
            and left.dtype == right.dtype
            and left.shape == right.shape
            and left.tobytes() == right.tobytes()
        )
    if isinstance(left, dict):
        return isinstance(right, dict) and list(left) == list(right) and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list):
        return isinstance(right, list) and len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and left == right


@given(TREES)
def test_every_tree_comes_back_bit_for_bit(tree):
    assert same(tree, through_json(tree))


def test_no_bit_of_a_float_is_lost():
    values = np.array([math.nan, -math.nan, math.inf, -math.inf, -0.0, 5e-324, 0.1, 1 / 3, 1.7976931348623157e308])
    assert same(values, through_json(values))
    payload = np.array([0x7FF8_DEAD_BEEF_0001], dtype=np.uint64).view(np.float64)
    assert same(payload, through_json(payload))
    assert through_json(0.1 + 0.2) == 0.1 + 0.2


def test_views_and_foreign_byte_orders_come_back_as_plain_arrays():
    matrix = np.arange(12, dtype=np.float64).reshape(3, 4)
    for array in (matrix.T, matrix[::2, ::-1], matrix.astype(">f8"), np.asfortranarray(matrix)):
        back = through_json(array)
        assert back.tolist() == array.tolist()
        assert back.dtype == np.float64
        assert back.flags.writeable
        assert back.flags.c_contiguous


def test_numpy_numbers_and_tuples_become_plain_ones():
    assert same(through_json({"n": np.int64(3), "x": np.float64(0.1)}), {"n": 3, "x": 0.1})
    assert same(through_json((1, (2, np.zeros(0)))), [1, [2, np.zeros(0)]])


def test_packing_changes_nothing_in_place():
    array = np.array([1.0, 2.0])
    tree = {"a": array, "b": [array]}
    packed = to_json(tree)
    assert tree["a"] is array
    from_json(packed)["a"][0] = 7
    assert through_json(packed)["a"].tolist() == [1.0, 2.0]
    assert array.tolist() == [1.0, 2.0]


def packed(**changes: Any) -> dict[str, Any]:
    return {**to_json(np.array([1.0, 2.0])), **changes}


@pytest.mark.parametrize(
    "damaged",
    [
        packed(base64="AAAA"),
        packed(base64="not base64!"),
        packed(base64="é"),
        packed(base64=None),
        packed(shape=[3]),
        packed(shape=[-2, -1]),
        packed(shape=["two"]),
        packed(shape=None),
        packed(shape=2),
        packed(dtype="float99"),
        packed(dtype="|O"),
        packed(dtype="<U8"),
        packed(dtype="V16", shape=[1]),
        packed(dtype=None, shape=None),
        packed(dtype="f8,f8", shape=[1]),
    ],
    ids=str,
)
def test_a_damaged_array_is_a_state_error(damaged):
    with pytest.raises(StateError, match=r"damaged .* load an older checkpoint") as caught:
        from_json({"mixer": [damaged]})
    assert isinstance(caught.value, MixstreamError | ValueError)


def test_a_mapping_that_only_looks_alike_is_left_alone():
    assert from_json({"dtype": 1, "shape": 2}) == {"dtype": 1, "shape": 2}
    assert from_json({"dtype": 1, "shape": 2, "base64": 3, "more": 4}) == {
        "dtype": 1,
        "shape": 2,
        "base64": 3,
        "more": 4,
    }
