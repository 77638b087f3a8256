from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import mixstream as ms
from mixstream.data.collate import batch_columns, collate_samples, widened
from mixstream.errors import ConfigError

INT64, UINT16 = np.dtype(np.int64), np.dtype(np.uint16)


def test_uint16_and_uint32_are_widened_and_nothing_else():
    names = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64"]
    changed = [name for name in names if widened(np.dtype(name)) != np.dtype(name)]
    assert changed == ["uint16", "uint32"]
    assert widened(UINT16) == INT64


@pytest.mark.parametrize(
    ("encodings", "dtype", "varies"),
    [
        (["ndarray:uint16:8"], np.int64, False),
        (["ndarray:int32:2,3"], np.int32, False),
        (["int"], np.int64, False),
        (["float32"], np.float32, False),
        (["ndarray:uint16:8", "ndarray:uint32:8"], np.int64, False),
        (["ndarray:float16:8", "ndarray:float32:8"], np.float32, False),
        (["ndarray:int32"], np.int32, True),
        (["ndarray:int32", "ndarray:int32:4"], np.int32, True),
    ],
)
def test_columns_that_can_be_gathered(encodings, dtype, varies):
    columns = batch_columns([{"x": encoding} for encoding in encodings], widen=True)
    assert columns is not None
    assert (columns["x"].dtype, columns["x"].varies) == (np.dtype(dtype), varies)


@pytest.mark.parametrize("face", ["Loader", "StreamingDataLoader"])
def test_a_column_of_integers_in_one_domain_and_floats_in_another_is_promoted_as_torch_does(tmp_path, face):
    for name, encoding in (("counts", "int64"), ("scores", "float32")):
        with ms.MDSWriter(columns={"x": f"ndarray:{encoding}:2"}, out=str(tmp_path / name)) as writer:
            for value in range(8):
                writer.write({"x": np.array([value, 1], encoding)})
    streams = [ms.Stream(remote=str(tmp_path / name)) for name in ("counts", "scores")]
    dataset = ms.StreamingDataset(streams=streams, batch_size=16, mixed_rows=True)
    loader: Any = ms.Loader(dataset) if face == "Loader" else ms.StreamingDataLoader(dataset, batch_size=16)
    (batch,) = loader
    assert batch["x"].dtype == torch.promote_types(torch.int64, torch.float32) == torch.float32
    assert batch["x"][:, 0].sort().values.tolist() == np.repeat(np.arange(8.0), 2).tolist()


def test_columns_stay_as_stored_where_asked():
    columns = batch_columns([{"x": "ndarray:uint16:8"}, {"x": "ndarray:uint32:8"}], widen=False)
    assert columns is not None
    assert columns["x"].dtype == np.uint32


@pytest.mark.parametrize(
    "records",
    [
        [],
        [{"x": "str"}],
        [{"x": "int", "y": "jpeg"}],
        [{"x": "json"}],
        [{"x": "ndarray"}],
        [{"x": "int"}, {"y": "int"}],
        [{"x": "int"}, {"x": "int", "y": "int"}],
        [{"x": "int"}, {"x": "str"}],
        [{"x": "ndarray:int64:2"}, {"x": "ndarray:float32:2"}],
        [{"x": "ndarray:uint8:2"}, {"x": "ndarray:float16:2"}],
    ],
)
def test_what_cannot_be_gathered_is_collated_sample_by_sample(records):
    assert batch_columns(records, widen=True) is None


def test_samples_collate_as_torch_does_but_for_widening():
    samples = [{"t": np.array([i, 65535], "u2"), "s": str(i), "n": np.uint32(2**32 - 1)} for i in range(2)]
    batch = collate_samples(samples)
    assert (batch["t"].dtype, batch["n"].dtype) == (torch.int64, torch.int64)
    assert (batch["t"].tolist(), batch["n"].tolist()) == ([[0, 65535], [1, 65535]], [2**32 - 1] * 2)
    assert batch["s"] == ["0", "1"]
    assert samples[0]["t"].dtype == UINT16  # the samples are left as they were
    assert collate_samples(samples, widen=False)["t"].dtype == torch.uint16


def test_samples_need_not_be_dicts():
    ids = np.array([1, 65535], dtype=np.uint16)
    assert collate_samples([torch.ones(2), torch.zeros(2)]).tolist() == [[1, 1], [0, 0]]
    assert collate_samples([torch.from_numpy(ids)] * 2).dtype == collate_samples([ids] * 2).dtype == torch.int64
    stacked, numbers = collate_samples([(ids, 1), (ids, 2)])
    assert (stacked.dtype, stacked.tolist(), numbers.tolist()) == (torch.int64, [ids.tolist()] * 2, [1, 2])
    assert collate_samples([(ids,), (ids,)], widen=False)[0].dtype == torch.uint16
    assert collate_samples([{"deep": {"ids": ids}}] * 2)["deep"]["ids"].dtype == torch.int64


@pytest.mark.parametrize(
    ("samples", "error", "fact"),
    [
        ([None, None], ConfigError, "of the types NoneType, which do not stack"),
        ([{"x": 1}, None], ConfigError, "of the types NoneType, dict, which"),
        ([None, torch.ones(1)], ConfigError, "of the types NoneType, Tensor, which"),
        ([{"x": 1}, (1,)], ConfigError, "of the types dict, tuple, which"),
        ([(1,), {"x": 1}], ConfigError, "of the types dict, tuple, which"),
        ([{"x": None}] * 2, TypeError, "in collating 2 rows of type dict"),
        ([object()] * 2, TypeError, "in collating 2 rows of type object"),
        ([torch.ones(1), torch.ones(2)], RuntimeError, "in collating 2 rows of type Tensor"),
        ([(1,), (1, 2)], RuntimeError, "in collating 2 rows of type tuple"),
    ],
)
def test_samples_that_do_not_stack_are_named_with_what_to_give(samples, error, fact):
    with pytest.raises(error) as caught:
        collate_samples(samples)
    text = " ".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert fact in text
    assert "return for every sample a dict (column -> value), a tensor" in text
    assert "or give a collate_fn" in text
