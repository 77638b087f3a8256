"""SRC arguments as they are typed → names of domains and places; and which domain each place is.

    NAME=PATH                   the domain NAME; several SRC with one NAME are one domain
    a file                      a domain named after it, without its suffixes: web.jsonl.gz → web
    a directory                 a domain named after it
    one directory alone that    a domain for each of them
    holds only directories
    -                           standard input: the domain `stdin`, or NAME in NAME=-

PATH may be a URL, and a pattern.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mixstream.errors import ConfigError
from mixstream.storage import is_local, local_path, redact

from ..documents.domain_names import check_domain_name
from .datasets import domains_of
from .places import Place

BY_KEY = ".by-key"
"""Name of the group of all files if --domain-key is given; no domain of the command line can have this name."""
STDIN = "-"


def split_source(source: str) -> tuple[str | None, str]:
    """Split `NAME=PATH`; the name is None for `PATH`. What a directory begins is no name: `./a=b` is a path."""
    name, sign, path = source.partition("=")
    given, path = (name, path) if sign and not _is_path(name, source) else (None, source)
    if not path:
        raise ConfigError(
            f"SRC {redact(source)!r}: no path follows the name. Write NAME=PATH, or ./{source} for a path."
        )
    if given is not None and check_domain_name(given) == BY_KEY:
        raise ConfigError(f"SRC {redact(source)!r}: a domain cannot be called {BY_KEY!r}. Give it another name.")
    return given, str(local_path(path)) if is_local(path) else path


def name_domains(named: Sequence[tuple[str | None, Place]]) -> list[tuple[str, Place]]:
    """Domain and place of each SRC, by the table at the top of this file."""
    (name, place), *others = named
    if name is None and not others and (domains := domains_of(place)) is not None:
        named = [*domains]
    elif name is None and not others and (folders := place.folders()):
        named = [(None, folder) for folder in folders]
    domains = []
    unnamed: dict[str, Place] = {}
    for given, at in named:
        name = given if given is not None else at.name
        if given is None and unnamed.setdefault(name, at) is not at:
            first = unnamed[name].shown
            raise ConfigError(
                f"SRC {first} and {at.shown} would both be the domain {name!r}. Give one of them another name, "
                f"OTHER={at.shown}, or say that they belong together: {name}={first} {name}={at.shown}"
            )
        domains.append((check_domain_name(name), at))
    if both := [name for name, _ in named if name is not None and name in unnamed]:
        at = unnamed[both[0]].shown
        raise ConfigError(f"SRC {at} would be the domain {both[0]!r} too. If they belong together: {both[0]}={at}")
    seen: dict[str, str] = {}
    for name, _ in domains:
        if seen.setdefault(name.casefold(), name) != name:
            raise ConfigError(
                f"domains {seen[name.casefold()]!r} and {name!r} would be one directory on file systems where case is "
                f"ignored. Give one of them another name: NAME=PATH"
            )
    return domains


def _is_path(name: str, source: str) -> bool:
    """Whether what stands before `=` is the beginning of a path, as in `./a=b` and `data/lang=en`, and not a domain."""
    if not is_local(source) or source.startswith("file://"):  # a query, or a directory `lang=en` of a store
        return True
    head = name.rpartition("/")[0]
    return "/" in name and (
        Path(head).expanduser().is_dir() or name.startswith((".", "~", "/")) or Path(source).exists()
    )
