"""Batches that a DataLoader worker makes in memory that the trainer's process has mapped too.

torch hands each batch over in new shared memory: both processes take a page fault for every page, and a descriptor goes
through a socket. Here a worker has a ring of slots in one anonymous file (`memfd_create`: no name, gone with the last
process that has it) and introduces it to the trainer's process once; after that, a message says which slot a batch is
in. The trainer's process gives a slot back when the last tensor over it is deleted, however long that takes: the worker
uses another one meanwhile, or torch's way if all are taken.

A forked child of the trainer's process has the batches that its parent has, and does not say when it is done with them.
So slots that are in use when a process forks are never used again.

Workers begin without compiled loops. Where new ones are started for each epoch, the trainer's process loads numba when
it hears of the second ones, so that later ones have it when they are forked.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Mapping
from multiprocessing import active_children
from multiprocessing.reduction import DupFd, register
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray

from mixstream.data.row_blocks import SharedMemory
from mixstream.plan.compiled import load_for_children
from mixstream.types import UInt8

_SLOTS = 8  # a worker makes one batch, torch has prefetch_factor (2), and the trainer one or two
_HEAD, _KNOWN = mmap.PAGESIZE, _SLOTS  # of the file: a byte for each slot, and whether the other process has mapped it
_FREE, _TAKEN, _KEPT = 0, 1, 2
_ALIGN = 64


class Ring:
    """The slots of one worker, in the worker.

    Args:
        slot_bytes: bytes of a slot.
    """

    def __init__(self, slot_bytes: int) -> None:
        self.token, self.slot_bytes = uuid4().hex, -(-slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self._descriptor = os.memfd_create("mixstream-batches")
        weakref.finalize(self, os.close, self._descriptor)
        self.size = _HEAD + _SLOTS * self.slot_bytes
        os.ftruncate(self._descriptor, self.size)
        self.memory: UInt8 = np.frombuffer(mmap.mmap(self._descriptor, self.size), dtype=np.uint8)

    def take(self) -> int | None:
        """Take a slot; None if all are in use."""
        free = np.flatnonzero(self.memory[:_SLOTS] == _FREE)
        if not len(free):
            return None
        self.memory[free[0]] = _TAKEN
        return int(free[0])

    def give_back(self, number: int, owner: int) -> None:
        """Give back a slot that was taken in process `owner`."""
        if os.getpid() == owner:
            self.memory[number] = _FREE

    @property
    def worn(self) -> bool:
        """Whether most slots are never used again."""
        return int((self.memory[:_SLOTS] == _KEPT).sum()) > _SLOTS // 2

    def introduction(self) -> tuple[Any, int] | None:
        """Return the file and its size for the other process; None once that has mapped it."""
        return None if self.memory[_KNOWN] else (DupFd(self._descriptor), self.size)


class Slot:
    """A slot in which a worker makes a batch; columns that do not fit are in torch's shared memory.

    It is given back by `release()`, or when it is deleted before the batch was handed over.

    Args:
        ring: the worker's.
        number: of the slot.
    """

    def __init__(self, ring: Ring, number: int) -> None:
        self.ring, self.number = ring, number
        self.release = weakref.finalize(self, ring.give_back, number, os.getpid())  # unless the batch is handed over
        self.release.atexit = False
        self._begin = _HEAD + number * ring.slot_bytes
        self._used, self._other = 0, SharedMemory()

    def empty(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Return an uninitialised array in the slot."""
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if self._used + size > self.ring.slot_bytes:
            return self._other.empty(dtype, shape)
        begin = self._begin + self._used
        self._used += -(-size // _ALIGN) * _ALIGN
        return self.ring.memory[begin : begin + size].view(dtype).reshape(shape)

    def batch(self, arrays: Mapping[str, NDArray[Any]]) -> HandedBatch:
        """Return the batch of arrays that `empty` has returned."""
        first, places = self.ring.memory.ctypes.data + self._begin, []
        batch = HandedBatch()
        for name, array in arrays.items():
            at = array.ctypes.data - first
            inside = 0 <= at < self.ring.slot_bytes
            batch[name] = torch.from_numpy(array) if inside else self._other.of(array)
            places.append((name, at, array.dtype.str, array.shape) if inside else (name, batch[name]))
        batch.slot, batch.places = self, places
        return batch


class HandedBatch(dict[str, torch.Tensor]):
    """A batch in a slot: column -> tensor. The other process gets a plain dict."""

    slot: Slot
    places: list[Any]


class BatchSender:
    """Makes the ring of a worker, once it is known how large its batches are."""

    def __init__(self) -> None:
        self._ring: Ring | None = None
        self.batch_bytes = 0  # of the newest batch

    def slot(self) -> Slot | None:
        """Return a free slot; None if there is none, or the size of a batch is not known yet."""
        if not self.batch_bytes or not hasattr(os, "memfd_create"):
            return None
        ring = self._ring
        if ring is None or ring.worn or ring.slot_bytes < self.batch_bytes:
            try:
                ring = self._ring = Ring(self.batch_bytes)
            except OSError:  # a sandbox may forbid it; torch's way needs less
                return None
        return None if (number := ring.take()) is None else Slot(ring, number)

    def note(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Note the size of a batch."""
        self.batch_bytes = sum(-(-array.nbytes // _ALIGN) * _ALIGN for array in arrays.values())


class _MappedRing:
    """The slots of one worker, in the process that gets its batches."""

    def __init__(self, descriptor: int, size: int) -> None:
        try:
            self.memory: UInt8 = np.frombuffer(mmap.mmap(descriptor, size), dtype=np.uint8)
        finally:
            os.close(descriptor)
        self.slot_bytes, self._owner = (size - _HEAD) // _SLOTS, os.getpid()
        self._leased: set[int] = set()
        self._kept: set[int] = set()

    def lease(self, number: int) -> UInt8:
        """Return the bytes of a slot, which is given back when the array and all views of it are deleted."""
        begin = _HEAD + number * self.slot_bytes
        lease = _Lease(self.memory[begin : begin + self.slot_bytes])
        self._leased.add(number)
        weakref.finalize(lease, self._give_back, number).atexit = False
        return np.asarray(lease)

    def _give_back(self, number: int) -> None:
        if os.getpid() != self._owner:  # a lease that another thread made while this process was forking
            return
        self._leased.discard(number)
        if number not in self._kept:
            self.memory[number] = _FREE

    def keep_leased(self) -> None:
        """Let no slot that is in use be used again: a child process is about to have it too."""
        for number in list(self._leased):
            self._kept.add(number)
            self.memory[number] = _KEPT


class _Lease:
    """The base object of the arrays over one slot."""

    def __init__(self, memory: UInt8) -> None:
        self.__array_interface__ = memory.__array_interface__


class _Workers:
    """The workers that this process has heard of."""

    def __init__(self) -> None:
        self._here: set[int] = set()

    def see(self, worker: int) -> None:
        """Note a worker, and whether it stands for one that has ended."""
        if self._here and not any(child.pid in self._here for child in active_children()):
            self._here.clear()
            load_for_children()
        self._here.add(worker)


_workers = _Workers()
_mapped: weakref.WeakValueDictionary[str, _MappedRing] = weakref.WeakValueDictionary()
_of_worker: weakref.WeakKeyDictionary[Any, _MappedRing] = weakref.WeakKeyDictionary()  # as long as torch has the worker


def _received(
    token: str, worker: int, introduction: tuple[Any, int] | None, number: int, places: list[Any]
) -> dict[str, torch.Tensor]:
    """Return the batch in slot `number` of the ring `token` of the process `worker`."""
    ring = _mapped.get(token)
    if introduction is not None:
        descriptor = introduction[0].detach()
        if ring is None:
            ring = _MappedRing(descriptor, introduction[1])
            process = next((child for child in active_children() if child.pid == worker), None)
            if process is not None:  # else each of its batches comes with an introduction
                _workers.see(worker)
                _mapped[token] = _of_worker[process] = ring
                ring.memory[_KNOWN] = 1
        else:
            os.close(descriptor)
    if ring is None:
        raise RuntimeError(f"DataLoader worker {worker} sent a batch in memory that is not mapped here")
    slot, batch = ring.lease(number), {}
    for name, *place in places:
        if len(place) == 1:
            batch[name] = place[0]
            continue
        at, dtype, shape = place
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        batch[name] = torch.from_numpy(slot[at : at + size].view(dtype).reshape(shape))
    return batch


def _reduced(batch: HandedBatch) -> tuple[Any, ...]:
    ring = batch.slot.ring
    batch.slot.release.detach()
    return _received, (ring.token, os.getpid(), ring.introduction(), batch.slot.number, batch.places)


def _keep_leased() -> None:
    for ring in list(_mapped.values()):
        ring.keep_leased()


register(HandedBatch, _reduced)  # for queues between processes only; copied and pickled otherwise, it is a dict
os.register_at_fork(before=_keep_leased)
