import json
import pickle
import struct
from contextlib import suppress
from decimal import Decimal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mixstream.errors import EncodingError, ShardCorruptError
from mixstream.formats import (
    fixed_array,
    get_mds_encoded_size,
    get_mds_encodings,
    is_mds_encoding,
    is_mds_encoding_safe,
    mds_decode,
    mds_encode,
    ndarray_dtype,
)

INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
FLOATS = ["float16", "float32", "float64"]
IMAGES = ["jpeg", "jpeg_array", "jpegarray", "list[jpeg]", "list[pil]", "list[png]", "pil", "png"]
OTHERS = ["bytes", "int", "json", "ndarray", "pkl", "str", "str_decimal", "str_float", "str_int"]

dtypes = st.sampled_from(INTEGERS + FLOATS)
shapes = hnp.array_shapes(min_dims=1, max_dims=5, min_side=1, max_side=7)
jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
arrays = st.tuples(dtypes, shapes).flatmap(lambda pair: hnp.arrays(*pair))
quick = settings(max_examples=100, deadline=None)


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def test_names():
    assert get_mds_encodings() == {*INTEGERS, *FLOATS, *IMAGES, *OTHERS}
    assert all(map(is_mds_encoding, get_mds_encodings()))


@pytest.mark.parametrize(
    "encoding",
    [
        "",
        "float128",
        "STR",
        "list[str]",
        "int32:4",
        "ndarray:bool",
        "ndarray:int32:",
        "ndarray:int32:0",
        "ndarray:int32:-1",
        "ndarray:int32:1.0",
        "ndarray:int32:2,,3",
        "ndarray:int32:2:3",
        "ndarray:int32:٣",
        "ndarray:int32:4294967295",
        pytest.param("ndarray:int32:" + "9" * 5000, id="dim of 5000 digits"),
        pytest.param("ndarray:uint8:" + ",".join("1" * 64), id="64 axes"),
    ],
)
def test_unknown_encoding_is_refused_and_the_known_are_named(encoding):
    assert not is_mds_encoding(encoding)
    assert fixed_array(encoding) is None
    assert ndarray_dtype(encoding) is None
    for call in (
        lambda: get_mds_encoded_size(encoding),
        lambda: mds_encode(encoding, 1),
        lambda: mds_decode(encoding, b""),
    ):
        with pytest.raises(EncodingError, match="str_decimal"):
            call()


def test_only_pickle_is_unsafe():
    assert {e for e in get_mds_encodings() if not is_mds_encoding_safe(e)} == {"pkl"}
    assert is_mds_encoding_safe("ndarray:int32")


@pytest.mark.parametrize(
    ("encoding", "size", "fixed", "dtype"),
    [
        ("int", 8, ("int64", ()), None),
        ("uint16", 2, ("uint16", ()), None),
        ("float64", 8, ("float64", ()), None),
        ("ndarray:uint16:2048", 4096, ("uint16", (2048,)), "uint16"),
        ("ndarray:float32:2, 3,4", 96, ("float32", (2, 3, 4)), "float32"),
        ("ndarray:int32", None, None, "int32"),
        ("ndarray", None, None, None),
        ("ndarray:", None, None, None),
        ("bytes", None, None, None),
        ("pkl", None, None, None),
        ("png", None, None, None),
    ],
)
def test_what_an_encoding_fixes(encoding, size, fixed, dtype):
    assert get_mds_encoded_size(encoding) == size
    assert fixed_array(encoding) == (None if fixed is None else (np.dtype(fixed[0]), fixed[1]))
    assert ndarray_dtype(encoding) == (None if dtype is None else np.dtype(dtype))


@quick
@given(arrays)
def test_arrays_round_trip_in_all_three_forms(value):
    name, dims = value.dtype.name, ",".join(map(str, value.shape))
    for encoding in ("ndarray", f"ndarray:{name}", f"ndarray:{name}:{dims}"):
        data = mds_encode(encoding, value)
        assert same(mds_decode(encoding, data), value)
        assert get_mds_encoded_size(encoding) in {None, len(data)}
    assert data == value.tobytes()


