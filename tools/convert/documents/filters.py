"""Which documents are taken: by a condition on fields, by a list of ids, by a function of the user.

Rule: a filter answers yes or no. What it cannot answer, since a field is missing or of another kind, makes the document
bad; nothing is left out only because it is not known. Documents that a filter leaves out are counted under its name.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from mixstream.errors import ConfigError
from mixstream.selection import Condition, record_condition

from ...shared.compressed import COMPRESSIONS, FAULTS, decompress
from .functions import UserFunction

Kind = Literal["condition", "ids", "drop-ids", "function"]
_OPTIONS: dict[Kind, str] = {
    "condition": "--filter",
    "ids": "--filter-ids",
    "drop-ids": "--drop-ids",
    "function": "--filter-function",
}
Lookup = Callable[[str], Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """One filter.

    Attributes:
        kind: what it asks.
        of: the condition, the path of the list, or `module:function`.
        hash: of the list, or of the file that defines the function.
    """

    kind: Kind
    of: str
    hash: str | None = None

    @classmethod
    def condition(cls, text: str) -> Filter:
        """Keep documents for which a condition holds: `language == 'en' and score > 0.5`. Raises ConfigError."""
        Condition.parse(text)
        return cls(kind="condition", of=text)

    @classmethod
    def ids(cls, path: str, *, drop: bool = False) -> Filter:
        """Keep documents whose id is a line of a file (.gz, .zst), or with `drop` all others. Raises ConfigError."""
        kind: Kind = "drop-ids" if drop else "ids"
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise ConfigError(f"{_OPTIONS[kind]} {path}: it cannot be read ({error.strerror}).") from error
        made = cls(kind=kind, of=str(Path(path).resolve()), hash=hashlib.sha256(content).hexdigest())
        if not _ids(made.of, made.hash):
            raise ConfigError(f"{_OPTIONS[kind]} {path}: it has no id; give one in each line.")
        return made

    @classmethod
    def function(cls, name: str) -> Filter:
        """Keep documents for which `module:function` returns true. Raises ConfigError."""
        return cls(kind="function", of=name, hash=UserFunction.find("--filter-function", name).hash)

    @property
    def label(self) -> str:
        """What its documents are counted under."""
        return f"{_OPTIONS[self.kind]} {self.of if self.kind in {'condition', 'function'} else Path(self.of).name}"

    def describe(self) -> dict[str, Any]:
        """Its entry in the recipe."""
        of = self.of if self.kind in {"condition", "function"} else Path(self.of).name
        return {"kind": self.kind, "of": of, "hash": self.hash}

    def names(self, id_: str | None) -> tuple[str, ...]:
        """The fields that it needs, where the id is the field `id_`."""
        if self.kind == "condition":
            return tuple(sorted(Condition.parse(self.of).columns))
        return (id_,) if id_ is not None and self.kind in {"ids", "drop-ids"} else ()

    def compiled(self) -> Callable[[Lookup, Callable[[], str], Mapping[str, Any]], bool]:
        """Return a function of a field look-up, a document's id, and the whole record; ValueError where it fails."""
        if self.kind == "condition":
            holds = record_condition(Condition.parse(self.of))
            return lambda lookup, id_, record: holds(lookup)
        if self.kind == "function":
            function = UserFunction("--filter-function", self.of, self.hash)
            return lambda lookup, id_, record: bool(function(record))
        ids, wanted = _ids(self.of, self.hash), self.kind == "ids"
        return lambda lookup, id_, record: (id_() in ids) == wanted


@lru_cache(maxsize=4)
def _ids(path: str, hash_: str | None) -> frozenset[str]:
    """The ids of a list; ConfigError if it changed since the command began."""
    content = Path(path).read_bytes()
    if hashlib.sha256(content).hexdigest() != hash_:
        raise ConfigError(f"{path}: the list of ids changed while it was in use. Run the command again.")
    try:
        content = decompress(io.BytesIO(content), COMPRESSIONS.get(Path(path).suffix[1:], "")).read()
    except FAULTS as error:
        raise ConfigError(f"{path}: the list of ids is damaged ({error}); write it again.") from error
    try:
        lines = content.decode("utf-8-sig").split("\n")  # an id may hold what Unicode calls the end of a line
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: the list of ids is not UTF-8 (byte {error.start}); give one id in each line."
        ) from error
    return frozenset(each for line in lines if line.strip() for each in (line.removesuffix("\r"), line.strip()))
