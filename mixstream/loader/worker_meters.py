"""The counters of DataLoader workers, where the process that started them can read them.

Each worker has a record of its own in an inherited file, and writes it at the end of each step: no lock, no message. A
worker goes on from what its predecessors of the same number wrote.
"""

import struct

import torch.utils.data

from mixstream.inherited_file import InheritedFile
from mixstream.metering import STAGES, TRAFFIC, SampleMeter, StageClock, enter_meter

_RECORD = struct.Struct(f"<{len(STAGES) + len(TRAFFIC)}d")


class WorkerMeters:
    """The counters of the workers of one DataLoader. Pickled for a worker, it is the same file there.

    >>> meters = WorkerMeters(workers=2)
    >>> meters.stages()["gather"], meters.traffic()["requests"]
    (0.0, 0.0)

    Args:
        workers: how many there are.
    """

    def __init__(self, *, workers: int) -> None:
        self._workers, self._file = workers, InheritedFile(_RECORD.size * workers)

    def begin(self) -> None:
        """Let the thread of this worker count from now on, and write at each step; nothing if it does already."""
        info = torch.utils.data.get_worker_info()
        if info is not None and info.id < self._workers:
            enter_meter(_WorkerMeter(self._file, info.id * _RECORD.size))

    def stages(self) -> dict[str, float]:
        """Return the seconds in each stage, over all workers."""
        return dict(zip(STAGES, self._totals()))

    def traffic(self) -> dict[str, float]:
        """Return the counts of traffic, over all workers."""
        return dict(zip(TRAFFIC, self._totals()[len(STAGES) :]))

    def _totals(self) -> list[float]:
        records = _RECORD.iter_unpack(self._file.read(_RECORD.size * self._workers))
        return [sum(values) for values in zip(*records)]


class _WorkerMeter(SampleMeter):
    """The meter of a worker, which is written to a place in a file."""

    __slots__ = ("_at", "_before", "_file")

    def __init__(self, file: InheritedFile, at: int) -> None:
        super().__init__(StageClock())
        self._file, self._at = file, at
        self._before = _RECORD.unpack(file.read(_RECORD.size, at))

    def step(self) -> None:
        """Write what was counted so far."""
        now = [*self.clock.seconds(), *self.traffic.snapshot().values()]
        self._file.write(_RECORD.pack(*(a + b for a, b in zip(self._before, now))), self._at)
        super().step()
