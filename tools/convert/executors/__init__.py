"""Where the tasks of a conversion run: one kind of place a file, chosen by `choose_executor`.

An executor does not know what its tasks do. It yields results in any order. If a task fails, no further task starts;
the running ones may finish (each may be minutes of work that a restart keeps), and then the first error is raised
unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from ..files import OnBytes

Task = TypeVar("Task")
Result = TypeVar("Result")
Function = Callable[[Task, OnBytes], Result]


class Executor(Protocol):
    """Runs tasks. `function` and tasks can be pickled; `on_bytes` is only called in the caller's process."""

    def run(self, function: Function[Task, Result], tasks: Sequence[Task], on_bytes: OnBytes) -> Iterator[Result]:
        """Yield the result of `function(task, report)` for every task, in any order."""
        ...


def choose_executor(workers: int, tasks: int) -> Executor:
    """The executor for so many tasks: this process if `workers` is 1, else processes on this machine."""
    from .local import InProcess, Processes  # here, so that an executor's own packages load only when it is chosen

    if workers == 1:
        return InProcess()
    # If there are fewer tasks than workers, the tokenizer's own threads use the remaining cores.
    threads = max(1, workers // max(tasks, 1))
    return Processes(
        workers=workers,
        environ={"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false"},
    )
