"""Numbers, switches and names as callers give them: turned into Python's own types, or refused by the argument's name.

Rule: every public constructor passes its arguments through here. What is kept in a state, hashed into a random key or
compared with a saved value is then an `int`, `float`, `bool` or `str`, whatever type a caller computed it in: numpy's
and torch's scalars mean the same as the number that they hold. A bool is no number, a float is no whole number (which
of 7 and 8 did 7.5 mean?), and NaN is nothing at all.
"""

import math
import operator
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from mixstream.errors import ConfigError

LONGEST = 8192
"""Characters of a text: more than a path or URL may have."""
MOST = 1 << 62
"""The most that a count may be: a plan adds counts up in 64 bits."""
_HUGE = 1 << 1023
"""Integers from here on are infinite as floats, or nearly so."""


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80
_short.maxlong = 40


def shown(value: Any) -> str:
    """Return what an error shows of a value that was given: a short text, whatever the value is.

    >>> shown("web"), shown([1] * 1000), shown(1 << 100_000)
    ("'web'", '[1, 1, 1, 1, 1, 1, ...]', 'an int of 100001 bits')
    """
    try:
        return _short.repr(value).replace("\n", " ")
    except Exception:  # a __repr__ that fails, or an integer of too many digits
        bits = value.bit_length() if isinstance(value, int) else 0
        return f"an int of {bits} bits" if bits else f"an object of {type(value).__name__}"


def whole(
    name: str, value: Any, *, least: int | None = None, most: int | None = None, of: str = "", advice: str = ""
) -> int:
    """Return `value`, an integer of any type, as an int.

    >>> whole("shuffle_seed", np.int64(7)), whole("batch_size", 8, least=1, of="rows")
    (7, 8)
    >>> whole("batch_size", 8.0, least=1, of="rows")
    Traceback (most recent call last):
    mixstream.errors.ConfigError: `batch_size` is a whole number of rows, got 8.0; write 8

    Args:
        name: of the argument, for the error.
        value: what was given.
        least: the least that it may be; None for no limit.
        most: the most that it may be, as above.
        of: what it counts, for the error; a plural.
        advice: what to give instead, for the error.

    Raises:
        ConfigError: it is not such an integer; bools and floats are not.
    """
    number = _index(value)
    if number is None:
        exact = f"; write {int(value)}" if isinstance(value, float) and value.is_integer() else advice and f"; {advice}"
        raise ConfigError(f"`{name}` is a whole number{of and f' of {of}'}, got {shown(value)}{exact}")
    if least is not None and number < least:
        raise ConfigError(
            f"`{name}` must be at least {least}{_unit(of, least)}, got {shown(number)}{advice and f'; {advice}'}"
        )
    if most is not None and number > most:
        raise ConfigError(f"`{name}` must be at most {most}{_unit(of, most)}, got {shown(number)}")
    return number


def real(
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    infinite: bool = False,
    of: str = "",
    advice: str = "give a finite number",
) -> float:
    """Return `value`, a number of any type, as a float; as an int if it is one.

    >>> real("proportion", np.float64(0.25)), real("repeat", 2)
    (0.25, 2)

    Args:
        name: as for `whole`.
        value: as above.
        least: as above.
        above: what it must exceed, as above.
        infinite: whether it may be infinite.
        of: as above.
        advice: as above.

    Raises:
        ConfigError: it is not such a number; bools and NaN are not.
    """
    number = _index(value)
    if number is None and (number := _float(value)) is None:
        raise ConfigError(f"`{name}` is a number{of and f' of {of}'}, got {shown(value)}; {advice}")
    if isinstance(number, int) and abs(number) >= _HUGE:
        number = math.inf if number > 0 else -math.inf
    beyond = math.isnan(number) or (math.isinf(number) and not infinite)
    if beyond or (least is not None and number < least) or (above is not None and number <= above):
        limit = "finite" if least is None else f"at least {least}{_unit(of, least)}"
        limit = limit if above is None else f"above {above}{_unit(of, above)}"
        raise ConfigError(f"`{name}` must be {limit}, got {shown(number)}; {advice}")
    return number


def counted(count: int, of: str) -> str:
    """Return a count with its unit, a plural: `counted(1, "lanes")` is "1 lane"."""
    return f"{count}{_unit(of, count)}"


def _unit(of: str, limit: float) -> str:
    return f" {of.removesuffix('s') if limit == 1 else of}" if of else ""


def flag(name: str, value: Any) -> bool:
    """Return `value` as a bool; raise ConfigError if it is neither True nor False, as the text "false" is not."""
    if isinstance(value, bool) or (_is_bool(value) and getattr(value, "ndim", 1) == 0):
        return bool(value)
    raise ConfigError(f"`{name}` is True or False, got {shown(value)}")


