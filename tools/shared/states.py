"""A saved state of a run, alone in a JSON file or in a checkpoint of torch. It only reads, and runs no code of it."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mixstream.errors import ConfigError, StateError
from mixstream.plan import RunState, decoded, parse_state

_DEPTH = 3
_FAULTS = (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, OSError)
"""What torch raises of a damaged checkpoint, or one that holds other things than tensors and plain values."""


def read_state(path: Path) -> tuple[RunState, str]:
    """Return the state in a file, and where it is: the file, and the position in it.

    Raises:
        ConfigError: the file is neither a state nor a checkpoint with one.
        StateError: the state is damaged.
    """
    if not path.is_file():
        raise ConfigError(f"{path} does not exist, or is no file: give a saved state or a checkpoint")
    with path.open("rb") as file:
        beginning = file.read(64)
    document = _json(path) if beginning.lstrip()[:1] in (b"{", b"[") else _checkpoint(path)
    place, state = _find_state(document, path)
    return parse_state(state), f"{path}{place}"


def _json(path: Path) -> Any:
    try:
        return decoded(path.read_bytes())
    except StateError as error:
        raise ConfigError(
            f"{path} begins like JSON but cannot be parsed ({error}): give a log, a state or a checkpoint"
        ) from error


def _checkpoint(path: Path) -> Any:
    import torch

    if not zipfile.is_zipfile(path):  # torch.save writes zip files
        raise ConfigError(f"{path} is neither a mixing log, nor a state, nor a checkpoint of torch: give one of these")
    try:
        return torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except _FAULTS as error:
        raise ConfigError(
            f"{path} cannot be loaded by torch without running code from it ({_first_line(error)}): save the "
            "state alone as JSON, and give that file"
        ) from error


def _find_state(document: Any, path: Path) -> tuple[str, Mapping[str, Any]]:
    """Return the position of the state in `document`, and the state."""
    found = list(_states(document, "", _DEPTH))
    if not found:
        keys = sorted(map(str, document)) if isinstance(document, Mapping) else type(document).__name__
        raise ConfigError(
            f"{path} holds no state of mixstream (it has {keys}): save loader.state_dict() into the checkpoint"
        )
    if len(found) > 1:
        raise ConfigError(f"{path} holds several states, at {[place for place, _ in found]}: save one of them alone")
    return found[0]


def _states(value: Any, place: str, depth: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not isinstance(value, Mapping) or not depth:
        return
    if ("mixstream" in value and "domains" in value) or (len(value) == 1 and isinstance(value.get("state"), bytes)):
        yield place, value
        return
    for key, item in value.items():
        yield from _states(item, f"{place}[{key!r}]", depth - 1)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
