"""Which objects of a conversion this machine has uploaded: `WORK/.convert/uploads.jsonl`.

The first line has the URL; every further line notes an uploaded object or strikes one out. Rules. An object is noted
after it was uploaded and struck out before it is replaced, so after `kill -9` at any instant every noted object was
uploaded. A stamp names the content: for a shard, a hash of the recipe and sources; for an index, a hash of its bytes.
Size and version (ETag) name the object. A run trusts an entry only after the store confirmed both (remote.py), because
another program may have replaced the object.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mixstream.errors import ConfigError
from mixstream.storage import named_full_disk, place_of

from .durable import write_durably


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """An object.

    Args:
        name: its name below the URL.
        size: in bytes.
        stamp: hash of its content or of the inputs that determine it.
        version: the store's ETag; None if the store has none, or before the upload.
    """

    name: str
    size: int
    stamp: str
    version: str | None = None


class Uploads:
    """The record of one work directory; thread-safe.

    Args:
        path: its file; created if it does not exist.
        url: the URL of `--out`.

    Raises:
        ConfigError: the file belongs to another URL.
    """

    def __init__(self, path: Path, url: str) -> None:
        self._lock, self._path = threading.Lock(), path
        self._held: dict[str, Upload] = {}
        lines = list(_lines(path)) if path.exists() else []
        if lines and (bound := lines[0].get("url")) != place_of(url):
            raise ConfigError(
                f"--work {path.parents[1]}: it belongs to --out {bound}. Give another directory, or leave --work out."
            )
        for line in lines[1:]:
            if "stamp" in line:
                self._held[line["name"]] = Upload(**line)
            else:
                self._held.pop(line["name"], None)
        records = [{"url": place_of(url)}, *map(asdict, self._held.values())]
        write_durably(path, "".join(f"{json.dumps(record)}\n" for record in records).encode())
        self._file = path.open("a")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __iter__(self) -> Iterator[Upload]:
        return iter(list(self._held.values()))

    def holds(self, name: str, size: int, stamp: str | None = None) -> bool:
        """Whether an object is uploaded in this size and, if given, with this stamp."""
        found = self._held.get(name)
        return found is not None and found.size == size and stamp in (None, found.stamp)

    def note(self, upload: Upload) -> None:
        """Note that an object was uploaded."""
        with self._lock:
            self._held[upload.name] = upload
            self._append(asdict(upload))

    def strike(self, name: str) -> None:
        """Strike out an object: its state at the store is unknown from now on."""
        with self._lock:
            if self._held.pop(name, None) is not None:
                self._append({"name": name})

    def _append(self, line: dict[str, Any]) -> None:
        with named_full_disk(self._path):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of the record up to the first that cannot be parsed: a kill may have truncated the last one."""
    with suppress(ValueError):
        for line in path.read_bytes().splitlines():
            yield json.loads(line)
