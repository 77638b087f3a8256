"""Buffers: used again, and never under somebody's eyes."""

from __future__ import annotations

import numpy as np
import torch

from mixstream.device import BufferPool

INT64 = np.dtype(np.int64)


def test_a_buffer_comes_back_when_its_last_view_is_gone():
    pool = BufferPool()
    array = pool.empty(INT64, (4, 8))
    address = array.ctypes.data
    view = torch.from_numpy(array)[1:]
    del array
    other = pool.empty(INT64, (4, 8))
    assert other.ctypes.data != address  # a tensor still sees it
    del view
    assert pool.empty(INT64, (4, 8)).ctypes.data == address


def test_no_more_buffers_are_kept_than_asked():
    pool = BufferPool(kept=2)
    arrays = [pool.empty(INT64, (16,)) for _ in range(5)]
    addresses = {array.ctypes.data for array in arrays}
    assert len(addresses) == 5
    arrays.clear()
    again = [pool.empty(INT64, (16,)) for _ in range(2)]
    assert {array.ctypes.data for array in again} <= addresses


def test_shape_and_dtype_are_as_asked_and_the_memory_is_writable():
    array = BufferPool().empty(np.dtype(np.float32), (3, 0, 2))
    assert (array.shape, array.dtype) == ((3, 0, 2), np.float32)
    array = BufferPool().empty(np.dtype(np.uint16), (5,))
    array[:] = 7
    assert array.tolist() == [7] * 5
