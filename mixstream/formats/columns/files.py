"""Which files of a directory a stream of columns has.

Rules. A folder that `save_to_disk` of Hugging Face wrote has the files that its state.json lists, in that order; other
files in it are caches. Any other directory has its Parquet or Arrow files, by name. Files of several splits, which
the hub keeps in one directory, are never read as one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Protocol

from mixstream.errors import ConfigError, IndexCorruptError, IndexNotFoundError
from mixstream.lazy import later, pattern

if TYPE_CHECKING:
    from mixstream.formats.columns.describe import Described
    from mixstream.formats.columns.schema import shown
else:
    (Described,) = later("mixstream.formats.columns.describe", "Described")
    (shown,) = later("mixstream.formats.columns.schema", "shown")


SUFFIXES = (".parquet", ".arrow", ".feather", ".ipc")
"""How files end that have columns of token ids."""

STATE, SPLITS, INFO = "state.json", "dataset_dict.json", "dataset_info.json"
_LARGEST = 64 << 20
_TOKENS = (".idx", ".bin", ".ds", ".npy")  # files of bare tokens
_OF_SPLIT = pattern(r"(?P<split>.+?)[-_.]\d{5}-of-\d{5}\.\w+", re.ASCII)
_SPLIT_NAME = pattern(r"(?P<split>train|test|validation|valid|val|dev|eval)(ing)?([-_.\d].*)?", re.ASCII)


class Files(Protocol):
    """The files of a store: local ones, or objects."""

    @property
    def place(self) -> str:
        """The directory, for errors."""
        ...

    def names(self, prefix: str) -> list[str]:
        """Return the names of all files that begin with `prefix`, sorted."""
        ...

    def info(self, name: str) -> Described:
        """Return what is known of a file; raise a FileNotFoundError if there is none."""
        ...

    def read(self, name: str, begin: int, end: int) -> bytes:
        """Return the bytes [begin, end) of a file."""
        ...


def is_column_file(name: str) -> bool:
    """Return whether a name, or a pattern of names, is one of a file with columns."""
    return name.endswith(SUFFIXES)


def find_column_files(look: Files, name: str | None) -> list[str]:
    """Return the files with columns of a directory, in the order in which they are read; none if it has none.

    Args:
        look: its files.
        name: one of them, or a pattern of names, `"train-*.parquet"`; None for all.

    Raises:
        ConfigError: they are of several splits, or the folder has others than its state.json lists.
        IndexNotFoundError: no file is as `name` says.
    """
    if name is not None and "*" not in name:
        return [name] if is_column_file(name) else []
    if name is not None:
        found = [
            each for each in look.names("") if "/" not in each and fnmatchcase(each, name) and is_column_file(each)
        ]
        if not found:
            raise IndexNotFoundError(
                f"{look.place}: no file is called like {name!r} that is of Parquet or Arrow; "
                "of other token files, name their directory"
            )
        return found
    if (state := _read_json(look, STATE)) is not None:
        return _saved(look, state)
    names = look.names("")
    found = [each for each in names if is_column_file(each) and "/" not in each and not each.startswith((".", "_"))]
    if SPLITS in names:
        splits = (_read_json(look, SPLITS) or {}).get("splits")
        raise ConfigError(
            f"{look.place} has the splits {shown(list(map(str, splits or [])))}: give the one to be read as `split`"
        )
    if INFO in names:  # the cache of `datasets`: results of `map` lie beside the dataset
        found = [each for each in found if not each.startswith(("cache-", "tmp"))]
    if found and (others := [each for each in names if "/" not in each and each.endswith(_TOKENS)]):
        raise ConfigError(
            f"{look.place} has {found[0]} and {others[0]}, and it is not clear which have the tokens: name the "
            f"files to be read, as {look.place}/*.{found[0].rpartition('.')[2]}, or move the others"
        )
    _check_one_split(look.place, found)
    return found


def column_directories(names: Sequence[str]) -> list[str]:
    """Return the directories, of those that names are in, that have files with columns."""
    return sorted({name.rpartition("/")[0] for name in names if "/" in name and is_column_file(name)})


def _saved(look: Files, state: Any) -> list[str]:
    """Return the files that a state.json lists."""
    place = f"{look.place}/{STATE}"
    try:
        listed = [(str(each["filename"]), each.get("skip"), each.get("take")) for each in state["_data_files"]]
        moved = state.get("_indices_data_files") or state.get("_indices_files")
    except (TypeError, KeyError, AttributeError) as error:
        raise IndexCorruptError(
            f"{place} lists no `_data_files`, as those of `save_to_disk` do; save the dataset again, or give its files "
            "one by one"
        ) from error
    if moved or any(part is not None for _, *parts in listed for part in parts):
        raise ConfigError(
            f"{place}: the dataset was saved with a list of the rows that count, which is not read: call "
            "flatten_indices() and save it again"
        )
    return [name for name, _, _ in listed]


def _check_one_split(place: str, names: Sequence[str]) -> None:
    splits: dict[str, str] = {}
    for name in names:
        found = _SPLIT_NAME.fullmatch(name.rpartition(".")[0]) or _OF_SPLIT.fullmatch(name)
        if found is not None:
            splits.setdefault(found["split"], name)
    if len(splits) > 1:
        raise ConfigError(
            f"{place} has files of several splits, {shown(sorted(splits.values()))}: give those to be read, as "
            f"{place}/{min(splits)}-*.{names[0].rpartition('.')[2]}"
        )


def _read_json(look: Files, name: str) -> Any:
    """Return the content of a JSON file; None if there is none."""
    try:
        size = look.info(name).size
    except FileNotFoundError:
        return None
    try:
        return json.loads(look.read(name, 0, min(size, _LARGEST)))
    except ValueError as error:
        raise IndexCorruptError(f"{look.place}/{name} is no JSON ({error}); copy it again from its origin") from error
