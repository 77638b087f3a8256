"""`--config corpus.toml`: sources with options of their own.

    [[source]]
    path = "s3://crawl/2024/*.parquet"
    domain = "web"
    text-key = "content"
    filter = ["language == 'en'"]

    [[source]]
    path = "code/"
    include = ["*.py", "*.rs"]

Rules. A source has the options of the command, and replaces those that it names. They are part of the domain's sources:
a changed one makes only that domain another. Paths are as on the command line; what is unknown is refused.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from mixstream.errors import ConfigError

from ..documents.fields import Fields
from ..documents.options import DocumentOptions
from ..files.choice import Choice
from ..readers import READERS
from .naming import split_source

TOPICS = """CONFIG. --config corpus.toml names sources with options of their own:

    [[source]]
    path = "s3://crawl/2024/*.parquet"
    domain = "web"
    text-key = "content"
    filter = ["language == 'en'"]

A source may have include, exclude, as-text, format, extract, and all options
of Documents below; those that it does not name are the command's.
"""
"""What the help of the command says of them."""
_DOCUMENTS = {field.name.replace("_", "-"): str(field.type) for field in fields(DocumentOptions)}
_CHOICES = ("format", "include", "exclude", "as-text")
_EXTRACT = "extract"
_MANY = {"include", "exclude", "as-text", "filter", "keep"}


@dataclass(frozen=True, slots=True)
class Source:
    """A SRC.

    Attributes:
        typed: as on the command line, `NAME=PATH` or `PATH`.
        fields: what its documents are; None for what the command says.
        choice: which of its files are read; None for what the command says.
    """

    typed: str
    fields: Fields | None = None
    choice: Choice | None = None

    @classmethod
    def of(cls, source: str | Source) -> Source:
        """A SRC of the command line, or of a config."""
        return source if isinstance(source, Source) else cls(source)


def read_config(path: Path, documents: DocumentOptions, choice: Choice, about: Mapping[str, Any]) -> list[Source]:
    """Return the sources of a config; the other arguments are what the command line says of all.

    `about` are the arguments of `DocumentOptions.fields`.

    Raises:
        ConfigError: it is no config, or a source has an option that there is not, or a wrong value.
    """
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: it cannot be read ({error.strerror}).") from error
    except ValueError as error:  # also of UTF-8
        raise ConfigError(f"--config {path}: it is not TOML: {error}.") from error
    tables = found.pop("source", [])
    if found or not isinstance(tables, list) or not tables or not all(isinstance(each, dict) for each in tables):
        what = f"it has {next(iter(found))!r}" if found else "it has no source"
        raise ConfigError(f"--config {path}: {what}. Write a table [[source]] for each source, with its path.")
    return [
        _source(table, f"--config {path}, source {number}", documents, choice, about)
        for number, table in enumerate(tables, 1)
    ]


def _source(
    table: Mapping[str, Any],
    where: str,
    documents: DocumentOptions,
    choice: Choice,
    about: Mapping[str, Any],
) -> Source:
    given = dict(table)
    path, domain = given.pop("path", None), given.pop("domain", None)
    if not isinstance(path, str) or not path:
        raise ConfigError(f'{where}: it has no path. Add path = "…".')
    if domain is not None and (not isinstance(domain, str) or not domain):
        raise ConfigError(f"{where}: its domain is {domain!r}, not a name.")
    typed = path if domain is None else f"{domain}={path}"
    if domain is not None and split_source(typed)[0] != domain:
        raise ConfigError(f"{where}: its domain is {domain!r}. A name has no '=', and is no path. Give another one.")
    if unknown := [name for name in given if name not in {*_DOCUMENTS, *_CHOICES, _EXTRACT}]:
        known = ", ".join(["path", "domain", *_CHOICES, _EXTRACT, *_DOCUMENTS])
        raise ConfigError(f"{where}: there is no option {unknown[0]!r} of a source. It may have: {known}.")
    values = {name: _value(name, value, where) for name, value in given.items()}
    if (format_ := values.get("format", "auto")) not in ("auto", *READERS):
        raise ConfigError(f"{where}: there is no format {format_!r}. Choose of: auto, {', '.join(READERS)}.")
    own = {name.replace("-", "_"): value for name, value in values.items() if name in _DOCUMENTS}
    chosen = {name.replace("-", "_"): value for name, value in values.items() if name in _CHOICES}
    extracted = {} if (extract := values.get(_EXTRACT)) is None else {"extract": None if extract == "none" else extract}
    try:
        made = replace(documents, **own).fields(**{**about, **extracted}) if own or extracted else None
    except ConfigError as error:
        error.add_note(f"in {where}")
        raise
    columns = {name.partition("=")[0] for name in documents.kept}
    if made is not None and (unknown := [name for name in made.kept if name not in columns]):
        raise ConfigError(
            f"{where}: keep has {unknown[0]!r}, and --keep of the command has not, so there is no column for it. Add "
            f"--keep {unknown[0]} to the command; a source says which of its fields that is ({unknown[0]}=FIELD)."
        )
    return Source(typed, made, replace(choice, **chosen) if chosen else None)


def _value(name: str, value: object, where: str) -> Any:
    """A value of the option's type."""
    if name in _MANY:
        many = [value] if isinstance(value, str) else value
        if not isinstance(many, list) or not all(isinstance(each, str) for each in many):
            raise ConfigError(f"{where}: {name} is {value!r:.60}. Give a list of texts.")
        return tuple(many)
    if not isinstance(value, str):
        raise ConfigError(f"{where}: {name} is {value!r:.60}. Give a text, in quotes.")
    return Path(value) if "Path" in _DOCUMENTS.get(name, "") else value
