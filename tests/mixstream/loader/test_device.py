"""Buffers: used again, and never under somebody's eyes."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from mixstream.loader.device import BufferPool, DeviceCopy

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


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@needs_gpu
def test_copies_to_the_gpu_are_complete_and_their_source_may_be_reused():
    copy, pool = DeviceCopy(torch.device("cuda")), BufferPool(pinned=True)
    for number in range(50):
        array = pool.empty(INT64, (64, 2048))
        array[:] = number
        moved = copy.send({"x": torch.from_numpy(array), "name": "kept on the host"})
        array[:] = -1
        copy.receive(moved)
        assert set(moved) == {"x"}
        assert moved["x"].is_cuda
        assert bool((moved["x"] == number).all())


@needs_gpu
def test_pinned_buffers_are_pinned():
    array = BufferPool(pinned=True).empty(INT64, (1024,))
    assert torch.from_numpy(array).is_pinned()
