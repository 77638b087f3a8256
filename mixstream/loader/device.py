"""Memory that batches are written to, and copies to the GPU.

Buffers are reused once nothing refers to them: a buffer returns to its pool when the last tensor over it is deleted. A
trainer may keep batches as long as it likes, and in the steady state nothing is allocated.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mixstream.data.batch import changed
from mixstream.data.collate import Column, widened
from mixstream.data.domains import Domains
from mixstream.metering import COPY, here
from mixstream.records import dataclass

IN_FLIGHT = 2
"""Copies that may run while the next batch is gathered: one keeps the bus busy, the second makes up for delays."""
_WIDENED = (torch.uint16, torch.uint32)

_Memory = Any  # a ctypes array of bytes, whose length is its size
_SMALL = 1 << 25  # bytes
_LINE, _PAGE = 64, 4096  # bytes of a line of a processor's cache, and of a page of memory
_SIZES = 16  # of free buffers
_LITTLE, _OFTEN = 1 << 20, 8  # bytes of buffers of which it is enough to look at every eighth that comes back


class BufferPool:
    """Arrays for batches, whose memory is reused once nothing refers to it; the last one given back comes first.

    That one is the likeliest to be in a cache of the processor.

    Args:
        pinned: use page-locked memory, from which copies to a GPU run in the background.
        kept: about so many free buffers are kept, over all sizes, or 32 MiB of them if that is more. Those of the
            sizes that came first are freed first.
    """

    def __init__(self, *, pinned: bool = False, kept: int = 16) -> None:
        self.pinned, self.kept = pinned, kept
        self._free: dict[int, list[_Memory]] = {}  # by size; two threads use it, by operations that are atomic
        self._leased: dict[int, tuple[weakref.ref[NDArray[Any]], _Memory]] = {}  # by the id of the reference

    def empty(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Return an uninitialised array; its memory is reused when the array and all views of it are deleted."""
        size = -(-prod(shape) * dtype.itemsize // _PAGE) * _PAGE  # arrays of similar sizes use the same buffers
        try:
            memory: Any = self._free[size].pop()
        except (KeyError, IndexError):
            block: Any = self._allocate(size)
            memory = (ctypes.c_char * size).from_buffer(block)
        # The base of a view is the array that it was taken of, or that one's base, as long as bases are arrays. The
        # memory is none, so every chain of views ends in `array`, which is deleted after the last view.
        array: NDArray[Any] = np.ndarray(shape, dtype, buffer=memory)
        lease = weakref.ref(array, self._take_back)
        self._leased[id(lease)] = lease, memory
        return array

    def _allocate(self, size: int) -> NDArray[np.uint8]:
        if self.pinned:
            return torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
        memory = np.empty(size + _LINE, dtype=np.uint8)  # numpy asks for huge pages, torch does not
        begin = -memory.__array_interface__["data"][0] % _LINE
        return memory[begin : begin + size]

    def _take_back(self, lease: weakref.ref[NDArray[Any]]) -> None:
        memory = self._leased.pop(id(lease))[1]
        size = len(memory)
        if (free := self._free.get(size)) is None:
            free = self._of_size(size)
        free.append(memory)
        if len(free) * size > _SMALL // _SIZES and (size > _LITTLE or len(free) % _OFTEN == 0):
            self._free_some()  # else all together are about what is kept in any case

    def _free_some(self) -> None:
        """Free what is more than is kept, those of the sizes that came first before others."""
        left = [(len(self._free.get(size, ())), size) for size in list(self._free)]
        count, total = sum(n for n, _ in left), sum(n * size for n, size in left)
        for n, size in left:
            for _ in range(n):
                if count <= self.kept or total <= _SMALL:
                    return
                with suppress(IndexError, KeyError):  # another thread may have taken them
                    self._free[size].pop(0)
                count, total = count - 1, total - size

    def _of_size(self, size: int) -> list[_Memory]:
        for oldest in list(self._free)[: 1 - _SIZES]:
            self._free.pop(oldest, None)
        return self._free.setdefault(size, [])


def delivery(device: torch.device, copy: DeviceCopy | None) -> Callable[[Any], Any] | None:
    """Return how batches get to `device`: copied by `copy` for a GPU; None for the CPU, where they are made."""
    if copy is None and device.type == "cpu":
        return None
    move = partial(changed, change=lambda tensor: tensor.to(device)) if copy is None else copy.send

    def take(batch: Any) -> Any:
        here().clock.enter(COPY)
        return move(batch)

    return take


def deliver(batch: Any, *, device: torch.device, copy: DeviceCopy | None) -> Any:
    """Return `batch` with its tensors on `device`; with `copy`, for a GPU, what its `receive` takes."""
    take = delivery(device, copy)
    return batch if take is None else take(batch)


@dataclass(frozen=True, slots=True)
class Sent:
    """A batch whose copy to a GPU has begun.

    Attributes:
        batch: the batch with its tensors on the device, whose values are there once the copy is complete.
        tensors: these tensors.
        complete: recorded behind the copy.
    """

    batch: Any
    tensors: Sequence[torch.Tensor]
    complete: torch.cuda.Event


class DeviceCopy:
    """Copies batches to one GPU, on a CUDA stream of its own.

    `send` is called where batches are made and only begins a copy, so the next batch is gathered while it runs. The
    trainer's thread calls `receive`, which waits for the copy. Rules:

    1. What a copy reads is kept until the copy is complete, whatever becomes of the batch. So no buffer returns to its
       pool earlier, and with `in_flight` copies the pool is a ring of `in_flight + 1` buffers for each column.
    2. A batch is complete when the trainer has it. The host waits, not the trainer's stream (`wait_event`): batches
       that are made ahead are complete long before, and a trainer that waits for its batch waits either way. In return
       any stream may use the tensors, and a failed copy is raised at its own batch.
    3. Tensors are allocated on the copies' stream, so the allocator is notified of the stream that uses them
       (`record_stream`). Without that, later copies would overwrite a batch that queued kernels still read.
    4. Unsigned tokens cross the bus as they are stored and are widened on the device: a quarter of the bytes, or half.

    Args:
        device: the GPU.
        widen: turn uint16 and uint32 into int64 on the device.
        in_flight: copies that may run when `send` returns. 0 if other code may write to the memory of a batch that it
            has returned, such as a collate_fn that uses its buffers again.
    """

    def __init__(self, device: torch.device, *, widen: bool = False, in_flight: int = 0) -> None:
        self._stream = torch.cuda.Stream(device, priority=-1)  # widening takes microseconds: let it overtake a step
        self.device = self._stream.device  # with its number: "cuda" is another device in another thread
        self._widen, self._in_flight = widen, in_flight
        self._lock = threading.Lock()  # after a change of position, the thread before may still be at its last batch
        self._flying: deque[tuple[torch.cuda.Event, list[torch.Tensor]]] = deque()

    def send(self, batch: Any) -> Sent:
        """Begin to copy the tensors of `batch`, in containers too; wait while more than `in_flight` copies run."""
        sources: list[torch.Tensor] = []
        moved: list[torch.Tensor] = []

        def move(source: torch.Tensor) -> torch.Tensor:
            sources.append(source)
            there = source.to(self.device, non_blocking=True)
            moved.append(there.to(torch.int64) if self._widen and there.dtype in _WIDENED else there)
            return moved[-1]

        with torch.cuda.stream(self._stream):
            batch = changed(batch, move)
            complete = torch.cuda.Event(blocking=True)  # a thread that waits does not use its core
            complete.record(self._stream)
        with self._lock:
            self._flying.append((complete, sources))
            while len(self._flying) > self._in_flight:
                self._flying[0][0].synchronize()
                self._flying.popleft()
        return Sent(batch, moved, complete)

    def receive(self, sent: Sent) -> Any:
        """Return the batch, complete, for use by the current stream of the calling thread; called once for each."""
        sent.complete.synchronize()
        stream = torch.cuda.current_stream(self.device)
        for tensor in sent.tensors:
            tensor.record_stream(stream)
        return sent.batch


def stored_columns(domains: Domains) -> dict[str, Column] | None:
    """Return the columns of gathered batches that are widened after they are gathered; None if none are gathered.

    A column is gathered as it is stored where widening that gives what gathering widened values gives. It does not
    where domains store it as uint16 and int8, say, whose common dtype is int32.
    """
    wide, stored = domains.columns(widen=True), domains.columns(widen=False)
    if wide is None or stored is None:
        return wide
    return {
        name: stored[name] if widened(stored[name].dtype) == column.dtype else column for name, column in wide.items()
    }
