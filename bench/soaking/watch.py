"""Measures a scenario while it runs: bytes in the cache, shards that were evicted, memory of the processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

EVERY, MEMORY_EVERY = 0.02, 25  # seconds; samples of the cache between two of the memory


class Watch:
    """Measures until it is stopped.

    Args:
        cache: directory whose files are counted, partial ones included.
        pids: returns the processes whose memory is measured.
    """

    def __init__(self, cache: Path, pids: Callable[[], Iterable[int]]) -> None:
        self.peak, self.memory, self.samples, self.gone = 0, 0, 0, 0
        self._cache, self._pids, self._stop = cache, pids, threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        before: set[str] = set()
        while not self._stop.wait(EVERY):
            total, now = 0, set[str]()
            for folder, _, names in os.walk(self._cache):
                for name in names:
                    try:
                        total += os.stat(os.path.join(folder, name)).st_size  # noqa: PTH116, PTH118 - many and often
                    except FileNotFoundError:
                        continue
                    if not name.startswith("."):
                        now.add(f"{folder}/{name}")
            self.gone += len(before - now)
            before = now
            self.peak, self.samples = max(self.peak, total), self.samples + 1
            if self.samples % MEMORY_EVERY == 1:
                self.memory = max([self.memory, *(anonymous(pid) for pid in self._pids())])

    def stop(self) -> None:
        """End."""
        self._stop.set()
        self._thread.join()


def anonymous(pid: int) -> int:
    """Return the bytes of memory of a process that no file backs; 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in text.splitlines() if line.startswith("RssAnon")), 0)


def processes_of(sessions: Iterable[int]) -> list[tuple[int, str]]:
    """Return the processes of these sessions that still run: pid, command."""
    wanted, found = set(sessions), []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) in wanted and fields[0] != "Z":
                found.append((int(path.name), (path / "cmdline").read_text().replace("\0", " ")[:120]))
        except (OSError, ValueError):
            continue
    return found
