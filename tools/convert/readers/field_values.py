"""Fields of a record, and what is wrong with one: the errors of bad documents, and the words that tell them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

MISSING = object()
"""What a record has where it lacks a field."""
_KEYS_SHOWN = 20


class BadDocumentError(ValueError):
    """A record is no document; `reason` is the kind of fault in a word, for tables of rejects."""

    reason = "unreadable"

    def __init__(self, fact: str, reason: str | None = None) -> None:
        super().__init__(fact)
        self.reason = reason or self.reason


class FieldError(BadDocumentError):
    """A value is no object, or has no string in a field."""

    reason = "missing-field"
    remedy = "Give the field with the text as --text-key and that with the domain as --domain-key"
    """What a user may do if the documents of a file have it in common."""


class NotExtractedError(FieldError):
    """A field is HTML, and nothing makes text of it."""

    remedy = "Choose one of them"


def kind_of(value: object) -> str:
    """Return what JSON calls the kind of a value."""
    kinds = {type(None): "null", bool: "boolean", str: "string", list: "array", dict: "object"}
    return kinds.get(type(value), "number")


def find_field(document: dict[str, Any], name: str, default: object) -> Any:
    """A field: by its literal name, else along the dots of `name`."""
    found: Any = document
    for key in [name] if name in document else name.split("."):
        if not isinstance(found, dict) or key not in found:
            return default
        found = found[key]
    return found


def text_of(document: dict[str, Any], name: str) -> str:
    """A field that must be a string."""
    found = find_field(document, name, MISSING)
    if found is MISSING:
        raise FieldError(f"no field {name!r}; the document has {names_in(document) or 'no fields'}")
    if not isinstance(found, str):
        raise FieldError(
            f"field {name!r} is a JSON {kind_of(found)}, not a string; the document has {names_in(document)}",
            "wrong-type",
        )
    try:
        found.encode()
    except UnicodeEncodeError as error:
        escaped = "\udc80" <= error.object[error.start] <= "\udcff"  # how json_values.py keeps bytes that are no UTF-8
        half = "is not UTF-8" if escaped else "holds half of a surrogate pair, which is not a character"
        raise BadDocumentError(f"field {name!r} {half} (at character {error.start})", "not-utf8") from None
    return found


def names_in(document: Mapping[str, Any]) -> str:
    """The fields of a document and those inside its objects, as `--text-key` names them."""

    def below(inside: Mapping[str, Any], prefix: str) -> Iterator[str]:
        for key, value in inside.items():
            if isinstance(value, dict) and value and prefix.count(".") < 2:
                yield from below(value, f"{prefix}{key}.")
            else:
                yield repr(f"{prefix}{key}") + ("" if isinstance(value, str) else f" ({kind_of(value)})")

    keys = list(below(document, ""))
    if len(keys) > _KEYS_SHOWN:  # the text is one of the strings, and seldom deep inside
        keys.sort(key=lambda key: (not key.endswith("'"), key.count(".")))
    more = f" and {len(keys) - _KEYS_SHOWN} more" if len(keys) > _KEYS_SHOWN else ""
    return ", ".join(keys[:_KEYS_SHOWN]) + more