def test_token_row_bytes_are_those_of_the_specification():
    row = np.arange(2048, dtype=np.int32)
    assert mds_encode("ndarray:int32", row) == b"\x05" + struct.pack("<H", 2048) + row.tobytes()
    assert mds_encode("ndarray", row) == b"\x21\x05" + struct.pack("<H", 2048) + row.tobytes()


@pytest.mark.parametrize(
    ("side", "head"), [(255, b"\x04\xff"), (256, b"\x05\x00\x01"), (65536, b"\x06\x00\x00\x01\x00")]
)
def test_dims_take_the_smallest_width(side, head):
    assert mds_encode("ndarray:uint8", np.zeros(side, np.uint8))[: len(head)] == head


def test_order_and_byte_order_of_the_source_do_not_matter():
    value = np.arange(12, dtype=np.int32).reshape(3, 4)
    expected = mds_encode("ndarray:int32", value)
    assert mds_encode("ndarray:int32", np.asfortranarray(value)) == expected
    assert mds_encode("ndarray:int32", value.astype(">i4")) == expected
    assert mds_encode("ndarray:int32", np.repeat(value, 2, axis=0)[::2]) == expected


@pytest.mark.parametrize("encoding", ["ndarray", "ndarray:int32", "ndarray:int32:3"])
def test_decoded_arrays_are_our_own_writable_and_aligned(encoding):
    data = bytearray(mds_encode(encoding, np.array([1, 2, 3], np.int32)))
    value = mds_decode(encoding, data)
    data[:] = bytes(len(data))
    value += 1
    assert value.tolist() == [2, 3, 4]
    assert value.flags.aligned
    assert torch.from_numpy(value).tolist() == [2, 3, 4]  # warns, hence fails, where the array is read-only


