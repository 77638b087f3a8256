"""Who holds a `flock`: its process, what that is doing, and its rank, as far as this machine tells.

Linux lists all locks of a machine in `/proc/locks`, so holders need not write down who they are. It costs a
millisecond, and is looked at only while something is waited for. Where there is no such list (macOS), or the holder is
in another container or on another machine, nothing is known and nothing is said.
"""

import os
from contextlib import suppress
from pathlib import Path

_STATES = {
    "T": "stopped (kill -CONT {pid} lets it go on)",
    "t": "stopped by a debugger",
    "D": "waiting for a disk or a network file system",
    "Z": "dead, and its parent has not noticed",
}


def holder_of(*files: os.stat_result) -> str:
    """Return who holds locks of the files with these statuses, in words; empty if that is not known."""
    return " and ".join(map(describe_process, sorted({pid for file in files for pid in _pids(file)})))


def describe_process(pid: int) -> str:
    """Return a process in words: its number, its rank and whether it is stopped.

    >>> describe_process(os.getpid())
    'another thread of this process'
    """
    if pid == os.getpid():
        return "another thread of this process"
    if pid <= 0:
        return "a process of another container"
    words, state = f"process {pid}", _state(pid)
    if rank := _rank(pid):
        words += f" (rank {rank})"
    if state is None:
        return f"{words}, which has ended, and whose child keeps the file open"
    return f"{words}, which is {_STATES[state].format(pid=pid)}" if state in _STATES else words


def is_stopped(pid: int) -> bool:
    """Return whether a process is stopped, as far as that is known."""
    return _state(pid) in ("T", "t")


def _pids(file: os.stat_result) -> list[int]:
    """Return the processes that hold a lock of a file; a process of another container has the number 0."""
    found: dict[str, set[int]] = {}
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()  # "1: FLOCK ADVISORY WRITE pid major:minor:inode 0 EOF"; of one that waits, "1: -> …"
            if words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(file.st_ino):
                found.setdefault(words[5], set()).add(int(words[4]))
    device = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    if device in found:
        return sorted(found[device])
    return sorted(*found.values()) if len(found) == 1 else []  # a layered file system gives its files other devices


def _state(pid: int) -> str | None:
    """Return the letter of a process's state; None if there is no such process, "" if that is not known."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else ""
    except (OSError, IndexError):
        return ""


def _rank(pid: int) -> str:
    """Return the rank of a process of this user; empty if it has none."""
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            name, _, value = entry.partition(b"=")
            if name == b"RANK" and value.isdigit():
                return value.decode()
    return ""
