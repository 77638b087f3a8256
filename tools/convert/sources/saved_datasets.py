"""Folders of Hugging Face datasets below a SRC: which files of them are data, and which splits they are.

    save_to_disk(DIR)   a Dataset: DIR/state.json names the shards in their order; DIR/dataset_info.json, and the caches
                        of `map`, hold no documents
                        a DatasetDict: DIR/dataset_dict.json and a Dataset for each split
    Delta Lake, Iceberg tables whose log says which of their files count: refused
    a hub's repository  tables such as train-00000-of-00002.parquet or en/test/0000.parquet

Rule. The shards of a saved dataset are those that its state.json names, all of them. Tables of several splits are never
one SRC: a split for tests that comes into the text for training is found by nobody later, so it has to be named. Of
other formats with records, whose files are often named by chance, they are joined with a warning.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from mixstream.errors import ConfigError

from ..files.choice import Choice
from ..files.source_files import SourceFile, split_name
from ..readers import READERS
from .listing import DELTA_LOG, Skipped
from .places import Entry

Load = Callable[[SourceFile], bytes]
"""A function from a file to the beginning of its bytes."""

_STATE, _INFO, _DICT = "state.json", "dataset_info.json", "dataset_dict.json"
_ABOUT, _CACHE = "files about saved datasets", re.compile(r"cache-[0-9a-f]{8,}(_\d+_of_\d+)?\.arrow")
_SPLIT = r"train|test|validation|valid|val|dev|eval"
_SPLIT_OF_FILE = re.compile(rf"(?:.*[-_.])?({_SPLIT})(?:[-_.]\d+)?(?:-of-\d+)?(?:-[0-9a-f]{{16}})?", re.IGNORECASE)
_SPLIT_OF_FOLDER = re.compile(_SPLIT, re.IGNORECASE)
_TABLES = READERS["parquet"].suffixes | READERS["arrow"].suffixes


def without_bookkeeping(
    entries: Iterable[Entry], *, shown: str, choice: Choice, skipped: Skipped, load: Load
) -> Iterator[Entry]:
    """Yield the entries of a directory without the bookkeeping of saved datasets, and their shards in order.

    Args:
        entries: all files of the directory.
        shown: the SRC, for errors.
        choice: which of them will be read.
        skipped: counts what is left out.
        load: reads the beginning of a file.

    Raises:
        ConfigError: a shard is missing, a dataset is a selection of rows by indices or by a log, or there are several
            splits.
    """
    listed = list(entries)
    _refuse_logged(listed, shown)
    folders = {_folder(entry) for entry in listed if _base(entry) == _STATE}
    shards = {folder: _shards(folder, listed, shown, load) for folder in sorted(folders)}
    shards = {folder: names for folder, names in shards.items() if names is not None}
    kept = list(_kept(listed, shards, skipped))
    dicts = {_folder(entry) for entry in listed if _base(entry) == _DICT}
    splits = {folder: PurePosixPath(folder).name for folder in shards if str(PurePosixPath(folder).parent) in dicts}
    _refuse_mixed([entry for entry in kept if choice.takes(entry.file.name)], splits, shown)
    yield from kept


def is_cache(entry: Entry) -> bool:
    """Whether a file that is not named itself is a cache of `map`: rows of a dataset once more."""
    return not entry.named and _CACHE.fullmatch(_base(entry)) is not None


def describe_joined_splits(files: Sequence[SourceFile], label: str) -> str | None:
    """Return the warning that files with records are of several splits, by their paths below all of them; else None."""
    files = [file for file in files if READERS[file.format].has_fields]
    splits: dict[str, list[str]] = {}
    begin = len(_folder_of_all([file.path for file in files]))
    for file in files:
        if split := _split_of(file.path[begin:]):
            splits.setdefault(split, []).append(file.path[begin:])
    if len(splits) < 2:
        return None
    counts = ", ".join(f"{split} ({len(names):,} files, {names[0]} …)" for split, names in splits.items())
    return (
        f"{label} joins files of several splits: {counts}. If some are not for training, leave them out with "
        "--include or --exclude."
    )


def _folder_of_all(paths: Sequence[str]) -> str:
    shared = os.path.commonprefix(paths)  # noqa: RUF071  # of characters: it is cut at a slash
    return shared[: shared.rfind("/") + 1]


def _kept(listed: list[Entry], shards: Mapping[str, list[Entry]], skipped: Skipped) -> Iterator[Entry]:
    begun: set[str] = set()
    dicts = {str(PurePosixPath(folder).parent) for folder in shards}
    for entry in listed:
        folder, base = _folder(entry), _base(entry)
        if is_cache(entry):
            skipped[_ABOUT, "cache-….arrow"] += 1
        elif base == _DICT and folder in dicts:
            skipped[_ABOUT, base] += 1
        elif folder not in shards:
            yield entry
        elif entry in shards[folder]:
            if folder not in begun:
                begun.add(folder)
                yield from shards[folder]
        elif base in {_STATE, _INFO}:
            skipped[_ABOUT, base] += 1
        elif base.endswith(".arrow"):
            skipped["not named by the state.json of its dataset", base] += 1
        else:
            yield entry


def _shards(folder: str, listed: Iterable[Entry], shown: str, load: Load) -> list[Entry] | None:
    """The shards of a saved dataset, in order; None if its state.json is another program's."""
    inside = {_base(entry): entry for entry in listed if _folder(entry) == folder}
    state = _parsed(load(inside[_STATE].file))
    if state is None or not isinstance(state.get("_data_files"), list):
        return None
    where = f"SRC {shown}" if folder == "." else f"SRC {shown}, the saved dataset {folder}"
    if state.get("_indices_data_files"):
        raise ConfigError(
            f"{where}: its rows are a selection from its shards, by a list of indices that an older `datasets` "
            "wrote beside them. Save it again: load_from_disk(DIR).flatten_indices().save_to_disk(OTHER)."
        )
    names = [each.get("filename") if isinstance(each, dict) else None for each in state["_data_files"]]
    if missing := [name for name in names if name not in inside]:
        raise ConfigError(
            f"{where}: state.json names {len(names):,} files, and {len(missing):,} of them are not there: "
            f"{missing[0]!r}. Copy the folder again, or save it again."
        )
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError(f"{where}: state.json names {twice[0]!r} twice. Save the dataset again.")
    return [inside[name] for name in names if isinstance(name, str)]


