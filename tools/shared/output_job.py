"""An output that a command writes in many objects, on disk or in a store: claimed first, its indexes last.

    OUT/.<command>/job.json  the options, and a hash of them and of the inputs: written first, removed last

Rules. No index is written before all files of all datasets are there; so until then readers refuse all of it as
unfinished, and a dataset with an index is whole. What other options or inputs have begun is refused. Objects are
written whole or not at all, so after `kill -9` at any instant the same command goes on. A finished output says in its
indexes what made it, so that nothing is made again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixstream.errors import OutputExistsError, StateError, StoreNotFoundError
from mixstream.formats import parse_index
from mixstream.storage import INDEX, RUN, Retry, Store, is_local, local_path


@dataclass(frozen=True, kw_only=True)
class OutputJob:
    """One output of one command.

    Args:
        command: its name, `reshard` or `merge`.
        store: of the output.
        retry: of requests.
        identity: of the options and of all inputs.
        about: the options, for messages.
    """

    command: str
    store: Store
    retry: Retry
    identity: str
    about: Mapping[str, Any]

    @property
    def ours(self) -> str:
        """The directory of the job's own files."""
        return f".{self.command}"

    @property
    def made(self) -> dict[str, Any]:
        """What an index says of what made it."""
        return {made_key(self.command): {"identity": self.identity}}

    def begin(self, names: Sequence[str], *, overwrite: bool, last: str = INDEX) -> bool:
        """Claim the output for this job; returns False if it is finished already.

        Args:
            names: of the datasets below it; "" for the output itself.
            overwrite: remove the indexes of what is there.
            last: the object that is written after the indexes, if there is one.

        Raises:
            OutputExistsError: it holds something else.
            StateError: a command of other options or inputs has begun there.
        """
        there = self.names()
        job = self.read(f"{self.ours}/job.json")
        found = json.loads(job) if job is not None else None
        mine = found is not None and found.get("identity") == self.identity
        if (found is None or mine) and (last == INDEX or last in there) and self._is_finished(names, there):
            return False
        if not mine:
            self._refuse(found, there, names, overwrite=overwrite)
            for name in there:
                if name.startswith(f"{self.ours}/") and name != f"{self.ours}/job.json":
                    self.remove(name)
            content = {"identity": self.identity, "options": self.about}
            self.write(f"{self.ours}/job.json", json.dumps(content, indent=1).encode())
        for index in {inside(name, INDEX) for name in names} & {*there}:
            self.remove(index)  # its shards are about to be replaced
        return True

    def _refuse(
        self, begun: Mapping[str, Any] | None, there: Sequence[str], names: Sequence[str], *, overwrite: bool
    ) -> None:
        """Refuse an output that holds something else."""
        if RUN in there:
            raise OutputExistsError(f"{self.store.url} is the --out of `mixstream convert`. Give another --out.")
        if INDEX in there and "" not in names:
            raise OutputExistsError(f"{self.store.url} is itself a dataset, and several would go below it.")
        if overwrite:
            return
        if begun is not None:
            was = {key: value for key, value in begun.get("options", {}).items() if self.about.get(key) != value}
            what = ", ".join(f"{key} {value}" for key, value in was.items()) or "other rows"
            raise StateError(
                f"{self.store.url}: a {self.command} of {what} has begun there and is not finished. Go on with that, "
                "give another --out, or --overwrite."
            )
        if there:
            raise OutputExistsError(f"{self.store.url} holds {there[0]!r}. Give another --out, or --overwrite.")

    def _is_finished(self, names: Sequence[str], there: Sequence[str]) -> bool:
        indexes = [inside(name, INDEX) for name in names]
        if not {*indexes} <= {*there}:
            return False
        return all(self._made_by(index) == self.identity for index in indexes)

    def _made_by(self, name: str) -> str | None:
        made = parse_index(self.read(name) or b"", where=f"{self.store.url}/{name}").extra.get(made_key(self.command))
        return made.get("identity") if isinstance(made, dict) else None

    def check(self) -> None:
        """Check that no other job has claimed the output meanwhile; its files would be mixed with ours.

        Raises:
            StateError: one has.
        """
        job = self.read(f"{self.ours}/job.json")
        if job is None or json.loads(job).get("identity") != self.identity:
            raise StateError(
                f"{self.store.url}: another `mixstream {self.command}` has begun to write there. Let one of them come "
                "to its end, and give the other another --out."
            )

    def names(self) -> list[str]:
        """Return the names of all objects of the output; none if it does not exist."""
        try:
            return self.retry.call(f"listing {self.store.url}", self.store.names, renew=self.store.renew)
        except StoreNotFoundError:
            return []

    def write(self, name: str, data: bytes | Path) -> None:
        """Write an object."""
        place = f"{self.store.url}/{name}"
        self.retry.call(f"writing {place}", lambda: self.store.write(name, data), renew=self.store.renew)

    def remove(self, name: str) -> None:
        """Remove an object."""
        place = f"{self.store.url}/{name}"
        self.retry.call(f"removing {place}", lambda: self.store.remove(name), renew=self.store.renew)

    def read(self, name: str) -> bytes | None:
        """Return an object; None if there is none."""
        place = f"{self.store.url}/{name}"
        try:
            found = self.retry.call(f"reading {place}", lambda: self.store.read(name), renew=self.store.renew)
        except (StoreNotFoundError, NotADirectoryError):
            return None
        return bytes(memoryview(found.data))

    def clean(self, out: str) -> None:
        """Remove the job's own files; call it when all indexes are there."""
        for name in sorted(self.names(), key=lambda name: name == f"{self.ours}/job.json"):
            if name.startswith(f"{self.ours}/"):
                self.remove(name)
        if is_local(out):
            shutil.rmtree(local_path(out) / self.ours, ignore_errors=True)


def made_key(command: str) -> str:
    """Return the key of an index that says what made it."""
    return f"mixstream_{command}"


def inside(name: str, file: str) -> str:
    """Return the path of a file of the dataset `name`; "" is the output itself."""
    return f"{name}/{file}" if name else file
