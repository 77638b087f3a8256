"""What is imported when it is first used, so that importing a package is fast, and a program loads what it needs.

A package's public names are `lazily` there. Within the package, what most programs do not need is imported `later`:

    if TYPE_CHECKING:
        from mixstream.packing.packing import Packing
    else:
        (Packing,) = later("mixstream.packing.packing", "Packing")

Rules: modules do so where they name another part of the library that a plain run does not reach (a format, a view, a
feedback loop); `tests/mixstream/test_lazy.py` says what a plain run loads. Nothing is looked up in such a name while a
module is imported: no base class, no default, no constant. An import that begins in a thread holds back forks
(`import_in`), as the child could never import that module.
"""

from __future__ import annotations

import gc
import re
import sys
from _thread import get_ident
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from typing import Any, cast

_FIRST_THREAD = get_ident()


def lazily(package: str, names: Mapping[str, Sequence[str]]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for the `__init__.py` of `package`.

    Args:
        package: its `__name__`.
        names: module, relative to `package` -> the public names that it defines; none if the module itself is public.
            No name may be that of another module of the package, since Python binds that one instead.
    """
    homes = {name: module for module, defined in names.items() for name in defined or [module]}

    def getattribute(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with without_collections():
            module = import_module(f"{package}.{homes[name]}")
        value = module if name == homes[name] else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    return getattribute, lambda: sorted({*vars(sys.modules[package]), *homes})


class Later:
    """A class or function that stands in another module, which is imported when this is called or looked into.

    `isinstance` imports nothing: as long as the module is not imported, nothing is an instance.

    >>> date = Later("datetime", "date")
    >>> isinstance("2026-11-28", date), date.fromisoformat("2026-11-28").year, date(2026, 11, 28).day
    (False, 2026, 28)

    Args:
        module: that which defines it: another one that imports it, such as a package, may not be imported where an
            object of it is.
        name: of the class or function.
    """

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def _imported(self) -> Any:
        if not _is_importing(sys.modules.get(self.module)) and (loaded := self._loaded()) is not None:
            return loaded
        with _forks.held_back(), without_collections():
            return getattr(import_module(self.module), self.name)

    def _loaded(self) -> Any:
        """Return what it stands for; None if it is not there yet, or only in part."""
        return vars(sys.modules.get(self.module, object)).get(self.name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Import it, and call it."""
        return self._imported()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python, inspect and doctest look for in anything
            raise AttributeError(name)
        return getattr(self._imported(), name)

    def __instancecheck__(self, instance: Any) -> bool:
        return (loaded := self._loaded()) is not None and isinstance(instance, loaded)

    def __or__(self, other: Any) -> Any:
        return _Either((self, other))

    __ror__ = __or__

    def __repr__(self) -> str:
        return f"<{self.module}.{self.name}>"


def _is_importing(module: Any) -> bool:
    """Return whether a thread runs the module's text: functions in it may name what is not there yet."""
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


class _Either(tuple[Any, ...]):
    """What `A | B` is of classes that are imported later, for `isinstance` and annotations."""

    __slots__ = ()

    def __or__(self, other: Any) -> Any:
        return _Either((*self, other))

    __ror__ = __or__


def later(module: str, *names: str) -> list[Any]:
    """Return classes and functions of a module, which is imported when one of them is first used.

    >>> isinstance(1, later("decimal", "Decimal")[0])
    False
    """
    return [Later(module, name) for name in names]


class _Pattern:
    """See `pattern`."""

    def __init__(self, text: str, flags: int) -> None:
        self.pattern, self.flags = text, flags

    def __getattr__(self, name: str) -> Any:
        value = getattr(re.compile(self.pattern, self.flags), name)
        setattr(self, name, value)  # the next one is not looked for
        return value


def pattern(text: str, flags: int = 0) -> re.Pattern[str]:
    """Return a regular expression that is compiled when it is first used: a long one takes a millisecond or two.

    >>> pattern(r"[0-9]+").findall("1 and 23")
    ['1', '23']
    """
    return cast("re.Pattern[str]", _Pattern(text, flags))


class _Forks:
    """How imports are kept whole: by nothing, until `storage.forks` says how."""

    held_back: Callable[[], AbstractContextManager[Any]] = staticmethod(nullcontext)


_forks = _Forks()


def import_in(held_back: Callable[[], AbstractContextManager[Any]]) -> None:
    """Let what is imported later be imported in the context `held_back`, in which this process is not forked."""
    _forks.held_back = held_back


@contextmanager
def without_collections() -> Iterator[None]:
    """Let no garbage be collected while objects are made that stay: to look at all that torch has takes 0.1 s.

    Only in the thread that imported this package: beside any other, the user may say meanwhile whether garbage is
    collected.
    """
    enabled = gc.isenabled() and get_ident() == _FIRST_THREAD
    if enabled:
        gc.disable()
    try:
        yield
    finally:
        if enabled:
            if not gc.get_freeze_count():  # what is new is old now: looking at it would be the next allocation's task
                gc.freeze()
                gc.unfreeze()
            gc.enable()
