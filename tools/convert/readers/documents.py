"""JSON values → documents: the text, and with `--domain-key` the domain, of an object. Both JSON formats use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from ..domain_names import check_domain_name
from .reader import Fields

_KEYS_SHOWN = 20
_check_domain = lru_cache(maxsize=1 << 16)(check_domain_name)


class FieldError(ValueError):
    """A value is no object, or has no string in a field."""


def document_of(value: object, fields: Fields) -> tuple[str, str | None]:
    """Return text and domain of a document; raises ValueError with what is wrong."""
    if not isinstance(value, dict):
        raise FieldError(f"a JSON {kind_of(value)}, not an object with a field {fields.text!r}")
    text = _field(value, fields.text)
    return checked(text, None if fields.domain is None else _field(value, fields.domain), fields)


def checked(text: str, domain: str | None, fields: Fields) -> tuple[str, str | None]:
    """Return text and domain if convert can take both; raises ValueError with what is wrong."""
    if domain is not None:
        _check_domain(domain)
    if found := fields.find_forbidden(text):
        raise ValueError(
            f"the field {fields.text!r} holds the special token {found[0]!r} at character {found[1]} (--special-tokens)"
        )
    return text, domain


def kind_of(value: object) -> str:
    """Return what JSON calls the kind of a value."""
    kinds = {type(None): "null", bool: "boolean", str: "string", list: "array", dict: "object"}
    return kinds.get(type(value), "number")


def _field(document: dict[str, Any], name: str) -> str:
    """A field that must be a string: by its literal name, else along the dots of `name`."""
    found: Any = document
    for key in [name] if name in document else name.split("."):
        if not isinstance(found, dict) or key not in found:
            raise FieldError(f"no field {name!r}; the document has {_keys(document) or 'no fields'}")
        found = found[key]
    if not isinstance(found, str):
        raise FieldError(f"field {name!r} is a JSON {kind_of(found)}, not a string; the document has {_keys(document)}")
    try:
        found.encode()
    except UnicodeEncodeError as error:
        escaped = "\udc80" <= error.object[error.start] <= "\udcff"  # how json_values.py keeps bytes that are no UTF-8
        half = "is not UTF-8" if escaped else "holds half of a surrogate pair, which is not a character"
        raise ValueError(f"field {name!r} {half} (at character {error.start})") from None
    return found


def _keys(document: Mapping[str, Any]) -> str:
    """The fields of a document and those inside its objects, as `--text-key` names them."""

    def below(inside: Mapping[str, Any], prefix: str) -> Iterator[str]:
        for key, value in inside.items():
            if isinstance(value, dict) and value and prefix.count(".") < 2:
                yield from below(value, f"{prefix}{key}.")
            else:
                yield repr(f"{prefix}{key}") + ("" if isinstance(value, str) else f" ({kind_of(value)})")

    keys = list(below(document, ""))
    more = f" and {len(keys) - _KEYS_SHOWN} more" if len(keys) > _KEYS_SHOWN else ""
    return ", ".join(keys[:_KEYS_SHOWN]) + more