def _refuse_logged(listed: Iterable[Entry], shown: str) -> None:
    """Refuse tables of Delta Lake and Iceberg, whose directories hold rows that were removed or replaced, too."""
    for entry in listed:
        path = PurePosixPath(entry.file.name)
        is_delta = DELTA_LOG in path.parts
        if is_delta or (path.parent.name == "metadata" and path.name.endswith(".metadata.json")):
            parts = path.parts[: path.parts.index(DELTA_LOG if is_delta else "metadata")]
            table = "/".join([shown.rstrip("/"), *parts])
            kind = "Delta Lake" if is_delta else "Iceberg"
            raise ConfigError(
                f"SRC {shown}: {table} is a table of {kind}. Its files hold rows that were removed or replaced, too, "
                "and only its log says which. Write the rows that count to Parquet (DuckDB, Spark and polars read such "
                f"tables); or, if none was ever removed, name the files: '{table}/*.parquet'."
            )


def _refuse_mixed(taken: Iterable[Entry], named: Mapping[str, str], shown: str) -> None:
    """Refuse tables of several splits; `named` are the folders of which a dataset says that they are splits."""
    splits: dict[str, list[str]] = {}
    for entry in taken:
        name = entry.file.name
        if split_name(name)[1] in _TABLES and (split := named.get(_folder(entry)) or _split_of(name)):
            splits.setdefault(split, []).append(name)
    if len(splits) < 2:
        return
    counts = ", ".join(f"{split} ({len(names):,} files, {names[0]} …)" for split, names in splits.items())
    split = "train" if "train" in splits else next(iter(splits))
    folder = PurePosixPath(splits[split][0]).parent
    inside = folder.name.lower() == split.lower()
    way = f"NAME={shown.rstrip('/')}/{folder}" if inside else f"NAME={shown} --include '*{split}*'"
    if inside and len(splits[split]) > 1 and folder.parent.name:
        way += f", or all of its {len(splits[split]):,} files: --include '*/{folder.name}/*'"
    raise ConfigError(
        f"SRC {shown} holds tables of several splits, which would become one text: {counts}. Name the one that is to "
        f"be converted: {way}. For several of them, give each one as a SRC, of one NAME or of several."
    )


def _split_of(name: str) -> str | None:
    """The split that a table's folder or its name says."""
    path = PurePosixPath(name)
    if found := _SPLIT_OF_FOLDER.fullmatch(path.parent.name):
        return found[0].lower()
    found = _SPLIT_OF_FILE.fullmatch(split_name(path.name)[0])
    return found[1].lower() if found else None


def _parsed(data: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _folder(entry: Entry) -> str:
    return str(PurePosixPath(entry.file.name).parent)


def _base(entry: Entry) -> str:
    return entry.file.name.rpartition("/")[2]
