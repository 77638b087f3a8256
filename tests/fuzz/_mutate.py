"""Damage to JSON documents, and to their bytes; no fuzzer.

A mutation is one of those that disks, editors and careless programs make: a part that is lost, doubled, replaced by an
odd value or swapped with its neighbour; a number that is a little off; bytes that are flipped, lost or cut off.
"""

from __future__ import annotations

import copy
import json
import math
import random
from typing import Any

Path = tuple[Any, ...]

ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2, 7, 8, 64, 1 << 31, 1 << 50, (1 << 53) + 1, (1 << 62), (1 << 63) - 1, 1 << 63,
    1 << 64, -(1 << 63), 10**400, 0.0, -0.0, 1.0, 0.5, 1e300, -1e300, math.inf, -math.inf, math.nan, "", "x", "\ud800",
    "\x00", "0", "NaN", "é" * 300, [], {}, [[]], [1, 2, 3], [0], [None], ["a"], {"a": 1}, {"": None}, {"dtype": "<f8"},
    "code", {"dtype": "<f8", "shape": [1 << 40], "base64": ""}, {"dtype": "O", "shape": [1], "base64": "AAAAAAAAAAA="},
    {"dtype": "<f8", "shape": [3], "base64": "AAAAAAAA8H8AAAAAAAD4fwAAAAAAAPD/"},
]  # fmt: skip


def paths(value: Any, path: Path = ()) -> list[Path]:
    """Return the paths of everything in a JSON value, itself first."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for key, item in inner for deeper in paths(item, (*path, key)))]


def at(document: Any, path: Path) -> Any:
    """Return the part of a document at a path."""
    for key in path:
        document = document[key]
    return document


def odd(rng: random.Random, value: Any) -> Any:
    """Return a value in the place of `value`: an odd one, or one that is nearly the same."""
    if rng.random() < 0.5:
        if type(value) is int:
            return value + rng.choice([-8, -2, -1, 1, 2, 8, value, -2 * value, 1 << 32])
        if type(value) is float:
            return value * rng.choice([-1.0, 0.5, 2.0, 1 + 1e-9]) + rng.choice([0.0, 1.0])
        if isinstance(value, str) and value:
            place = rng.randrange(len(value))
            return value[:place] + rng.choice(["", "A", "/", "0", "\ud800"]) + value[place + rng.randint(0, 2) :]
        if isinstance(value, bool):
            return not value
        if isinstance(value, list) and value:
            return rng.choice(
                [value[:-1], value + value[-1:], value[::-1], value * 2, value[:1], sorted(map(str, value))]
            )
    if rng.random() < 0.02:
        deep: Any = 0
        for _ in range(rng.choice([50, 3000, 100_000])):
            deep = [deep] if rng.random() < 0.5 else {"a": deep}
        return deep
    return copy.deepcopy(rng.choice(ODD))


def mutated(rng: random.Random, document: Any, *, most: int = 3) -> tuple[Any, list[Path]]:
    """Return a damaged copy of a document, and the paths that were changed."""
    document, changed = copy.deepcopy(document), []
    for _ in range(rng.choice([1] * 6 + list(range(1, most + 1)))):
        try:
            known = paths(document)[1:]
        except RecursionError:  # it is nested deeply already
            break
        if not known:
            break
        path = rng.choice(known)
        parent, key = at(document, path[:-1]), path[-1]
        changed.append(path)
        action = rng.random()
        if action < 0.15:
            del parent[key]
        elif action < 0.25:
            if isinstance(parent, list):
                parent.insert(key, copy.deepcopy(parent[key]))
            else:
                parent[rng.choice(["x", str(key) + "2", *map(str, parent)])] = copy.deepcopy(parent[key])
        elif action < 0.4:
            other = rng.choice(known)
            if other[: len(path)] != path and path[: len(other)] != other:
                place, name = at(document, other[:-1]), other[-1]
                parent[key], place[name] = place[name], parent[key]
                changed.append(other)
        else:
            parent[key] = odd(rng, parent[key])
    return document, changed


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Return damaged bytes."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        place, action = rng.randrange(max(len(out), 1)), rng.random()
        if action < 0.4 and out:
            out[place] ^= 1 << rng.randrange(8)
        elif action < 0.6:
            out[place:place] = rng.choice([b"\x00", b"\n", b"{", b"]", b'"', b"\xff", b"9" * 20, b"1e999", b"\\ud800"])
        elif action < 0.8:
            del out[place : place + rng.choice([1, 2, 10, 200])]
        elif action < 0.9:
            del out[place:]
        else:
            out[place:place] = out[place : place + rng.choice([1, 5, 100])]
    return bytes(out)


def text_of(document: Any) -> bytes:
    """Return a document as JSON, with lone surrogates and numbers that are none, as Python writes it."""
    return json.dumps(document).encode()
