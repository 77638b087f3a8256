"""Which of the listed files are datasets of shards, what lies around them, and which domains they are.

Rules. An index stands for its dataset: all other files below its directory are parts of it, or lie around it. So do
those beside the domains of a conversion. What a writer left unfinished is refused: its rest would be missing without a
word. Splits of one domain are not mixed, and domains of a conversion keep their names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mixstream.errors import ConfigError
from mixstream.storage import (
    INDEX,
    RUN,
    SUMMARY,
    describe_conversion,
    domain_name,
    find_conversion,
    join,
    open_store,
    refuse_part,
)

from ...shared.shards import read_bytes
from ..files.source_files import SourceFile
from ..files.stored_bytes import RETRY
from .listing import Skipped
from .places import LocalPlace, Place
from .store_places import FolderPlace

FORMAT = "mds"
_SPLITS = frozenset({"train", "val", "valid", "validation", "test", "eval"})


def around_datasets(files: Sequence[SourceFile], skipped: Skipped) -> set[str]:
    """Return the paths that are no sources, because they belong to a dataset or lie around one, which is counted.

    Args:
        files: all that are listed.
        skipped: where they are counted.

    Raises:
        ConfigError: a dataset, or the conversion that a SRC names, is not finished.
    """
    indexes = [file for file in files if file.path.endswith(f"/{INDEX}") and _about_index(file) is not None]
    if not indexes:
        return set()
    kept: set[str] = set()
    directories: list[str] = []
    for file in sorted(indexes, key=lambda file: file.path):
        directory = file.path.removesuffix(INDEX)
        if not directory.startswith(tuple(directories)):
            directories.append(directory)
            kept.add(file.path)
            _check_finished(file, directory)
    roots = [file.path.removesuffix(SUMMARY) for file in files if file.path.endswith(f"/{SUMMARY}")]
    roots = [root for root in roots if any(each.startswith(root) for each in directories)]
    parts = {file.path for file in files if file.path not in kept and file.path.startswith(tuple(directories))}
    beside = {file.path for file in files if file.path.startswith(tuple(roots))} - parts - kept
    if beside:
        skipped["beside the domains of a conversion", ""] += len(beside)
    return parts | beside


def domains_of(place: Place) -> list[tuple[str, Place]] | None:
    """Return the domains of a directory by the names that a conversion gave them; None if it is none's.

    It is the output of a conversion, a domain of it, or a dataset.
    """
    if isinstance(place, LocalPlace) and place.path.name == INDEX and place.path.is_file():
        directory = place.path.resolve().parent
        return [((_local_domains(directory) or [(directory.name, directory)])[0][0], place)]
    if isinstance(place, LocalPlace) and place.is_folder:
        if (place.path / RUN).is_file():
            _check_whole(str(place.path))
        found = _local_domains(place.path)
        return None if found is None else [(name, LocalPlace(path=path)) for name, path in found]
    if isinstance(place, FolderPlace):
        if RUN in place.names:
            _check_whole(place.url)
        children = sorted({name.split("/")[0] for name in place.names if name.count("/") > 1 and name.endswith(INDEX)})
        if SUMMARY in place.names:
            return [(domain_name(child), place.child(child)) for child in children] or None
        here = {name.rpartition("/")[0] for name in place.names if name.endswith(INDEX) and name.count("/") < 2}
        last, above = place.name, place.url.rstrip("/").rpartition("/")[0].rpartition("/")[2]
        if here == {""}:
            return [(domain_name(above if last in _SPLITS and above else last), place)]
        return [(domain_name(last), place)] if here and here <= _SPLITS else None
    return None


def _local_domains(directory: Path) -> list[tuple[str, Path]] | None:
    if about := _about(directory / INDEX):
        return [(str(about["domain"]), directory)] if "domain" in about else None
    children = [child for child in sorted(directory.iterdir()) if child.is_dir() and not child.name.startswith(".")]
    if (directory / SUMMARY).is_file():
        below = [child for child in children if any(child.glob(f"*/{INDEX}"))]
        return [(domain_name(child.name), child) for child in below] or None
    names = {str(about["domain"]) for child in children if "domain" in (about := _about(child / INDEX))}
    return [(names.pop(), directory)] if len(names) == 1 else None


def refuse_mixed_splits(files: Iterable[SourceFile], label: str) -> None:
    """Refuse a domain of several splits of one dataset: rows of validation would become rows of training.

    Raises:
        ConfigError: it has them.
    """
    seen: dict[str, str] = {}
    for file in files:
        directory = PurePosixPath(file.path).parent
        if file.format != FORMAT or directory.name not in _SPLITS:
            continue
        other = seen.setdefault(str(directory.parent), directory.name)
        if other != directory.name:
            raise ConfigError(
                f"{label} would mix the splits {other} and {directory.name} of {directory.parent}. Choose one: "
                f"--exclude '{'*/' if file.name.count('/') > 1 else ''}{directory.name}/*', or name it as SRC: "
                f"{directory.parent.name}={directory.parent}/{other}"
            )


def _about_index(file: SourceFile) -> dict[str, Any] | None:
    """The index of a dataset; None for another file of its name."""
    try:
        if file.stored is None:
            data = Path(file.path).read_bytes()
        else:
            data = read_bytes(file.stored.open(), file.stored.name, None, RETRY)
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("shards"), list) and "version" in found else None


def _about(index: Path) -> dict[str, Any]:
    """What `mixstream convert` says in an index; empty if it says nothing."""
    try:
        found = json.loads(index.read_bytes())
        about = found.get("mixstream", {}) if "shards" in found else {}
    except (OSError, ValueError, RecursionError, AttributeError, TypeError):
        return {}
    return about if isinstance(about, dict) else {}


def _check_whole(url: str) -> None:
    found = describe_conversion(open_store(url))
    if found is not None and found.unfinished:
        raise ConfigError(f"SRC {found.unfinished}")


def _check_finished(file: SourceFile, directory: str) -> None:
    """Refuse a part of a dataset, and a conversion that a SRC names as a whole and that is not finished."""
    url = directory
    if file.stored is not None:
        url = join(file.stored.directory, file.stored.name.rpartition("/")[0])
    refuse_part(url)
    found = find_conversion(url)
    source = file.path.removesuffix(file.name)
    if found is not None and found.unfinished and f"{found.root.rstrip('/')}/".startswith(source):
        raise ConfigError(f"SRC {found.unfinished}")
