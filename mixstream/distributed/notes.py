"""Short notes for all ranks of a job, in the store that torch.distributed was started with. No call is collective."""

from typing import Any, Self

from mixstream.distributed.group import default_group


class RankNotes:
    """Short notes that every rank of the job can read at any time; no rank waits for another.

    They are kept in the store that torch.distributed was started with.

    Args:
        topic: ranks see the notes of their own topic only.
    """

    def __init__(self, topic: str, *, forked: bool = False) -> None:
        from torch.distributed import distributed_c10d as c10d

        store: Any = c10d._get_default_store()
        self._store = c10d.PrefixStore(f"mixstream/{topic}", store.clone() if forked else store)

    @classmethod
    def of_job(cls, topic: str, *, in_worker: bool = False) -> Self | None:
        """Return the notes of this job; None in a job of one process, and in a DataLoader worker.

        A worker has its parent's connection to the store, and two processes cannot use one: with `in_worker`, a forked
        worker opens its own, if torch can (from 2.7 on).
        """
        from torch.utils.data import get_worker_info

        if (group := default_group()) is None or group[1] == 1:
            return None
        if get_worker_info() is None:
            return cls(topic)
        from torch.distributed import distributed_c10d as c10d

        return cls(topic, forked=True) if in_worker and hasattr(c10d.PrefixStore, "clone") else None

    def post(self, note: str) -> None:
        """Add a note."""
        self._store.set(f"note-{self._store.add('notes', 1)}", note)

    def read(self) -> list[str]:
        """Return all notes, oldest first."""
        return [self._store.get(f"note-{number + 1}").decode() for number in range(self._store.add("notes", 0))]

    def put(self, name: str, note: str) -> None:
        """Write the note of this name, which one rank alone writes."""
        self._store.set(name, note)

    def find(self, name: str) -> str | None:
        """Return the note of this name; None if there is none."""
        return self._store.get(name).decode() if self._store.check([name]) else None

    def first(self, name: str, note: str) -> str:
        """Write the note of this name unless there is one; return what it is then."""
        return self._store.compare_set(name, "", note).decode()
