"""Messages between a process and its DataLoader workers, without shared memory or names.

Messages are a few bytes in an unlinked temporary file that the workers inherit. A process that dies leaves no file
behind, and the kernel releases its file locks.

`EpochClaims`: when a plain torch DataLoader begins an epoch, the workers' copies of the dataset are iterated, and the
main process does not notice. The first worker of an `iter()` that is asked for a sample claims the next epoch for all
of them. Which workers belong together does not depend on timing or seeds:

- all workers of one iterator, and no others, have the pipe into which they put their batches: it identifies it;
- persistent workers begin every `iter()` of their iterator, in order: torch queues each worker's first task before it
  asks the worker to resume, and waits until all have resumed. So the worker counts them.

`WeightRing`: the weights of later steps, from the process that runs the mixer.

`watched`: a forked child that drops its copy of an iterator does not end the workers of its parent; and a process that
waits for its workers says so, at once if one of them is stopped.
"""

import json
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from inspect import signature
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, finalize, ref

import numpy as np
from torch.utils.data import get_worker_info

from mixstream.errors import ConfigError, WaitTimeoutError
from mixstream.inherited_file import InheritedFile
from mixstream.lazy import later
from mixstream.metering import WEIGHTS, here
from mixstream.types import Int64

if TYPE_CHECKING:
    from mixstream.storage.cache.holders import describe_process, is_stopped
else:
    describe_process, is_stopped = later("mixstream.storage.cache.holders", "describe_process", "is_stopped")

_log = logging.getLogger("mixstream")

_SIZE = 1 << 16
_LOOK_EVERY = 5.0  # seconds
_TELL_AFTER, _GROWTH = 30.0, 3.0  # seconds without a batch after which that is said; each time, three times later


class EpochClaims:
    """Counts the epochs that were begun, in this process and its workers.

    An `iter()` counts from the first sample that one of its workers is asked for, so torch's prefetching makes an epoch
    of every `iter(loader)` of which a batch is taken, and of some of which none is.

    The file holds whether claiming has ended, how many claims there were, and those that not every worker of their
    iterator has joined yet: token of the `iter()`, number, workers.

    >>> claims = EpochClaims()
    >>> claims.claim(), claims.claim(), claims.count
    (0, 1, 2)
    """

    def __init__(self) -> None:
        self._file = InheritedFile(_SIZE)
        self.begun = 0  # how often this process has begun
        self._write(False, 0, [])

    def end(self) -> None:
        """Refuse further claims by running workers: the dataset goes on from a place that they cannot know."""
        with self._file:
            self._write(True, *self._read()[1:])

    @property
    def count(self) -> int:
        """How many epochs have been claimed."""
        with self._file:
            return self._read()[1]

    def claim(self) -> int:
        """Return the number, from 0, of the epoch of this `iter()`; the same in all workers of one DataLoader.

        Raises:
            ConfigError: claiming has ended, or it is not known which workers belong together.
        """
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        self.begun += 1
        token = None if info is None else f"{_iterator_token(int(info.seed) - worker)}/{self.begun}"
        with self._file:
            ended, count, waiting = self._read()
            if ended:
                raise ConfigError(
                    "a state was loaded into the dataset while persistent workers were alive, and it cannot reach "
                    "them: use mixstream.StreamingDataLoader, or create the DataLoader again after load_state_dict"
                )
            entry = next((e for e in waiting if e[0] == token), None)
            if entry is None:
                entry, count = [token, count, []], count + 1
                waiting.append(entry)
            if worker in entry[2]:
                raise ConfigError(
                    f"worker {worker} begins iteration {self.begun} of this dataset a second time: this DataLoader "
                    "does not start its workers as torch's does, and seeds all its iterators alike, so that workers "
                    "cannot know which epoch they belong to; use mixstream.Loader or torch.utils.data.DataLoader"
                )
            entry[2].append(worker)
            self._write(ended, count, [e for e in waiting if len(e[2]) < workers or e[0] != token])
            return entry[1]

    def _read(self) -> tuple[bool, int, list[Any]]:
        ended, count, waiting = json.loads(self._file.read(_SIZE).rstrip(b"\0"))
        return ended, count, waiting

    def _write(self, ended: bool, count: int, waiting: list[Any]) -> None:
        while len(data := json.dumps([ended, count, waiting], separators=(",", ":")).encode()) > _SIZE:
            del waiting[0]  # a thousand iterators ago, and abandoned: its other workers never began
        self._file.write(data.ljust(_SIZE, b"\0"))


