"""Short notes for all ranks of a job, in the store that torch.distributed was started with. No call is collective.

A call takes the timeout of the process group at most, also if the process that keeps the store was stopped.
"""

from collections.abc import Callable
from typing import Any, Self, TypeVar

from mixstream.distributed.bounded import group_timeout, in_time
from mixstream.distributed.group import default_group, is_inherited
from mixstream.errors import WaitTimeoutError
from mixstream.threads import Owner

T = TypeVar("T")


class RankNotes:
    """Short notes that every rank of the job can read at any time; no rank waits for another.

    They are kept in the store that torch.distributed was started with.

    Args:
        topic: ranks see the notes of their own topic only.

    Raises:
        WaitTimeoutError: by each method, if the store does not answer.
        ForkedError: by each method, in a forked child of the process that made it.
    """

    def __init__(self, topic: str, *, forked: bool = False) -> None:
        from torch.distributed import distributed_c10d as c10d

        store: Any = c10d._get_default_store()
        self._store = c10d.PrefixStore(f"mixstream/{topic}", store.clone() if forked else store)
        self._owner = Owner("the connection to the other ranks", remedy="use the loader in the process that made it")
        self._timeout = group_timeout()
        self._silent: WaitTimeoutError | None = None

    @classmethod
    def of_job(cls, topic: str, *, in_worker: bool = False) -> Self | None:
        """Return the notes of this job; None in a job of one process, in a DataLoader worker and in a forked child.

        A worker has its parent's connection to the store, and two processes cannot use one: with `in_worker`, a forked
        worker opens its own, if torch can (from 2.7 on).
        """
        from torch.utils.data import get_worker_info

        if (group := default_group()) is None or group[1] == 1:
            return None
        if get_worker_info() is None:
            return None if is_inherited() else cls(topic)
        from torch.distributed import distributed_c10d as c10d

        return cls(topic, forked=True) if in_worker and hasattr(c10d.PrefixStore, "clone") else None

    def post(self, note: str) -> None:
        """Add a note."""
        self._ask(lambda store: store.set(f"note-{store.add('notes', 1)}", note))

    def read(self) -> list[str]:
        """Return all notes, oldest first."""
        return self._ask(
            lambda store: [store.get(f"note-{number + 1}").decode() for number in range(store.add("notes", 0))]
        )

    def put(self, name: str, note: str) -> None:
        """Write the note of this name, which one rank alone writes."""
        self._ask(lambda store: store.set(name, note))

    def find(self, name: str) -> str | None:
        """Return the note of this name; None if there is none."""
        return self._ask(lambda store: store.get(name).decode() if store.check([name]) else None)

    def first(self, name: str, note: str) -> str:
        """Write the note of this name unless there is one; return what it is then."""
        return self._ask(lambda store: store.compare_set(name, "", note).decode())

    def _ask(self, call: Callable[[Any], T]) -> T:
        """Return what `call` of the store returns."""
        self._owner.check()
        if self._silent is not None:  # the first call still waits for its answer, and holds the connection
            raise self._silent
        try:
            return in_time(lambda: call(self._store), timeout=self._timeout, what="the notes of the ranks")
        except WaitTimeoutError as error:
            self._silent = error
            raise
