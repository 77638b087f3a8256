"""Packages that import their public names on first use, so that importing the package alone is fast."""

import gc
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any


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
        with _without_collections():
            module = import_module(f"{package}.{homes[name]}")
        value = module if name == homes[name] else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    return getattribute, lambda: sorted({*vars(sys.modules[package]), *homes})


@contextmanager
def _without_collections() -> Iterator[None]:
    """Let no garbage be collected meanwhile: what is imported stays, and to look at all that torch has takes 0.1 s."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