def _iterator_token(base_seed: int) -> str:
    """Return what the workers of one DataLoader iterator have in common, and no other worker has.

    That is the pipe into which they put their batches. In a worker that was not started as torch's are, it is only
    torch's seed of the iterator, which repeats if the user seeds torch alike.
    """
    process: Any = multiprocessing.current_process()
    try:
        results = signature(process._target).bind(*process._args).arguments["data_queue"]
        pipe = os.fstat(results._writer.fileno())
    except (AttributeError, KeyError, TypeError):
        return f"{base_seed}"
    return f"{base_seed} {pipe.st_dev} {pipe.st_ino}"  # a kernel may use the number of a closed pipe again


class WeightRing:
    """Weights by step, written by the process that runs the mixer and read by its workers.

    >>> ring = WeightRing(domains=2, lag=16)
    >>> ring.put(3, np.array([700, 300]))
    >>> ring.get(3).tolist()
    [700, 300]

    Args:
        domains: K, weights per step.
        lag: of the run; the ring keeps the weights of `lag` + 1024 steps, for workers that are behind.
        timeout: seconds that a worker waits for a step's weights.
    """

    def __init__(self, *, domains: int, lag: int, timeout: float = 600.0) -> None:
        self._slots, self._timeout = lag + 1024, timeout
        self._record = 8 * (domains + 1)
        self._file = InheritedFile(self._record * self._slots)
        self._parent = os.getpid()

    def put(self, step: int, weight_K: Int64) -> None:
        """Publish the weights of `step`, int64 [K]."""
        at = step % self._slots * self._record
        self._file.write(np.int64(0).tobytes(), at)
        self._file.write(np.ascontiguousarray(weight_K, dtype=np.int64).tobytes(), at + 8)
        # Written last, so that a reader that sees the step sees its weights.
        self._file.write(np.int64(step + 1).tobytes(), at)

    def get(self, step: int) -> Int64:
        """Return the weights of `step`; wait for them.

        Raises:
            WaitTimeoutError: they were not put in time, or they were overwritten since.
        """
        clock = here().clock
        stage = clock.enter(WEIGHTS)
        try:
            return self._wait(step)
        finally:
            clock.enter(stage)

    def _wait(self, step: int) -> Int64:
        deadline = time.monotonic() + self._timeout
        while True:
            record = np.frombuffer(self._file.read(self._record, step % self._slots * self._record), dtype=np.int64)
            if record[0] == step + 1:
                return record[1:].copy()
            orphaned = os.getpid() != self._parent and os.getppid() != self._parent
            if record[0] > step + 1 or orphaned or time.monotonic() > deadline:
                raise WaitTimeoutError(
                    f"the weights of step {step} did not reach a DataLoader worker in {self._timeout:g} s: report() "
                    "every batch, and keep lag at least num_workers x prefetch_factor"
                )
            time.sleep(0.001)


_iterators: WeakSet[Any] = WeakSet()


def watched(iterator: Iterator[Any]) -> Iterator[Any]:
    """Return the batches of an iterator of a torch DataLoader, which forked children of this process do not shut down.

    torch asks the workers to end when the iterator is deleted, also where that is a copy in another process. And it
    waits for a worker for ever, unless `timeout` is given: this says so in the log.
    """
    _iterators.add(iterator)
    return _Awaited(iterator) if hasattr(iterator, "_workers") else iterator


class _Awaited:
    """Batches of workers; a thread of its own looks now and then how long one has been waited for.

    torch may wait for a worker anywhere: for a batch, or for the memory in which a batch lies that it has announced.
    """

    def __init__(self, batches: Any) -> None:
        self._batches, self._since = batches, 0.0
        ended = threading.Event()
        finalize(self, ended.set)
        threading.Thread(target=_watch, args=(ref(self), ended), name="mixstream-watch", daemon=True).start()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self._since = time.monotonic()
        try:
            return next(self._batches)
        finally:
            self._since = 0.0

    def waiting(self) -> tuple[float, list[int]]:
        """Return since when a batch has been waited for, 0 if none is, and the workers' process numbers."""
        return self._since, [process.pid for process in self._batches._workers]


def _watch(awaited: Callable[[], _Awaited | None], ended: threading.Event) -> None:
    """Say when workers have not made a batch for long, and at intervals that grow."""
    said, tell_after = 0.0, 0.0
    while not ended.wait(_LOOK_EVERY) and (batches := awaited()) is not None:
        since, workers = batches.waiting()
        del batches
        stopped = [pid for pid in workers if is_stopped(pid)] if since else []
        if since != said:
            said, tell_after = since, 0.0
        waited = time.monotonic() - since
        if since and waited > (tell_after or (_LOOK_EVERY if stopped else _TELL_AFTER)):
            tell_after = _GROWTH * waited
            who = " and ".join(map(describe_process, stopped or workers))
            _log.warning("waiting for a batch of DataLoader workers, for %.0f s so far: %s", waited, who)


def _after_fork() -> None:
    for iterator in _iterators:
        iterator._shutdown = True


os.register_at_fork(after_in_child=_after_fork)
