"""Measures a scenario while it runs: bytes in the cache, shards that were evicted, memory of the processes.

A limit of the cache holds at every instant, and a walk over its files takes longer: half a second, where other threads
are busy. Meanwhile shards are evicted that it has seen, and it comes to those that took their place. So what counts is
what two walks in a row have seen: all of that was there when the first had ended and the second had not begun.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from mixstream.storage.spec import PREFIX

EVERY, MEMORY_EVERY = 0.02, 25  # seconds; samples of the cache between two of the memory
Walk = dict[tuple[str, str, int], int]
"""Bytes of files by directory, name and inode; a file that is being written has the name that it is to get."""


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
        before = Walk()
        while not self._stop.wait(EVERY):
            first, second = walk(self._cache), walk(self._cache)
            self.gone += len(before.keys() - second.keys())
            before = second
            self.peak, self.samples = max(self.peak, held_between(first, second)), self.samples + 1
            if self.samples % MEMORY_EVERY == 1:
                self.memory = max([self.memory, *(anonymous(pid) for pid in self._pids())])

    def stop(self) -> None:
        """End."""
        self._stop.set()
        self._thread.join()


def walk(cache: Path) -> Walk:
    """Return the files that a limit counts: shards, indexes, what is being written; not the notes of the cache."""
    found = Walk()
    for folder, folders, names in os.walk(cache):
        folders[:] = [name for name in folders if not name.startswith(PREFIX)]
        for name in names:
            final = name[1:-8] if name.startswith(".") and name.endswith(".partial") else name
            if final.startswith(PREFIX):
                continue
            try:
                status = os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118 - many and often
            except FileNotFoundError:
                continue
            found[folder, final, status.st_ino] = status.st_size
    return found


def held_between(first: Walk, second: Walk) -> int:
    """Return the bytes that were there between two walks; less, where files were written or evicted meanwhile."""
    return sum(min(size, first[file]) for file, size in second.items() if file in first)


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
