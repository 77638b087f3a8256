"""`manifest.json`: what an artefact is, what its files are, and how it was made.

Rules: a manifest is untrusted. Its JSON is read into typed records, and a record names no file: the names of files
follow from what it says (`rows.npy`, a column's name), so none leads out of the directory. `made` is for people and for
resuming; what decides the content of an artefact is in `made["inputs"]`, and only that is compared. Times, paths and
commands never enter an id.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mixstream.errors import ConfigError, SelectionError
from mixstream.selection.npy import REMEDY, refuse
from mixstream.selection.staging import MANIFEST, PARTS
from mixstream.storage import absolute, is_local, local_path, redact

SCORES = "mixstream.scores/1"
SCORES_PART = "mixstream.scores.part/1"
SELECTION = "mixstream.selection/1"
PROTOTYPES = "mixstream.prototypes/1"
_OTHERS = {
    (SCORES, SELECTION): "these are scores: make a selection of them with `mixstream select top`, and give that",
    (SELECTION, SCORES): "this is a selection: give the scores that it was made of",
}
_KINDS = {"scores": SCORES, "selection": SELECTION, "prototypes": PROTOTYPES}

_DIRECTORY = re.compile(r"(?:(?!\.)[^\x00-\x1f\x7f/]+/)*(?!\.)[^\x00-\x1f\x7f/]+")  # no part leads out, or is hidden


class FileRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of an artefact: its size in bytes, and its hash."""

    bytes: int
    xxh3_128: str


class _Head(msgspec.Struct):
    format: str


_decode_head = msgspec.json.Decoder(_Head).decode  # made here: threads that are the first to decode one type can crash


_Record = TypeVar("_Record")
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # what bytes that are no JSON raise


def provenance(inputs: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
    """Return how an artefact is made, for `made` of its manifest.

    >>> made = provenance({"seed": 0, "parents": {"embeddings": "5f1c"}}, rows=10)
    >>> made["program"], made["inputs"]["seed"], made["rows"]
    ('mixstream', 0, 10)

    Args:
        inputs: everything that decides the content: ids of parents, settings, seeds, hashes of files that were read. A
            command that is run again goes on where all of it is equal, and only then.
        facts: more that people may want to know.

    Raises:
        ConfigError: JSON cannot hold one of them.
    """
    made = {
        "program": "mixstream",
        "version": version("mixstream-data"),
        "command": [redact(word) for word in sys.argv],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": inputs,
        **facts,
    }
    return as_json(made, "made")


def as_json(value: Any, what: str) -> Any:
    """Return `value` as it is after it was written as JSON and read again; numpy's numbers become Python's.

    Raises:
        ConfigError: JSON cannot hold it; `what` names it.
    """
    try:
        return json.loads(json.dumps(value, allow_nan=False, default=_plain))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{what} cannot be written as JSON ({error}); give numbers, texts, lists and dicts"
        ) from error


def encode_manifest(content: Mapping[str, Any]) -> bytes:
    """Return the bytes of a manifest: JSON values (`as_json`), keys sorted."""
    return msgspec.json.format(msgspec.json.encode(content, order="sorted"), indent=1) + b"\n"


def decode_manifest(data: bytes, record: type[_Record], formats: tuple[str, ...], *, where: str) -> _Record:
    """Return a manifest as a record.

    Raises:
        SelectionError: it is no JSON, of another format or version, or a value in it is invalid.
    """
    try:
        found = _decode_head(data).format
    except _UNREADABLE as error:  # also values of another type
        refuse(where, f"not the manifest of an artefact ({error})")
    if found not in formats:
        kind = found.rpartition("/")[0]
        newer = any(kind == known.rpartition("/")[0] for known in formats)
        hint = (
            "update mixstream, or make it again with this version"
            if newer
            else _OTHERS.get((found, formats[0]), f"give one of {' or '.join(formats)}")
        )
        raise SelectionError(f"{where}: its format is {found[:80]!r}, {formats[0]!r} is needed here; {hint}")
    try:
        return msgspec.json.decode(data, type=record)
    except _UNREADABLE as error:
        refuse(where, f"its manifest is invalid ({error})")


