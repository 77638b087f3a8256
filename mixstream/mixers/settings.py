"""The settings of a mixer as text, of which a run's state holds a digest, and defaults that have changed.

A field whose default has changed says so in its metadata: `{"formerly": value}`. A field that came later also has
`{"new": True}`; at its former value, which stands for the behaviour of before, it is left out of the text, so that the
text is that of an old state.
"""

from collections.abc import Iterable, Iterator
from dataclasses import Field, fields, is_dataclass, replace
from itertools import islice, product
from typing import Any, get_args, get_type_hints

import numpy as np

_MOST_VERSIONS = 1024


def settings_text(value: Any, *, as_typed: bool = False) -> str:
    """Return the settings of a mixer, a dataclass, as text: its repr without new fields at their former values.

    numpy's numbers are shown as Python's own, mappings sorted by key, and fields of floats as floats, so that equal
    settings have one text. Not so `as_typed`, the text in states of before.

    >>> from mixstream.mixers import ADO
    >>> settings_text(ADO(s=1)) == settings_text(ADO(s=1.0)), "forgetting" in settings_text(ADO(forgetting="ignore"))
    (True, False)
    """
    if isinstance(value, np.generic):
        return repr(value) if as_typed else repr(value.item())
    if isinstance(value, dict):
        keys = list(value) if as_typed else sorted(value, key=lambda key: (type(key).__name__, key))
        shown = (f"{settings_text(k, as_typed=as_typed)}: {settings_text(value[k], as_typed=as_typed)}" for k in keys)
        return "{" + ", ".join(shown) + "}"
    if type(value) in (list, tuple) and value:
        inner = ", ".join(settings_text(item, as_typed=as_typed) for item in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    if is_dataclass(value) and not isinstance(value, type) and hasattr(type(value).__repr__, "__wrapped__"):
        floats = set() if as_typed else _float_fields(type(value))
        named = [(each.name, getattr(value, each.name)) for each in fields(value) if each.repr and _counts(each, value)]
        inner = (
            f"{name}={settings_text(_number(item) if name in floats else item, as_typed=as_typed)}"
            for name, item in named
        )
        return f"{type(value).__qualname__}({', '.join(inner)})"  # as `dataclass` does
    return repr(value)


def former_versions(mixer: Any) -> Iterator[tuple[Any, str]]:
    """Yield what the mixer may have been, changed defaults at their former values, and the words to type for each.

    A value that is today's default may have been typed then, so each of them may or may not be the former one. A mixer
    may hold others, as fields or in their lists and mappings.

    >>> from mixstream.mixers import ADO, ODM
    >>> [words for _, words in former_versions(ADO(s=0.3))]
    ["ADO(..., subsample=10, forgetting='ignore')", 'ADO(..., subsample=10)', "ADO(..., forgetting='ignore')"]
    >>> list(former_versions(ODM()))
    []
    """
    versions = islice(_versions(mixer), _MOST_VERSIONS)
    return ((former, " and ".join(dict.fromkeys(words))) for former, words in versions if words)


def _versions(value: Any) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Yield the values with former defaults in any of their parts, the value itself last, and the words for each."""
    if isinstance(value, dict):
        for items, words in _each(value.values()):
            yield dict(zip(value, items)), words
    elif type(value) in (list, tuple):
        for items, words in _each(value):
            yield type(value)(items), words
    elif is_dataclass(value) and not isinstance(value, type):
        options = [option for option in fields(value) if option.init]
        changed = [
            option
            for option in options
            if option.metadata.get("formerly", ...) is not ... and getattr(value, option.name) == option.default
        ]
        held = [option.name for option in options if option not in changed]
        for former in product((True, False), repeat=len(changed)):
            new = {option.name: option.metadata["formerly"] for option, is_former in zip(changed, former) if is_former}
            typed = ", ".join(f"{name}={item!r}" for name, item in new.items())
            own = (f"{type(value).__name__}(..., {typed})",) if new else ()
            for items, words in _each([getattr(value, name) for name in held]):
                if own or words:
                    yield replace(value, **new, **dict(zip(held, items))), own + words
        yield value, ()
    else:
        yield value, ()


def _each(parts: Iterable[Any]) -> Iterator[tuple[tuple[Any, ...], tuple[str, ...]]]:
    for versions in product(*(list(islice(_versions(part), _MOST_VERSIONS)) for part in parts)):
        yield tuple(part for part, _ in versions), tuple(word for _, words in versions for word in words)


def _counts(option: "Field[Any]", mixer: Any) -> bool:
    new = option.metadata.get("new", False)
    return not new or getattr(mixer, option.name) != option.metadata["formerly"]


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, int | np.integer) else value


def _float_fields(kind: type) -> set[str]:
    try:
        hints = get_type_hints(kind)
    except (NameError, TypeError):  # of a user's class
        return set()
    return {name for name, hint in hints.items() if hint is float or float in get_args(hint)}