@pytest.mark.parametrize(
    ("encoding", "value", "word"),
    [
        ("ndarray", [1, 2], "list"),
        ("ndarray", torch.zeros(2), "Tensor"),
        ("ndarray", np.zeros(2, bool), "bool"),
        ("ndarray", np.zeros(2, complex), "complex128"),
        ("ndarray", np.array(["a"]), "str"),
        ("ndarray", np.zeros(()), "scalar"),
        ("ndarray", np.zeros((2, 0)), r"\(2, 0\)"),
        ("ndarray:int32", np.zeros(2, np.int64), "int64.*int32"),
        ("ndarray:int32:3", np.zeros(2, np.int32), r"\(2,\).*\(3,\)"),
        ("ndarray:int32:3", np.zeros((3, 1), np.int32), r"\(3, 1\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(encoding, value, word):
    with pytest.raises(EncodingError, match=f"{encoding}.*{word}"):
        mds_encode(encoding, value)


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("ndarray", b""),
        ("ndarray", b"\x20"),
        ("ndarray", b"\x07\x04\x01\x00"),
        ("ndarray:int32", b"\x05\x01"),
        ("ndarray:int32", b"\x00\x01\x00\x00\x00"),
        ("ndarray:int32", b"\x04\x00"),
        ("ndarray:int32", b"\x04\x02" + bytes(4)),
        ("ndarray:int32", b"\x04\x01" + bytes(5)),
        ("ndarray:uint8", b"\xff" + b"\xff" * 8 * 63),
        ("ndarray:uint8", b"\x07" + b"\xff" * 8 + b"x"),
        ("ndarray:int32:2", bytes(7)),
        ("ndarray:int32:2", b""),
        ("int", bytes(7)),
        ("uint16", bytes(3)),
        ("float64", b""),
        ("str", b"\xff"),
        ("str_int", b"1.5"),
        pytest.param("str_int", b"1" * 10_000, id="10000 digits"),
        ("str_float", b"one"),
        ("str_decimal", b"one"),
        ("json", b"{"),
        pytest.param("json", b"[" * 100_000, id="deep"),
        ("json", b"\xff"),
        ("pkl", b""),
        ("pkl", b"\x80\x04K"),
    ],
)
def test_damaged_values_are_refused(encoding, data):
    with pytest.raises(ShardCorruptError, match=encoding):
        mds_decode(encoding, data)


@quick
@given(
    st.sampled_from(["ndarray", "ndarray:int32", "ndarray:uint8", "json", "str", "str_int", "str_decimal"]), st.binary()
)
def test_any_bytes_give_a_value_or_our_error(encoding, data):
    with suppress(ShardCorruptError):
        mds_decode(encoding, data)


@quick
@given(st.data(), dtypes)
def test_scalars_round_trip_as_numpy_scalars(data, dtype):
    value = data.draw(hnp.from_dtype(np.dtype(dtype)))
    decoded = mds_decode(dtype, mds_encode(dtype, value))
    assert type(decoded) is type(value)
    assert decoded.tobytes() == value.tobytes()


@quick
@given(st.integers(-(2**63), 2**63 - 1))
def test_int_round_trips_as_int(value):
    data = mds_encode("int", value)
    assert data == struct.pack("<q", value)
    assert mds_decode("int", data) == value
    assert type(mds_decode("int", data)) is int


def test_numbers_are_taken_where_they_fit():
    assert mds_encode("int", np.int32(-5)) == mds_encode("int", -5)
    assert mds_encode("uint8", 255) == b"\xff"
    assert mds_encode("uint8", 3.0) == b"\x03"
    assert mds_encode("int16", torch.tensor(7)) == b"\x07\x00"
    assert np.isposinf(mds_decode("float16", mds_encode("float16", float("inf"))))
    assert np.isnan(mds_decode("float32", mds_encode("float32", float("nan"))))


@pytest.mark.parametrize(
    ("encoding", "value"),
    [
        ("int", 2**63),
        ("int", 1.0),
        ("int", "1"),
        ("uint8", -1),
        ("uint8", 256),
        ("uint8", np.int64(256)),
        ("int8", 3.7),
        ("int32", float("nan")),
        ("int32", None),
        ("int32", [1]),
        ("int32", np.zeros(1, np.int32)),
        ("float16", 1e6),
        ("float32", 1e39),
        ("float32", "a"),
        ("str", 5),
        pytest.param("str", "\ud800", id="surrogate"),
        ("str_int", 1.5),
        pytest.param("str_int", 10**5000, id="5000 digits"),
        ("str_float", 1),
        ("str_decimal", 1.5),
        ("bytes", "text"),
        ("json", {1, 2}),
        ("json", object()),
        ("pkl", lambda: 0),
    ],
)
def test_values_that_do_not_fit_are_refused(encoding, value):
    with pytest.raises(EncodingError, match=encoding):
        mds_encode(encoding, value)
    with pytest.raises(TypeError):  # the builtin that a caller would catch
        mds_encode(encoding, value)


@quick
@given(
    st.text(),
    st.binary(),
    jsons,
    st.integers(-(10**60), 10**60),
    st.floats(allow_nan=False),
    st.decimals(allow_nan=False),
)
def test_texts_bytes_and_json_round_trip(text, data, value, integer, number, decimal):
    assert mds_encode("str", text) == text.encode()
    assert mds_decode("str", text.encode()) == text
    assert mds_decode("bytes", mds_encode("bytes", bytearray(data))) == data
    assert mds_encode("json", value) == json.dumps(value).encode()
    assert mds_decode("json", mds_encode("json", value)) == value
    assert mds_decode("str_int", mds_encode("str_int", integer)) == integer
    assert mds_decode("str_float", mds_encode("str_float", number)) == number
    assert mds_decode("str_decimal", mds_encode("str_decimal", decimal)) == decimal


def test_json_takes_arrays_as_lists():
    assert mds_encode("json", np.arange(3)) == b"[0, 1, 2]"


def test_pickle_round_trips():
    value = {"a": [1, (2.5, None)], "d": Decimal("0.1")}
    assert mds_encode("pkl", value) == pickle.dumps(value)
    assert mds_decode("pkl", mds_encode("pkl", value)) == value


@pytest.mark.parametrize("encoding", sorted(get_mds_encodings()))
def test_bytes_pass_unchanged_under_every_encoding(encoding):
    data = b"already encoded"
    assert mds_encode(encoding, data) is data


def test_decoding_takes_any_buffer():
    data = mds_encode("ndarray", np.arange(3))
    for buffer in (data, bytearray(data), memoryview(data)):
        assert mds_decode("ndarray", buffer).tolist() == [0, 1, 2]
    assert mds_decode("bytes", memoryview(b"abc")) == b"abc"
    assert type(mds_decode("bytes", memoryview(b"abc"))) is bytes
