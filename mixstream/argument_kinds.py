"""What kind an argument is, by its annotation: for functions whose arguments are texts, paths, lists or functions.

Rule: kinds are told apart of which nothing else can be made. Numbers and switches are for `arguments.py`, which knows
their limits; objects of other classes are for those who call their methods.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from os import PathLike, fspath
from types import UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from mixstream.arguments import choice, has_items, shown, text
from mixstream.errors import ConfigError

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")


def checked(function: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """Let a function refuse arguments whose kind is not that of its annotation, by name.

    >>> @checked
    ... def read(path: str | PathLike[str], *, kind: Literal["rows", "documents"] = "rows") -> None: ...
    >>> read(3)
    Traceback (most recent call last):
    mixstream.errors.ConfigError: `path` is a text or a path, got 3
    >>> read("x", kind="words")
    Traceback (most recent call last):
    mixstream.errors.ConfigError: kind='words' is not known; choose one of rows, documents
    """
    signature = inspect.signature(function)
    kinds: dict[str, tuple[Any, ...]] = {}

    @wraps(function)
    def called(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
        if not kinds:  # now all names of the module are there
            kinds.update({name: _kinds_of(function, each) for name, each in signature.parameters.items()})
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if value is not signature.parameters[name].default:
                check_kind(name, value, kinds[name])
        return function(*args, **kwargs)

    return called


def check_kind(name: str, value: Any, kinds: Sequence[Any]) -> None:
    """Check that `value` is of one of the types `kinds`; of others than texts, paths, lists, … anything is.

    Raises:
        ConfigError: it is of none.
    """
    if not kinds or (value is None and type(None) in kinds):
        return
    wanted: list[str] = []
    choices: list[str] = []
    for kind in kinds:
        origin = _origin(kind)
        if origin is type(None):
            continue
        if origin is Literal:
            choices += get_args(kind)
            continue
        known = PathLike if isinstance(origin, type) and hasattr(origin, "__fspath__") else origin
        if known not in _KINDS or (known is Sequence and not _are_plain(get_args(kind))):
            return
        called, holds = _KINDS[known]
        if holds(value):
            if isinstance(value, str) and not any(hasattr(each, "__fspath__") for each in map(_origin, kinds)):
                text(name, value)  # a path may have bytes that are no text, and is refused where it is opened
            return
        wanted.append(called)
    if choices and not wanted:
        choice(name, value, choices)
    elif not (isinstance(value, str) and value in choices):
        advice = f"; {_ADVICE[name]}" if name in _ADVICE else ""
        raise ConfigError(f"`{name}` is {' or '.join(wanted)}, got {shown(value)}{advice}")


def _origin(kind: Any) -> Any:
    return get_origin(kind) or kind


def _kinds_of(function: Callable[..., Any], parameter: inspect.Parameter) -> tuple[Any, ...]:
    """Return the types of a parameter; () if it may be anything, or has a type that is not known at run time."""
    hint = parameter.annotation
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or hint is parameter.empty:
        return ()
    if isinstance(hint, str):
        try:
            hint = eval(hint, function.__globals__)  # type: ignore[attr-defined]  # noqa: S307 - text of this package
        except NameError:  # imported for type checkers alone
            return ()
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def is_path(value: Any) -> bool:
    """Return whether `value` is a path of a text, as a `pathlib.Path` is."""
    try:
        return isinstance(value, PathLike) and isinstance(fspath(value), str)
    except Exception:  # of whatever kind an object's own method raises
        return False


def _are_plain(items: tuple[Any, ...]) -> bool:
    """Return whether the items of a list are texts, numbers and the like; the function itself says what others are."""
    return not items or all(item in (str, int, float, bool) or item in _KINDS for item in items)


def _is_list(value: Any) -> bool:
    return has_items(value) and not isinstance(value, Mapping | set)


_KINDS: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    str: ("a text", lambda value: isinstance(value, str)),
    PathLike: ("a path", is_path),
    Sequence: ("a list", _is_list),
    tuple: ("a list", _is_list),
    Mapping: ("a dict", lambda value: isinstance(value, Mapping)),
    Callable: ("a function", callable),
}
"""Type → how it is called, and whether a value is of it."""
_ADVICE = {"validate_hash": "write 'arrival', the name of a hash such as 'xxh3_64', or None to check nothing"}
"""Argument → what to write instead, of arguments that look like ones of another kind."""
