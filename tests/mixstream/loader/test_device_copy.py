"""Copies to a GPU: whole, in order, and of memory that nobody has changed meanwhile.

Most tests run on a simulated GPU that copies as late as CUDA allows (`fake_gpu`); the last ones need a real one.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from fake_gpu import DEVICE, FakeGpu, OnGpu, fake_gpu
from harness import SIZES, drive, loaders_of, make_dataset, row_ids, streams, write_tokens

import mixstream as ms
from mixstream.loader.device import BufferPool, DeviceCopy, deliver

INT64, UINT16 = np.dtype(np.int64), np.dtype(np.uint16)
MANY = 40


@pytest.fixture
def gpu() -> Iterator[FakeGpu]:
    with fake_gpu() as simulated:
        yield simulated


def batches_of(loader: ms.Loader, number: int) -> list[Any]:
    """Return the next batches, over the end of epochs."""
    return list(itertools.islice(itertools.chain.from_iterable(loader for _ in range(number)), number))


def values(batch: Any) -> dict[str, Any]:
    """Return column -> (dtype, values); and the step."""
    found = {name: (column.dtype, column.tolist()) for name, column in batch.items() if hasattr(column, "tolist")}
    return {**found, "step": batch.step, "of": batch.domain.tolist(), "rows": batch.repeats}


# --- memory that a copy reads -----------------------------------------------------------------------------------------


def test_buffers_are_used_again_only_when_their_copies_are_complete(gpu):
    pool, copy = BufferPool(pinned=True), DeviceCopy(DEVICE, in_flight=2)
    sent = []
    for number in range(MANY):
        array = pool.empty(INT64, (4, 8))
        array[:] = number
        sent.append(copy.send({"x": torch.from_numpy(array)}))
        del array
    assert [int(copy.receive(each)["x"].unique()) for each in sent] == list(range(MANY))
    assert len(gpu.pinned) == 3  # those of two copies, and the one that is being filled


def test_a_batch_that_is_dropped_keeps_its_buffer_until_its_copy_is_complete(gpu):
    pool, copy = BufferPool(pinned=True), DeviceCopy(DEVICE, in_flight=2)
    array = pool.empty(INT64, (8,))
    address = array.ctypes.data
    copy.send({"x": torch.from_numpy(array)})
    del array
    other = pool.empty(INT64, (8,))
    assert other.ctypes.data != address
    gpu.events[0].synchronize()
    for _ in range(2):
        copy.send({})
    again = pool.empty(INT64, (8,))
    assert again.ctypes.data == address


def test_memory_of_others_is_copied_when_send_returns(gpu):
    copy, own = DeviceCopy(DEVICE), torch.empty(8, dtype=torch.int64, pin_memory=True)
    sent = []
    for number in range(4):
        own[:] = number  # a collate_fn that uses its tensor again
        sent.append(copy.send(own))
    assert [copy.receive(each).tolist() for each in sent] == [[number] * 8 for number in range(4)]


def test_threads_may_send_at_the_same_time(gpu):
    copy = DeviceCopy(DEVICE, in_flight=2)
    wrong: list[int] = []

    def run(first: int) -> None:
        pool = BufferPool(pinned=True)
        for number in range(first, first + 50):
            array = pool.empty(INT64, (16,))
            array[:] = number
            wrong.extend({*copy.receive(copy.send(torch.from_numpy(array))).tolist()} - {number})

    threads = [threading.Thread(target=run, args=(1000 * k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- what the trainer has ---------------------------------------------------------------------------------------------


def test_all_tensors_belong_to_the_streams_that_use_them(gpu):
    copy, trainer = DeviceCopy(DEVICE), gpu.stream()
    batch = ms.Batch({"x": torch.ones(2), "parts": [torch.ones(2), {"y": torch.ones(1)}], "name": ["a", "b"]})
    sent = copy.send(batch)
    with torch.cuda.stream(trainer):
        moved = copy.receive(sent)
    tensors = [moved["x"], moved["parts"][0], moved["parts"][1]["y"]]
    assert all(isinstance(each, OnGpu) and each.used_by == {trainer} for each in tensors)
    assert moved["name"] == ["a", "b"]
    assert isinstance(moved, ms.Batch)


def test_copies_run_beside_the_trainer_and_the_trainer_has_whole_batches(gpu):
    copy, pool = DeviceCopy(DEVICE, in_flight=2), BufferPool(pinned=True)
    source = torch.from_numpy(pool.empty(INT64, (8,)))
    source[:] = 7
    sent = copy.send({"x": source})
    assert not sent.complete.query()
    assert not gpu.default.end  # nothing was queued there
    assert copy.receive(sent)["x"].tolist() == [7] * 8


def test_unsigned_numbers_are_widened_on_the_device(gpu):
    copy = DeviceCopy(DEVICE, widen=True)
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16)
    large = torch.tensor([0, 1 << 31, (1 << 32) - 1]).to(torch.uint32)
    batch = {"a": every, "b": large, "c": torch.tensor([1.5]), "d": torch.tensor([-1], dtype=torch.int16)}
    moved = copy.receive(copy.send(batch))
    assert [column.dtype for column in moved.values()] == [torch.int64, torch.int64, torch.float32, torch.int16]
    assert moved["a"].tolist() == list(range(1 << 16))
    assert moved["b"].tolist() == [0, 1 << 31, (1 << 32) - 1]
    assert gpu.received == [2 << 16, 12, 4, 2]
    unchanged = DeviceCopy(DEVICE)
    assert unchanged.receive(unchanged.send(every)).dtype == torch.uint16


def test_other_devices_need_no_copies_of_ours():
    moved = deliver({"x": torch.ones(2)}, device=torch.device("meta"), copy=None)
    assert moved["x"].device.type == "meta"


# --- a loader ---------------------------------------------------------------------------------------------------------


def add_one(batch: ms.Batch) -> ms.Batch:
    assert batch["tokens"].dtype == torch.int64  # as on the CPU
    batch["tokens"] += 1
    return batch


def stacked(samples: list[dict[str, Any]]) -> dict[str, Any]:
    return {"tokens": torch.stack([torch.from_numpy(sample["tokens"]) for sample in samples])}  # uint16 stays


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "as stored": {"widen": False},
    "not ahead": {"prefetch": 0},
    "far ahead": {"prefetch": 9},
    "transforms": {"transforms": [add_one]},
    "collate_fn": {"collate_fn": stacked},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_batches_are_those_of_the_cpu(gpu, library, name):
    with ms.Loader(make_dataset(library), **OPTIONS[name]) as loader:
        expected = [values(batch) for batch in batches_of(loader, MANY)]
    with ms.Loader(make_dataset(library), device="cuda", **OPTIONS[name]) as loader:
        found = batches_of(loader, MANY)
        assert all(isinstance(batch["domain"], OnGpu) for batch in found)
        assert [values(batch) for batch in found] == expected


def test_batches_with_documents_are_those_of_the_cpu(gpu, tmp_path):
    rng = np.random.default_rng(0)
    with ms.MDSWriter(columns={"tokens": "ndarray:uint16:32"}, out=str(tmp_path)) as writer:
        for _ in range(40):
            writer.write({"tokens": rng.integers(0, 6, 32).astype(np.uint16)})

    def read(**options: Any) -> list[dict[str, Any]]:
        stream = ms.Stream(local=str(tmp_path), eos_id=0)
        dataset = ms.StreamingDataset(streams=[stream], batch_size=4, shuffle=True)
        with ms.Loader(dataset, documents=True, **options) as loader:
            return [{**values(batch), "longest": batch["max_seqlen"]} for batch in batches_of(loader, 20)]

    assert read(device="cuda") == read()


def test_tokens_cross_the_bus_as_they_are_stored(gpu, library):
    with ms.Loader(make_dataset(library), device="cuda", prefetch=0) as loader:
        batch = next(iter(loader))
    assert batch["tokens"].dtype == torch.int64
    assert sorted(gpu.received) == [8 * 8, 2 * batch["tokens"].numel()]  # the rows' domains, the tokens


def test_columns_that_widen_to_another_type_are_widened_on_the_host(gpu, tmp_path):
    for name, encoding in (("web", "uint16"), ("code", "int8")):  # as stored they have int32 in common
        write_tokens(tmp_path / name, range(60), encoding=encoding)
    for name, encoding in (("law", "uint16"), ("art", "uint32")):
        write_tokens(tmp_path / name, range(60), encoding=encoding)

    def read(names: tuple[str, str], **options: Any) -> list[Any]:
        dataset = ms.StreamingDataset(streams=streams(tmp_path, names), batch_size=8, shuffle=True)
        with ms.Loader(dataset, **options) as loader:
            return [values(batch) for batch in batches_of(loader, 20)]

    for names in (("web", "code"), ("law", "art")):
        assert read(names, device="cuda") == read(names)


def test_samples_that_are_read_one_by_one_are_the_same(gpu, tmp_path):
    with ms.MDSWriter(columns={"tokens": "ndarray:uint16", "name": "str"}, out=str(tmp_path)) as writer:
        for number in range(32):
            writer.write({"tokens": np.full(3, number, np.uint16), "name": f"row {number}"})

    def read(**options: Any) -> list[Any]:
        with ms.Loader(ms.StreamingDataset(local=str(tmp_path), batch_size=4), **options) as loader:
            return [(values(batch), batch["name"]) for batch in batches_of(loader, 16)]

    assert read(device="cuda") == read()


def test_a_collate_fn_may_use_its_memory_again(gpu, library):
    own = torch.empty(8, 8, dtype=torch.int64, pin_memory=True)

    def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
        for row, sample in zip(own, samples):
            row[:] = torch.from_numpy(sample["tokens"].astype(np.int64))
        return {"tokens": own}

    with ms.Loader(make_dataset(library)) as loader:
        expected = [row_ids(batch) for batch in batches_of(loader, MANY)]
    with ms.Loader(make_dataset(library), device="cuda", collate_fn=collate) as loader:
        assert [row_ids(batch) for batch in batches_of(loader, MANY)] == expected


def test_closing_with_copies_in_flight_loses_nothing(gpu, library):
    with loaders_of(library) as loaders:
        expected = drive(loaders, 24)
    with ms.Loader(make_dataset(library), device="cuda", prefetch=3) as loader:
        found = []
        for _ in range(12):
            found += drive([loader], 2)
            loader.close()  # drops what is made ahead, whose copies nobody has waited for
        assert found == expected


def test_a_failed_copy_is_raised_at_its_own_batch_which_counts_as_not_read(gpu, library):
    gpu.fails[2 * 3] = RuntimeError("CUDA error: unspecified launch failure")  # each batch is copied as two tensors
    with ms.Loader(make_dataset(library), device="cuda", prefetch=2) as loader:
        assert len(batches_of(loader, 3)) == 3
        with pytest.raises(RuntimeError, match="unspecified launch failure"):
            next(iter(loader))
        assert loader.step == 3


def test_memory_that_the_device_does_not_have_is_missed_at_its_own_batch(gpu, library):
    with loaders_of(library) as loaders:
        expected = drive(loaders, 8)
    gpu.fails[2 * 3 + 1] = MemoryError("CUDA out of memory")
    with ms.Loader(make_dataset(library), device="cuda", prefetch=2) as loader:
        found = drive([loader], 3)
        with pytest.raises(MemoryError):
            next(iter(loader))
        assert found + drive([loader], 5) == expected  # the next attempt


# --- a real GPU -------------------------------------------------------------------------------------------------------

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@needs_gpu
def test_pinned_buffers_are_pinned():
    array = BufferPool(pinned=True).empty(INT64, (1024,))
    assert torch.from_numpy(array).is_pinned()


@needs_gpu
@pytest.mark.parametrize("name", OPTIONS)
def test_batches_on_a_gpu_are_those_of_the_cpu(tmp_path, name):
    """Rows of 4096 tokens, in buffers that are used again at once, while kernels keep the device busy."""
    for number, size in enumerate(SIZES.values()):
        with ms.MDSWriter(columns={"tokens": "ndarray:uint16:4096"}, out=str(tmp_path / str(number))) as writer:
            for row in range(size):
                writer.write({"tokens": (np.arange(4096) * (row + 1) + number).astype(np.uint16)})

    def dataset() -> ms.StreamingDataset:
        return ms.StreamingDataset(streams=streams(tmp_path, ("0", "1", "2")), batch_size=32, shuffle=True)

    busy = torch.randn(2048, 2048, device="cuda") / 64
    with ms.Loader(dataset(), **OPTIONS[name]) as expected, ms.Loader(dataset(), device="cuda", **OPTIONS[name]) as got:
        same = torch.ones((), dtype=torch.bool, device="cuda")
        for host in batches_of(expected, 200):
            batch = batches_of(got, 1)[0]
            for _ in range(3):
                busy = busy @ busy / busy.norm()
            for column in host:
                assert batch[column].dtype == host[column].dtype
                kept = batch[column].clone()  # queued behind the products, when the batch is deleted
                same &= (kept.to(torch.int64) == host[column].to("cuda").to(torch.int64)).all()
            del batch
        assert bool(same)


@needs_gpu
def test_a_real_copy_is_complete_when_it_is_received_and_its_source_may_be_written():
    copy, pool = DeviceCopy(torch.device("cuda"), widen=True, in_flight=2), BufferPool(pinned=True)
    sent = []
    for number in range(200):
        array = pool.empty(UINT16, (64, 65536))
        array[:] = number
        sent.append((number, copy.send({"x": torch.from_numpy(array)})))
        del array
        if len(sent) == 4:
            for expected, each in sent:
                moved = copy.receive(each)["x"]
                assert moved.dtype == torch.int64
                assert bool((moved == expected).all())
            sent.clear()
