"""Messages between a process and its DataLoader workers, without shared memory or names.

Messages are a few bytes in an unlinked temporary file that the workers inherit. A process that dies leaves no file
behind, and the kernel releases its file locks.

`EpochClaims`: when a plain torch DataLoader begins an epoch, the workers' copies of the dataset are iterated, and the
main process does not notice. Workers of one `iter()` have the seed that torch gives them in common, and the first of
them claims the next epoch for all. `WeightRing`: the weights of later steps, from the process that runs the mixer.
"""

import json
import os
import time
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info

from mixstream.errors import ConfigError, WaitTimeoutError
from mixstream.inherited_file import InheritedFile
from mixstream.types import Int64

_CLAIMS_KEPT = 16


class EpochClaims:
    """Counts the epochs that were begun, in this process and its workers.

    The file holds how often it was reset, how many claims there were since, and the last of these: the token of the
    `iter()`, its number, and the workers that have claimed it.

    >>> claims = EpochClaims()
    >>> claims.claim(), claims.claim(), claims.count
    (0, 1, 2)
    >>> claims.reset()
    >>> claims.claim()
    0
    """

    def __init__(self) -> None:
        self._file = InheritedFile(1 << 16)
        self._begun: dict[int, int] = {}
        self._resets = 0
        self._write(0, 0, [])

    def reset(self) -> None:
        """Forget all claims: the next one is number 0. Workers that are running cannot claim any more."""
        self._resets += 1
        self._write(self._resets, 0, [])

    @property
    def count(self) -> int:
        """How many epochs have been claimed."""
        return self._read()[1]

    def claim(self) -> int:
        """Return the number, from 0, of the epoch of this `iter()`; the same in all workers of one DataLoader.

        Raises:
            ConfigError: the claims were reset after this worker started.
        """
        token, worker = self._token()
        with self._file:
            resets, count, known = self._read()
            if resets != self._resets:
                raise ConfigError(
                    "a state was loaded into the dataset while persistent workers were alive, and it cannot reach "
                    "them: use mixstream.StreamingDataLoader, or create the DataLoader again after load_state_dict"
                )
            entry = next((e for e in known if e[0] == token and worker not in e[2]), None)
            if entry is None:  # the first worker of this iter(), or an earlier iter() had the same seed
                entry, count = [token, count, []], count + 1
                known.append(entry)
            entry[2].append(worker)
            self._write(resets, count, known[-_CLAIMS_KEPT:])
            return entry[1]

    def _token(self) -> tuple[int, int]:
        """Return a number that is the same in the workers of one `iter()` and in no others, and the worker's number."""
        info = get_worker_info()
        if info is None:
            return int.from_bytes(os.urandom(7), "little") + 1, 0
        base = int(info.seed - info.id)  # persistent workers keep it for all their iter()s
        self._begun[base] = self._begun.get(base, 0) + 1
        return (base * 1_000_003 + self._begun[base]) & (2**62 - 1), info.id

    def _read(self) -> tuple[int, int, list[Any]]:
        resets, count, known = json.loads(self._file.read(1 << 16).rstrip(b"\0"))
        return resets, count, known

    def _write(self, resets: int, count: int, known: list[Any]) -> None:
        data = json.dumps([resets, count, known], separators=(",", ":")).encode()
        self._file.write(data.ljust(1 << 16, b"\0"))


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
