"""Memory that batches are written to, and copies to the GPU.

Buffers are reused once nothing refers to them: a buffer returns to its pool when the last tensor over it is deleted. A
trainer may keep batches as long as it likes, and in the steady state nothing is allocated.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mixstream.data.batch import changed


class BufferPool:
    """Arrays for batches, whose memory is reused once nothing refers to it.

    Args:
        pinned: use page-locked memory, from which copies to a GPU run in the background.
        kept: at most so many free buffers are kept, over all sizes; the longest unused are freed first.
    """

    def __init__(self, *, pinned: bool = False, kept: int = 16) -> None:
        self.pinned, self.kept = pinned, kept
        self._free: deque[NDArray[np.uint8]] = deque()  # two threads use it; its operations are atomic
        self._leased: dict[weakref.ref[_Lease], NDArray[np.uint8]] = {}

    def empty(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Return an uninitialised array; its memory is reused when the array and all views of it are deleted."""
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if (memory := self._reuse(size)) is None:
            memory = torch.empty(size, dtype=torch.uint8, pin_memory=self.pinned).numpy()
        # numpy collapses chains of views, so every chain ends in a lease, which is deleted after the last view.
        lease = _Lease(memory)
        self._leased[weakref.ref(lease, self._take_back)] = memory
        return np.asarray(lease).view(dtype).reshape(shape)

    def _take_back(self, lease: weakref.ref[_Lease]) -> None:
        self._free.append(self._leased.pop(lease))
        if len(self._free) > self.kept:
            self._free.popleft()

    def _reuse(self, size: int) -> NDArray[np.uint8] | None:
        for _ in range(len(self._free)):
            memory = self._free.popleft()
            if len(memory) == size:
                return memory
            self._free.append(memory)
        return None


class _Lease:
    """The base object of one array that was handed out."""

    def __init__(self, memory: NDArray[np.uint8]) -> None:
        self.memory = memory  # a batch may outlive its loader, and so the pool
        self.__array_interface__ = memory.__array_interface__


def deliver(batch: Any, *, device: torch.device, copy: DeviceCopy | None) -> Any:
    """Return `batch` with its tensors on `device`, copied by `copy` for a GPU."""
    if copy is not None:
        return copy.send(batch)
    return batch if device.type == "cpu" else changed(batch, lambda tensor: tensor.to(device))


class DeviceCopy:
    """Copies batches to one GPU on a separate CUDA stream, in the thread that makes them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)

    def send(self, batch: Any) -> Any:
        """Return `batch` with its tensors on the device, once their copies are complete."""
        with torch.cuda.stream(self._stream):
            moved = changed(batch, lambda tensor: tensor.to(self.device, non_blocking=True))
        self._stream.synchronize()  # blocks the background thread, not the trainer; afterwards the source may be reused
        return moved

    def receive(self, batch: Any) -> None:
        """Record for the allocator that the trainer's stream uses these tensors; called in the trainer's thread."""
        changed(batch, self._record)

    def _record(self, tensor: torch.Tensor) -> None:
        if tensor.is_cuda:
            tensor.record_stream(torch.cuda.current_stream(self.device))
