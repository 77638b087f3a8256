"""`dataclass`, as that of the standard library, for a fifth of the time that a class takes to be made.

The standard library compiles six methods from text for every frozen class, which takes half a millisecond (Python 3.11)
and was half of the time to import this package. Here a class has its own `__init__`, compiled when the first object is
made, and shares the others, which look at the names of its fields. `dataclasses` does the rest: `fields`, `replace` and
`is_dataclass` know such a class, and type checkers see `dataclasses.dataclass`.

Rules: nothing can tell such a class from one of the standard library's, but for the docstring that a class without
one gets. The standard library makes those that inherit from another. Only the options below are known.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from operator import attrgetter
from reprlib import recursive_repr
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(
        cls: type | None = None,
        /,
        *,
        frozen: bool = False,
        eq: bool = True,
        slots: bool = False,
        kw_only: bool = False,
    ) -> Any:
        """Return the class with the methods of a dataclass. Arguments are those of `dataclasses.dataclass`.

        >>> @dataclass(frozen=True, slots=True)
        ... class Point:
        ...     '''Where something is.'''
        ...     x: int
        ...     y: int = 0
        >>> Point(3), Point(1, y=2) == Point(1, 2), dataclasses.replace(Point(3), y=7)
        (Point(x=3, y=0), True, Point(x=3, y=7))
        >>> Point(3).x = 4
        Traceback (most recent call last):
        dataclasses.FrozenInstanceError: cannot assign to field 'x'
        """

        def made(cls: type) -> type:
            if any(dataclasses.is_dataclass(base) for base in cls.__mro__[1:]):
                return dataclasses.dataclass(frozen=frozen, eq=eq, slots=slots, kw_only=kw_only)(cls)
            plain: Any = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots, kw_only=kw_only)(cls)
            about = plain.__dataclass_params__
            about.init, about.repr, about.eq, about.frozen = True, True, eq, frozen
            return _with_methods(plain, frozen=frozen, eq=eq, slots=slots)

        return made if cls is None else made(cls)


def _with_methods(cls: Any, *, frozen: bool, eq: bool, slots: bool) -> Any:
    fields, own = dataclasses.fields(cls), vars(cls)
    added: dict[str, Any] = {"__init__": _Init(cls, frozen=frozen, slots=slots), "__repr__": _repr(fields)}
    if eq:
        values = _values_of(fields)
        added["__eq__"] = _eq(values)
        if own.get("__hash__") is None:  # Python sets it to None where a class has an __eq__ of its own
            added["__hash__"] = _hash(values) if frozen else None
    if frozen:
        names = frozenset(field.name for field in fields)
        added["__setattr__"], added["__delattr__"] = _setattr(cls, names), _delattr(cls, names)
        if slots:
            added["__getstate__"], added["__setstate__"] = _state_methods()
    for name, method in added.items():
        if name not in own or own[name] is None:
            _set_method(cls, name, method)
    return cls


def _set_method(cls: Any, name: str, method: Any) -> None:
    if isinstance(method, FunctionType):
        method.__name__, method.__qualname__ = name, f"{cls.__qualname__}.{name}"
    setattr(cls, name, method)


# --- the method of its own ------------------------------------------------------------------------------------------


class _Init:
    """The `__init__` of a class until it is looked up, which compiles it: of most classes a program makes no object."""

    def __init__(self, cls: Any, *, frozen: bool, slots: bool) -> None:
        self._cls, self._frozen, self._slots = cls, frozen, slots
        self._names = sys.modules[cls.__module__].__dict__

    def __get__(self, instance: Any, cls: Any = None) -> Any:
        init = _init(self._cls, self._names, frozen=self._frozen, slots=self._slots)
        _set_method(self._cls, "__init__", init)
        return init.__get__(instance, cls)


def _init(cls: Any, names: dict[str, Any], *, frozen: bool, slots: bool) -> Any:
    """Return the compiled `__init__`; its globals are the `names` of the module, as of any function there."""
    fields = dataclasses.fields(cls)
    given = [field for field in fields if field.init]
    known: dict[str, Any] = {"_set_": object.__setattr__, "_made_": _MADE}
    arguments, lines = ["self"], []
    for kw_only in (False, True):
        some = [field for field in given if field.kw_only is kw_only]
        arguments += ["*"] if some and kw_only else []
        for field in some:
            default = _default(field)
            known |= {} if default is None else {f"_default_{field.name}": default[0]}
            arguments.append(field.name if default is None else f"{field.name}=_default_{field.name}")
    for field in fields:
        value = field.name
        if field.default_factory is not dataclasses.MISSING:
            known[f"_factory_{field.name}"] = field.default_factory
            value = f"_factory_{field.name}()"
            value += f" if {field.name} is _made_ else {field.name}" if field.init else ""
        elif not field.init:
            if field.default is dataclasses.MISSING or not slots:
                continue  # the class has it, or `__post_init__` sets it
            known[f"_default_{field.name}"], value = field.default, f"_default_{field.name}"
        lines.append(f"_set_(self, {field.name!r}, {value})" if frozen else f"self.{field.name} = {value}")
    lines += ["self.__post_init__()"] if hasattr(cls, "__post_init__") else []
    body = "\n  ".join(lines or ["pass"])
    text = f"def make({', '.join(known)}):\n def __init__({', '.join(arguments)}):\n  {body}\n return __init__"
    made: dict[str, Any] = {}
    exec(text, names, made)  # noqa: S102 - as `dataclasses` does: names of fields alone
    init = made["make"](**known)
    init.__annotations__ = {field.name: field.type for field in given} | {"return": None}
    return init


def _default(field: dataclasses.Field[Any]) -> tuple[Any] | None:
    """Return the default of an argument; None if it has none."""
    if field.default_factory is not dataclasses.MISSING:
        return (_MADE,)
    return None if field.default is dataclasses.MISSING else (field.default,)


class _Made:
    """The default of arguments whose value is made for each object."""

    def __repr__(self) -> str:
        return "<factory>"


_MADE = _Made()


# --- the shared ones ------------------------------------------------------------------------------------------------


def _values_of(fields: tuple[dataclasses.Field[Any], ...]) -> Callable[[Any], tuple[Any, ...]]:
    """Return object -> the values that are compared."""
    names = [field.name for field in fields if field.compare]
    if len(names) > 1:
        return attrgetter(*names)
    return lambda self: tuple(getattr(self, name) for name in names)


def _repr(fields: tuple[dataclasses.Field[Any], ...]) -> Any:
    names = [field.name for field in fields if field.repr]

    @recursive_repr()
    def shown(self: Any) -> str:
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{self.__class__.__qualname__}({values})"

    return shown


def _eq(values: Callable[[Any], tuple[Any, ...]]) -> Any:
    def equals(self: Any, other: object) -> Any:
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    return equals


def _hash(values: Callable[[Any], tuple[Any, ...]]) -> Any:
    def hashed(self: Any) -> int:
        return hash(values(self))

    return hashed


def _setattr(cls: Any, names: frozenset[str]) -> Any:
    def refuse(self: Any, name: str, value: Any) -> None:
        if type(self) is cls or name in names:
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        super(cls, self).__setattr__(name, value)

    return refuse


def _delattr(cls: Any, names: frozenset[str]) -> Any:
    def refuse(self: Any, name: str) -> None:
        if type(self) is cls or name in names:
            raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
        super(cls, self).__delattr__(name)

    return refuse


def _state_methods() -> tuple[Any, Any]:
    """Return how an object with slots is copied and pickled, though nothing can be set."""

    def state(self: Any) -> list[Any]:
        return [getattr(self, field.name) for field in dataclasses.fields(self)]

    def restore(self: Any, state: list[Any]) -> None:
        for field, value in zip(dataclasses.fields(self), state):
            object.__setattr__(self, field.name, value)

    return state, restore
