"""Who may write to an output at once: one whole run, or several tasks of one job array.

    .convert/lock                      whole run: exclusive; task: shared, while it converts
    .convert/tasks/begin.lock          task: while it looks at what is there, and changes it
    .convert/tasks/3-of-64.lock        task: exclusive, so that no number runs twice at once
    .convert/tasks/3-of-64.workers.lock  its workers, which outlive a killed task for a moment

Rule: what belongs to all tasks (run.json, leftovers of other options) is changed only by a task that is alone. flock
releases all of them when a process ends, even by SIGKILL; on a file system without locks nothing is refused.
"""

from __future__ import annotations

import fcntl
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Self

from mixstream.errors import ConfigError, WaitTimeoutError

from ..ledger.durable import hold, make_directory, note_holder
from ..ledger.ledger import WORKERS, Ledger
from ..ledger.output_directory import busy, create_output
from .shares import TASKS, Share, tasks_begun

_BEGIN_WAIT_S = 600.0  # each task that begins lists the records of all


class _InUseError(Exception):
    """A lock is held."""


class TaskLocks:
    """The locks of one task, from the beginning to its end; call `begun` once what all tasks share is in order.

    Attributes:
        alone: whether no other task is at work. Until `begun`, none can begin.

    Raises:
        ConfigError: a whole run is at work, or this number, or tasks of another N.
        WaitTimeoutError: another task does not come to the end of its beginning, or workers of a killed one live on.
    """

    def __init__(self, ledger: Ledger, share: Share) -> None:
        self._ledger, self._share = ledger, share
        self._ours = ledger.out / ".convert"
        self._held, self._begin, self._main = ExitStack(), ExitStack(), ExitStack()
        self.alone = False

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.push(self)
            self._enter()
            undo.pop_all()
        return self

    def _enter(self) -> None:
        create_output(self._ledger.out)
        make_directory(self._ours / TASKS)
        path = self._ours / self._share.lock
        holder = path.read_text(errors="replace")[:200] if path.exists() else ""
        twice = ConfigError(
            f"--part {self._share}: {holder or 'another process'} is converting it. Give each task its own number, "
            "from 0 to N-1."
        )
        self._held.enter_context(hold(path, fcntl.LOCK_EX, wait_s=0, else_raise=twice))
        note_holder(path)
        slow = WaitTimeoutError(
            f"--part {self._share}: other tasks were at their beginning for {_BEGIN_WAIT_S:.0f} s. Run it again."
        )
        begin = self._ours / TASKS / "begin.lock"
        self._begin.enter_context(hold(begin, fcntl.LOCK_EX, wait_s=_BEGIN_WAIT_S, else_raise=slow))
        self._refuse_others()
        main = self._ours / "lock"
        try:
            self._main.enter_context(hold(main, fcntl.LOCK_EX, wait_s=0, else_raise=_InUseError()))
            self.alone = True
            note_holder(main, what=f"--part {self._share}, ")
            self._ledger.wait_for_workers(WORKERS)
        except _InUseError:
            self._share_main()
        self._ledger.wait_for_workers(self._share.workers_lock)

    def begun(self) -> None:
        """Let other tasks begin."""
        if self.alone:  # between the two locks a whole run may come in, and then this task is refused
            self._main.close()
            self._share_main()
        self._begin.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for held in (self._main, self._begin, self._held):
            held.close()

    def _share_main(self) -> None:
        shared = hold(self._ours / "lock", fcntl.LOCK_SH, wait_s=0, else_raise=busy(self._ledger.out))
        self._held.enter_context(shared)

    def _refuse_others(self) -> None:
        """Refuse to work beside tasks of another N, whose shares overlap; forget those that have ended."""
        for of, numbers in tasks_begun(self._ledger).items():
            for number in numbers if of != self._share.of else ():
                other = Share(number=number, of=of)
                path = self._ours / other.lock
                holder = path.read_text(errors="replace")[:200]
                busy = ConfigError(
                    f"--part {self._share}: --part {other} is at work here too ({holder}), and shares of {of} and of "
                    f"{self._share.of} overlap. Give all tasks the same N, or wait until that one has ended."
                )
                with hold(path, fcntl.LOCK_EX, wait_s=0, else_raise=busy):
                    for name in (other.lock, other.workers_lock, other.uploads):
                        with suppress(FileNotFoundError):
                            (self._ours / name).unlink()