def is_artefact(path: Path, formats: tuple[str, ...]) -> bool:
    """Return whether the directory has a manifest of one of these formats."""
    try:
        return _decode_head((path / MANIFEST).read_bytes()).format in formats
    except (OSError, *_UNREADABLE):
        return False


def find_artefacts(path: str | PathLike[str], kind: str) -> dict[str, Path]:
    """Return the artefacts of a kind at a path, by domain: the one that it is, or those in its sub-directories.

    Scores of which only parts exist are found too.

    Args:
        path: a directory on local disk.
        kind: `"scores"`, `"selection"` or `"prototypes"`.

    Raises:
        SelectionError: there is none, or one whose domain cannot be the name of a directory below another.
        ConfigError: the path is a URL of a store, or no kind.
    """
    if kind not in _KINDS:
        raise ConfigError(f"kind is {kind!r}; give one of {list(_KINDS)}")
    place = directory_of(path)
    formats = (_KINDS[kind],)
    below = sorted(item for item in place.iterdir() if item.is_dir()) if place.is_dir() else []
    found: dict[str, Path] = {}
    for item in [place, *below]:
        if is_artefact(item, formats) or (kind == "scores" and _parts(item)):
            if (other := found.get(name := _domain(item))) is not None:
                raise SelectionError(f"{other} and {item} both describe the domain {name!r}; give one of them")
            found[name] = item
            if item == place:
                break
    if not found:
        other = [name for name, known in _KINDS.items() if name != kind and is_artefact(place, (known,))]
        hint = f"; {_OTHERS.get((_KINDS[other[0]], _KINDS[kind]), f'it is a {other[0]} artefact')}" if other else ""
        exists = "" if place.exists() else ": there is no such directory"
        raise SelectionError(f"no {kind} in {place} or in a directory below it{exists}{hint}; check the path")
    return found


def directory_of(path: str | PathLike[str]) -> Path:
    """Return a path, or a file:// URL, as a directory on local disk.

    Raises:
        ConfigError: it is a URL of a store.
    """
    if isinstance(path, str):
        if not is_local(path):
            raise ConfigError(f"{redact(path)!r} is not on local disk, which is needed here; copy it to a directory")
        return local_path(absolute(path, "the path"))
    return Path(absolute(path, "the path"))


def check_made(made: Mapping[str, Any]) -> dict[str, Any]:
    """Return `made` as JSON values.

    Raises:
        ConfigError: it has no `inputs`, or JSON cannot hold it.
    """
    if not isinstance(made.get("inputs"), Mapping):
        raise ConfigError("made has no 'inputs'; make it with mixstream.selection.provenance(inputs, ...)")
    return as_json(made, "made")


def _parts(path: Path) -> list[Path]:
    return sorted(item.parent for item in (path / PARTS).glob(f"*/{MANIFEST}"))


def _domain(path: Path) -> str:
    """Return the domain that an artefact says it describes."""
    manifest = next((item / MANIFEST for item in [path, *_parts(path)] if (item / MANIFEST).is_file()), path / MANIFEST)
    try:
        found = str(msgspec.json.decode(manifest.read_bytes(), type=dict[str, Any])["domain"])
    except (OSError, KeyError, *_UNREADABLE) as error:
        raise SelectionError(f"{manifest}: it names no domain ({error!r}); {REMEDY}") from error
    if not _DIRECTORY.fullmatch(found):
        refuse(str(manifest), f"its domain is called {found[:80]!r}, which cannot be the name of a directory")
    return found


def _plain(value: Any) -> Any:
    """Return numpy's numbers and arrays, and mappings, as what JSON has."""
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, PathLike):
        return str(value)
    raise TypeError(f"{type(value).__name__} {value!r:.80}")
