"""Buffers: used again, and never under somebody's eyes."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from mixstream.loader.device import BufferPool

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


def test_a_view_of_numpy_keeps_its_buffer_too():
    pool = BufferPool()
    array = pool.empty(INT64, (4, 8))
    address = array.ctypes.data
    view = array.reshape(-1)[3:].view(np.uint8)[8:]
    del array
    assert pool.empty(INT64, (4, 8)).ctypes.data != address
    del view
    pool.empty(INT64, (4, 8))


def test_the_buffer_that_came_back_last_is_used_first():
    pool = BufferPool()
    first, second = pool.empty(INT64, (8,)), pool.empty(INT64, (8,))
    other, last = pool.empty(INT64, (999,)), second.ctypes.data
    del first, second, other
    assert pool.empty(INT64, (8,)).ctypes.data == last


def test_buffers_lie_at_lines_of_the_cache():
    assert all(BufferPool().empty(np.dtype(np.uint8), (size,)).ctypes.data % 64 == 0 for size in (1, 100, 1 << 16))


def test_no_more_buffers_are_kept_than_asked():
    pool = BufferPool(kept=2)
    arrays = [pool.empty(INT64, (1 << 21,)) for _ in range(5)]
    addresses = {array.ctypes.data for array in arrays}
    assert len(addresses) == 5
    arrays.clear()
    again = [pool.empty(INT64, (1 << 21,)) for _ in range(2)]
    assert {array.ctypes.data for array in again} <= addresses


def test_shape_and_dtype_are_as_asked_and_the_memory_is_writable():
    array = BufferPool().empty(np.dtype(np.float32), (3, 0, 2))
    assert (array.shape, array.dtype) == ((3, 0, 2), np.float32)
    array = BufferPool().empty(np.dtype(np.uint16), (5,))
    array[:] = 7
    assert array.tolist() == [7] * 5


def test_an_array_outlives_its_pool():
    for number in range(200):
        array = BufferPool().empty(INT64, (16, 1024))  # large enough to go back to the system at once
        array[:] = number
        gc.collect(0)
        other = np.full((16, 1024), -1)
        assert (array == number).all()
        del other


def test_buffers_may_come_back_in_any_thread():
    pool = BufferPool(kept=4)

    def use() -> None:
        for number in range(300):
            array = pool.empty(INT64, (8,))
            array[:] = number
            tensor = torch.from_numpy(array)
            del array
            assert (tensor == number).all()

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(use) for _ in range(4)]:
            done.result()
