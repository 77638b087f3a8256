"""`--domain-map`: a file that says which domain each value of a field, or each file, belongs to.

    value,domain            {"github": "code", "crawl-*": "web"}
    github,code
    crawl-*,web

A value is looked up as it stands, then the patterns (`*`, `?`, `[…]`) are tried in the order of the file.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mixstream.errors import ConfigError

from .domain_names import check_domain_name

_WILD = frozenset("*?[")


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainMap:
    """The content of a map.

    Attributes:
        pairs: value or pattern, and domain, in the order of the file.
        default: the domain of all other values; None: a document with one is bad.
    """

    pairs: tuple[tuple[str, str], ...]
    default: str | None = None

    @classmethod
    def read(cls, path: str | Path, default: str | None = None) -> DomainMap:
        """Read a file; ConfigError says what is wrong with it, and where."""
        option, path = f"--domain-map {path}", Path(path)
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except OSError as error:
            raise ConfigError(f"{option}: it cannot be read ({error.strerror}).") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{option}: it is not UTF-8 (byte {error.start}).") from error
        pairs = _of_json(text, option) if text.lstrip().startswith("{") else _of_table(text, option)
        seen: dict[str, str] = {}
        for value, domain in pairs:
            if seen.setdefault(value, domain) != domain:
                raise ConfigError(f"{option}: {value!r} is given two domains, {seen[value]!r} and {domain!r}.")
            check_domain_name(domain)
        if not seen:
            raise ConfigError(f"{option}: it has no pair of a value and a domain.")
        if default is not None:
            check_domain_name(default)
        return cls(pairs=tuple(seen.items()), default=default)

    def describe(self) -> dict[str, Any]:
        """Its entry in the recipe."""
        content = json.dumps(self.pairs).encode()
        return {"pairs": len(self.pairs), "hash": hashlib.sha256(content).hexdigest(), "default": self.default}

    def finder(self) -> MapFinder:
        """What looks values up."""
        return MapFinder(self)


class MapFinder:
    """Looks values up in a map; each pattern is tried once for each value.

    >>> finder = DomainMap(pairs=(("github", "code"), ("crawl-*", "web"))).finder()
    >>> finder("github"), finder("crawl-2024")
    ('code', 'web')
    """

    def __init__(self, content: DomainMap) -> None:
        self._default = content.default
        self._known = dict(content.pairs)
        self._patterns = [pair for pair in content.pairs if not _WILD.isdisjoint(pair[0])]

    def __call__(self, value: str) -> str:
        """The domain of a value; ValueError if the map has none."""
        found = self._known.get(value)
        if found is None:
            found = next((domain for pattern, domain in self._patterns if fnmatchcase(value, pattern)), self._default)
            if found is None:
                raise ValueError(f"--domain-map has no domain for {value!r:.200}, and there is no --domain-default")
            if len(self._known) < 1 << 16:
                self._known[value] = found
        return found


def _of_json(text: str, option: str) -> Iterable[tuple[str, str]]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{option}: it is not JSON: {error}.") from error
    wrong = next((value for value, domain in found.items() if not isinstance(domain, str)), None)
    if wrong is not None:
        raise ConfigError(f"{option}: the domain of {wrong!r} is {found[wrong]!r:.60}, not a text.")
    return found.items()


def _of_table(text: str, option: str) -> Iterable[tuple[str, str]]:
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    for number, row in enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), 1):
        if not row or (number == 1 and row[1:] == ["domain"]):
            continue
        if len(row) != 2:
            raise ConfigError(f"{option}, line {number}: it has {len(row)} columns; give a value and its domain.")
        yield row[0], row[1]
