"""A GPU that tests can do without: copies run as late as CUDA allows, so that whatever does not wait reads garbage.

Rules. It is the worst case of what CUDA promises. A copy from page-locked memory reads its source when somebody waits
for it, and not before; one from other memory has read it when it returns. Tensors "on the GPU" lie in the host's
memory under another class (`OnGpu`) and hold garbage until their copy has run. Arithmetic with them runs at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

DEVICE = torch.device("cuda", 0)


_WAITS = {"item", "tolist", "cpu", "numpy", "nonzero", "equal", "__bool__", "__int__", "__float__", "__index__"}
_active: list[FakeGpu] = []


class OnGpu(torch.Tensor):
    """A tensor on the simulated GPU. `used_by` are the streams that it was recorded for."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """As of a tensor, after what is before it in the stream; refused if it waits while nothing may."""
        for gpu in _active:
            assert not (gpu.in_a_hurry and func.__name__ in _WAITS), f"{func.__name__} waits for the device"
            if gpu.current is gpu.default:
                gpu.default.run(gpu.default.end)
        return super().__torch_function__(func, types, args, kwargs or {})

    is_cuda = property(lambda _: True)  # pyright: ignore[reportAssignmentType]
    device = property(lambda _: DEVICE)  # pyright: ignore[reportAssignmentType]
    used_by: set[Stream]

    def record_stream(self, s: Any) -> None:
        self.used_by = getattr(self, "used_by", set()) | {s}


class Stream:
    """Operations that run in order, at the latest when an event behind them is waited for."""

    def __init__(self, gpu: FakeGpu, name: str) -> None:
        self.gpu, self.name, self.device = gpu, name, DEVICE
        self.waiting: list[Callable[[], Any]] = []
        self.done = 0

    def __repr__(self) -> str:
        return self.name

    def put(self, operation: Callable[[], Any]) -> None:
        with self.gpu.lock:
            self.waiting.append(operation)

    def run(self, until: int) -> None:
        with self.gpu.lock:
            while self.done < until:
                self.waiting[0]()  # one that fails stays, and everything behind it fails too
                self.waiting.pop(0)
                self.done += 1

    @property
    def end(self) -> int:
        return self.done + len(self.waiting)


class Event:
    """Done when all is done that was in its stream before it."""

    def __init__(self, gpu: FakeGpu, **options: Any) -> None:
        self.gpu, self.options = gpu, options

    def record(self, stream: Stream | None = None) -> None:
        with self.gpu.lock:
            self.stream = stream or self.gpu.current
            self.mark = self.stream.end
            self.gpu.events.append(self)

    def query(self) -> bool:
        return self.stream.done >= self.mark

    def synchronize(self) -> None:
        self.stream.run(self.mark)


class FakeGpu:
    """The simulated GPU.

    Attributes:
        default: the trainer's stream.
        events: all that were recorded.
        pinned: page-locked memory by its address. It is never freed, as CUDA does not notice who refers to it.
        received: bytes of each copy from the host.
        fails: what the copy with this number raises, from 0.
    """

    def __init__(self) -> None:
        self.lock, self._local = threading.RLock(), threading.local()
        self.default = Stream(self, "default")
        self.streams: list[Stream] = []
        self.events: list[Event] = []
        self.pinned: dict[int, torch.Tensor] = {}
        self.received: list[int] = []
        self.fails: dict[int, Exception] = {}
        self.in_a_hurry = False

    @property
    def current(self) -> Stream:
        """The stream of the calling thread."""
        return getattr(self._local, "stream", self.default)

    def stream(self, device: Any = None, **options: Any) -> Stream:
        """As `torch.cuda.Stream`."""
        self.streams.append(Stream(self, f"stream {len(self.streams)}"))
        return self.streams[-1]

    @contextmanager
    def use(self, stream: Stream) -> Iterator[None]:
        """As `torch.cuda.stream`."""
        before, self._local.stream = self.current, stream
        try:
            yield
        finally:
            self._local.stream = before

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """Refuse what waits for the device, as `torch.cuda.set_sync_debug_mode("error")` does."""
        self.in_a_hurry = True
        try:
            yield
        finally:
            self.in_a_hurry = False

    def on(self, values: torch.Tensor) -> Any:
        """Return the values on the GPU."""
        return values.clone().as_subclass(OnGpu)

    def memory_of(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """Return the values of a tensor in page-locked memory, without a reference to the tensor."""
        at = tensor.data_ptr()
        for begin, memory in self.pinned.items():
            if begin <= at < begin + memory.nbytes:
                whole = memory.reshape(-1).view(torch.uint8)[at - begin : at - begin + tensor.nbytes]
                return whole.view(tensor.dtype).reshape(tensor.shape)
        return None

    def to(self, tensor: torch.Tensor, device: torch.device, dtype: torch.dtype | None, *, wait: bool) -> torch.Tensor:
        """Copy between host and device, or convert on the device."""
        source = tensor.as_subclass(torch.Tensor)
        if not isinstance(tensor, OnGpu):
            with self.lock:
                number, failure = len(self.received), self.fails.get(len(self.received))
                self.received.append(source.nbytes)
            if isinstance(failure, MemoryError):  # raised by the call, as for memory that the device does not have
                raise failure
            pinned = self.memory_of(source)
            source = source.clone() if pinned is None else pinned
            if failure is not None:
                self.current.put(lambda: _raise(failure, number))
        out = torch.full((max(source.nbytes, 1),), 0xA5, dtype=torch.uint8)[: source.nbytes]
        out = out.view(source.dtype).reshape(source.shape).to(dtype or source.dtype)
        self.current.put(lambda: out.copy_(source))
        if wait:
            assert not self.in_a_hurry, "a copy waits for the device"
            self.current.run(self.current.end)
        return out if device.type == "cpu" else out.as_subclass(OnGpu)


def _raise(error: Exception, number: int) -> None:
    error.add_note(f"in copy {number}")
    raise error


@contextmanager
def fake_gpu() -> Iterator[FakeGpu]:
    """Let torch have a simulated GPU."""
    gpu, to, empty, arange = FakeGpu(), torch.Tensor.to, torch.empty, torch.arange

    def moved(tensor: torch.Tensor, *args: Any, non_blocking: bool = False, **options: Any) -> torch.Tensor:
        given = [*args, *options.values()]
        device = next((torch.device(x) for x in given if isinstance(x, torch.device | str)), tensor.device)
        dtype = next((x for x in given if isinstance(x, torch.dtype)), None)
        here = isinstance(tensor, OnGpu)
        if not here and device.type != "cuda":
            return to(tensor, *args, non_blocking=non_blocking, **options)
        if here and device.type == "cuda" and dtype in {None, tensor.dtype}:
            return tensor
        wait = not non_blocking and here != (device.type == "cuda")
        return gpu.to(tensor, device, dtype, wait=wait)

    def allocate(*size: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        made = empty(*size, **options)
        if pin_memory and made.nbytes:
            gpu.pinned[made.data_ptr()] = made
        return made

    def numbers(*given: Any, device: Any = None, **options: Any) -> torch.Tensor:
        made = arange(*given, **options)
        return gpu.on(made) if device is not None and device.type == "cuda" else made

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.Tensor, "to", moved)
        patched.setattr(torch, "empty", allocate)
        patched.setattr(torch, "arange", numbers)
        patched.setattr(torch.cuda, "Stream", gpu.stream)
        patched.setattr(torch.cuda, "stream", gpu.use)
        patched.setattr(torch.cuda, "Event", lambda **options: Event(gpu, **options))
        patched.setattr(torch.cuda, "current_stream", lambda device=None: gpu.current)
        _active.append(gpu)
        try:
            yield gpu
        finally:
            _active.remove(gpu)
