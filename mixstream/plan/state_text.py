"""States as text, and what of JSON a state is made of, before any of its fields are looked at.

Rule: what JSON readers take in different ways is refused: a key that is there twice, text that is no Unicode, numbers
that are none. Nothing here takes more than one pass over the document.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from mixstream.arguments import shown
from mixstream.errors import StateError

_DEEP = 60
"""Levels; our own states have less than ten, besides those that a user's mixer makes."""
_LARGEST = 1 << 63


def decoded(data: bytes | str) -> Any:
    """Return the JSON value of a state's text.

    >>> decoded(b'{"step":7}')
    {'step': 7}

    Raises:
        StateError: it is no JSON, or has a key twice.
    """
    try:
        return json.loads(data, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise StateError(f"the state is damaged: {error}; load an older checkpoint") from error


def check_plain(document: Any) -> None:
    """Check that a document is made of JSON's values alone, and of text and numbers that every reader takes alike.

    Raises:
        StateError: it is not.
    """
    todo: list[tuple[Any, tuple[str | int, ...], int]] = [(document, (), 0)]
    while todo:
        value, path, depth = todo.pop()
        if depth > _DEEP:
            _refuse(path[:4], f"is nested in more than {_DEEP} levels")
        if isinstance(value, str):
            _check_text(value, path)
        elif isinstance(value, Mapping):
            for key, item in value.items():
                if not isinstance(key, str):
                    _refuse(path, f"has the key {shown(key)}, which is no text")
                _check_text(key, path)
                todo.append((item, (*path, key), depth + 1))
        elif isinstance(value, list | tuple):
            todo.extend((item, (*path, at), depth + 1) for at, item in enumerate(value) if not _is_small(item))
        else:
            _check_number(value, path)


def keys_of(document: Any) -> str:
    """Return what an error shows of a document that is no state: its keys, or its type.

    >>> keys_of({"step": 7, "epoch": 1}), keys_of([7])
    ("'epoch', 'step'", 'list')
    """
    if not isinstance(document, Mapping):
        return type(document).__name__
    keys = sorted(map(shown, document))
    return ", ".join(keys[:12]) + (f" and {len(keys) - 12} more" if len(keys) > 12 else "")


def _is_small(value: Any) -> bool:
    return type(value) is int and -_LARGEST <= value < _LARGEST


def _check_number(value: Any, path: tuple[Any, ...]) -> None:
    no_limit = path[:1] == ("domains",) and path[2:] == ("max_epochs",)  # one that is never reached is none
    if isinstance(value, int) and not -_LARGEST <= value < _LARGEST and not (no_limit and value > 0):
        _refuse(path, "is a whole number of more than 64 bits")
    if isinstance(value, float) and not math.isfinite(value) and path[:2] != ("mixing", "state"):
        _refuse(path, f"is {value}, which is no number")


def _check_text(value: str, path: tuple[Any, ...]) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        _refuse(path, f"is {value[:40]!a}, which is no Unicode text")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"it has the key {ascii(twice)[:80]} more than once")
    return found


def _refuse(path: tuple[Any, ...], what: str) -> NoReturn:
    where = "".join(f"[{ascii(key)[:40]}]" for key in path) or "it"
    raise StateError(f"the state is damaged: {where} {what}; load an older checkpoint")