def text(name: str, value: Any) -> str:
    """Return `value` as a str; raise ConfigError if it is no text, or one that no file, hash or store can hold."""
    if not isinstance(value, str):
        raise ConfigError(f"`{name}` is a text, got {shown(value)}")
    if len(value) > LONGEST:
        raise ConfigError(f"`{name}` has {len(value)} characters: give at most {LONGEST}, got {shown(value)}")
    if "\0" in value or not _is_unicode(value):
        raise ConfigError(f"`{name}` is a text of Unicode without NUL, got {shown(value)}; write it otherwise")
    return str(value) if type(value) is not str else value


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """Return `value`, which is one of some texts; raise ConfigError if it is none of them."""
    if not isinstance(value, str) or value not in (known := tuple(choices)):
        raise ConfigError(f"{name}={shown(value)} is not known; choose one of {', '.join(choices)}")
    return known[known.index(value)]


def plain(name: str, value: Any) -> Any:
    """Return a tree of mappings, lists and tuples in which numpy's and torch's numbers and texts are Python's own.

    What has none of them is returned as it is, and so are arrays and other objects.

    >>> plain("targets", {np.str_("web"): np.float64(0.5)})
    {'web': 0.5}

    Raises:
        ConfigError: there is a bool in it.
    """
    if isinstance(value, bool | np.bool_):
        raise ConfigError(f"`{name}` has {shown(value)} in it, where a number belongs")
    if isinstance(value, Mapping):
        found = {plain(name, key): plain(name, item) for key, item in value.items()}
        return value if all(a is b for a, b in zip(_flat(value), _flat(found), strict=True)) else found
    if type(value) in (list, tuple):
        items = [plain(name, item) for item in value]
        return value if all(a is b for a, b in zip(value, items, strict=True)) else type(value)(items)
    return value.item() if isinstance(value, np.generic) or _is_scalar(value) else value


def _flat(mapping: Mapping[Any, Any]) -> list[Any]:
    return [part for pair in mapping.items() for part in pair]


def normalise_fields(record: Any) -> None:
    """Normalise the fields of a frozen dataclass by their types; a field that may be None may stay so.

    Called by `__post_init__`, before it checks the ranges of numbers, of which NaN is in none.

    Raises:
        ConfigError: a field of a number has none, a switch is neither True nor False, or a mapping is none.
    """
    hints = get_type_hints(type(record))
    for field in fields(record):
        value, hint = getattr(record, field.name), hints[field.name]
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if value is None and type(None) in kinds:
            continue
        name = f"{type(record).__name__} {field.name}"
        origins = {get_origin(kind) for kind in kinds}
        if Mapping in origins and not (isinstance(value, Mapping) or (Sequence in origins and has_items(value))):
            raise ConfigError(f"`{name}` is a dict{' or a list' if Sequence in origins else ''}, got {shown(value)}")
        object.__setattr__(record, field.name, _of_kinds(name, value, kinds))


def _of_kinds(name: str, value: Any, kinds: Sequence[Any]) -> Any:
    """Return `value`, of a field of one of these types, with its numbers as Python's own."""
    for kind in kinds:
        if get_origin(kind) is Literal:
            return choice(name, value, get_args(kind))
        if kind in _OF_TYPE:
            return _OF_TYPE[kind](name, value)
        if get_origin(kind) is Mapping and isinstance(value, Mapping):
            key_kind, item_kind = get_args(kind)
            of_key = _step if key_kind is int else plain
            found = {of_key(name, key): _of_kinds(name, item, (item_kind,)) for key, item in value.items()}
            return value if all(a is b for a, b in zip(_flat(value), _flat(found), strict=True)) else found
    return plain(name, value)


def _step(name: str, value: Any) -> float:
    """Return a step as an int; as a float if it is one, since states have it so: `Schedule` says if it is not whole."""
    if isinstance(value, float) and abs(value) <= MOST:
        return float(value)
    return whole(f"{name} (its steps)", value, most=MOST)


def has_items(value: Any) -> bool:
    """Return whether `value` is a list, dict, array or the like, and no text."""
    try:
        len(value)
    except Exception:  # of whatever kind an object's own method raises
        return False
    return getattr(value, "ndim", 1) > 0 and not isinstance(value, str | bytes)


def _number(name: str, value: Any) -> float:
    nan = isinstance(value, float | np.floating) and math.isnan(value)
    return math.nan if nan else real(name, value, infinite=True)


_OF_TYPE: dict[Any, Callable[[str, Any], Any]] = {int: whole, float: _number, bool: flag}


def _is_scalar(value: Any) -> bool:
    """Return whether `value` is an array or tensor without dimensions."""
    return getattr(value, "ndim", None) == 0 and hasattr(value, "item")


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or str(getattr(value, "dtype", "")).removeprefix("torch.") == "bool"


def _index(value: Any) -> int | None:
    """Return the integer that `value` is; None for bools and all else."""
    if _is_bool(value):
        return None
    try:
        return operator.index(value)
    except Exception:  # of whatever kind an object's own method raises
        return None


def _is_masked(value: Any) -> bool:
    return type(value).__name__ == "MaskedConstant"  # of numpy.ma, which takes 10 ms to import


def _float(value: Any) -> float | None:
    """Return the float that `value` holds; None for texts, bools, arrays, what is masked or on no device, all else."""
    if _is_bool(value) or isinstance(value, str | bytes) or getattr(value, "ndim", 0) or _is_masked(value):
        return None
    try:
        return float(value.detach() if hasattr(value, "detach") else value)
    except Exception:  # of whatever kind an object's own method raises
        return None
