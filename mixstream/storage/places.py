"""Where a dataset's files may be, from the `remote` and `local` that the user gave."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Self

from mixstream.errors import ConfigError
from mixstream.lazy import later
from mixstream.records import dataclass
from mixstream.storage.cache.owner import private_directory, private_origin
from mixstream.storage.disk_errors import check_directory
from mixstream.storage.store import Store
from mixstream.storage.url import absolute, check_path, check_utf8, is_local, join, local_path

if TYPE_CHECKING:
    from mixstream.storage.identity import identity_of
    from mixstream.storage.open import open_store
else:
    (identity_of,) = later("mixstream.storage.identity", "identity_of")
    (open_store,) = later("mixstream.storage.open", "open_store")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The places of one dataset. Attributes are those of `DatasetFiles`."""

    home: Path | None
    origin: Path | None
    store: Store | None
    identity: str

    @classmethod
    def of(cls, *, remote: str | None, local: str | None, split: str | None, timeout: float) -> Self:
        """Return the places; no request is made. Relative paths are below the present directory of the process.

        Args:
            remote: as the user gave it.
            local: as the user gave it.
            split: the directory below both; None for themselves.
            timeout: seconds per request.

        Raises:
            ConfigError: neither of them is given, one is empty, or a URL is not valid.
        """
        remote = check_utf8(absolute(remote, "remote"), "remote") if remote is not None else None
        check_path(split or "", "split")
        local = absolute(local, "local") if local is not None else None
        home = Path(os.path.realpath(local_path(local) / (split or ""))) if local is not None else None
        if home is not None:
            check_directory(Path(check_path(str(home), "local")), "local")
            check_utf8(str(home) if remote is None else "", "local")
        if remote is None and home is None:
            raise ConfigError("`remote` and/or `local` path must be provided")
        store, origin, identity = None, None, ""
        if remote is not None and not is_local(remote):
            store = open_store(join(remote, split or ""), timeout=timeout)
            identity = identity_of(join(remote, split or ""))
        elif remote is not None:
            # A link to the newest version may be set to another one while the run reads this one.
            origin = Path(check_path(os.path.realpath(local_path(remote) / (split or "")), "remote"))
            if home is not None and home == origin:
                origin = None  # its shards are in the cache directory itself
            elif home is not None:  # another disk, such as a network mount: it is copied from, as from any store
                store, origin = open_store(str(origin)), None
        return cls(home=home, origin=origin, store=store, identity=identity)


def version_directory(origin: str, index: Path | None, identity: str) -> Path:
    """Return the directory below the temporary one where versions of a dataset have theirs.

    A dataset may be rebuilt with the same sizes, and so the same index; on local disk, its modification time tells
    versions apart.

    Args:
        origin: where the dataset is.
        index: the file of its index, if that is on local disk; None otherwise.
        identity: what identifies it besides (`identity_of`).
    """
    stamp = f":{index.stat().st_mtime_ns}" if index is not None and index.is_file() else ""
    return private_directory(private_origin(origin + stamp, identity))
