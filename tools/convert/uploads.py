"""What a store holds of a conversion, as far as this machine knows: `WORK/.convert/uploads.jsonl`.

The first line says which URL it is about; every further one says that an object was stored, or is not to be believed
any more. Rules. An object is noted after it was stored, and struck out before it is touched, so after `kill -9` at any
instant what is noted was stored. An entry is bound to what was uploaded by a stamp: a hash of what the bytes are made
of (a shard) or of the bytes themselves (an index). It is bound to the object by size and version (ETag), and a run
believes it only when the store says the same (remote.py): somebody else may have been there.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mixstream.errors import ConfigError
from mixstream.storage import redact


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """An object.

    Args:
        name: below the URL.
        size: bytes.
        stamp: a hash of what it is made of.
        version: what the store calls this state of it; None where it has no such thing, or before it is there.
    """

    name: str
    size: int
    stamp: str
    version: str | None = None


class Uploads:
    """The record of one work directory; used by several threads.

    Args:
        path: its file; begun if it is not there.
        url: which store's directory it is about.

    Raises:
        ConfigError: the file is about another URL.
    """

    def __init__(self, path: Path, url: str) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, Upload] = {}
        lines = list(_lines(path)) if path.exists() else []
        if lines and (bound := lines[0].get("url")) != redact(url):
            raise ConfigError(
                f"--work {path.parents[1]}: it belongs to --out {bound}. Give another directory, or leave --work out."
            )
        for line in lines[1:]:
            if "stamp" in line:
                self._held[line["name"]] = Upload(**line)
            else:
                self._held.pop(line["name"], None)
        aside = path.with_name(f"{path.name}.tmp")
        with aside.open("w") as file:
            file.write(json.dumps({"url": redact(url)}) + "\n")
            file.writelines(json.dumps(asdict(upload)) + "\n" for upload in self._held.values())
        aside.replace(path)
        self._file = path.open("a")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Upload]:
        return iter(list(self._held.values()))

    def holds(self, name: str, size: int, stamp: str | None = None) -> bool:
        """Whether an object is stored in this size; with `stamp`, also made of that."""
        found = self._held.get(name)
        return found is not None and found.size == size and stamp in (None, found.stamp)

    def note(self, upload: Upload) -> None:
        """Note that an object was stored."""
        with self._lock:
            self._held[upload.name] = upload
            self._append(asdict(upload))

    def strike(self, name: str) -> None:
        """Note that nothing is known of an object any more."""
        with self._lock:
            if self._held.pop(name, None) is not None:
                self._append({"name": name})

    def _append(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of the record, up to one that cannot be read: the last may be cut short by a kill."""
    with suppress(ValueError):
        for line in path.read_bytes().splitlines():
            yield json.loads(line)
