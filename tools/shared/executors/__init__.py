"""Where the tasks of a long command run: one kind of place a file, chosen by `choose_executor` or by `parts.run_parts`.

An executor does not know what its tasks do. It yields results in any order. If a task fails, no further task starts;
the running ones may finish (each may be minutes of work that a restart keeps), and then the first error is raised
unchanged.

As a context manager, an executor keeps its workers (or its connection to a cluster) between runs: for work whose tasks
depend on the results of earlier ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Protocol, Self, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")
Advance = Callable[[int], None]
"""Reports progress: how much was done since the last call, in the unit of the progress bar."""
WORKER = "MIXSTREAM_WORKER"
"""Environment variable of a local worker process: its number, from 0. It tells which GPU is its own."""
Function = Callable[[Task, Advance], Result]


class Executor(Protocol):
    """Runs tasks. `function` and tasks can be pickled; `advance` is only called in the caller's process."""

    def run(self, function: Function[Task, Result], tasks: Sequence[Task], advance: Advance) -> Iterator[Result]:
        """Yield the result of `function(task, report)` for every task, in any order."""
        ...

    def __enter__(self) -> Self:
        """Keep workers between runs."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let them go."""
        ...


class WorkerDiedError(ChildProcessError):
    """A worker process ended without an answer: killed, out of memory, or crashed in native code."""


def default_workers() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_executor(workers: int, tasks: int) -> Executor:
    """Return the executor for so many tasks: this process if `workers` is 1, else processes on this machine."""
    from .local import InProcess, Processes  # here, so that an executor's own packages load only when it is chosen

    if workers == 1:
        return InProcess()
    # If there are fewer tasks than workers, the threads of a task's own libraries use the remaining cores.
    threads = max(1, workers // max(tasks, 1))
    return Processes(
        workers=workers,
        environ={
            "OMP_NUM_THREADS": str(threads),
            "RAYON_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false",
        },
    )
