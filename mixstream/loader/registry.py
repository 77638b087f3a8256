"""Registries: constructors by name, so that a configuration file can name a class that a plugin brings.

`streams_registry` has the kinds of `Stream` that `StreamingDataset(stream_name=...)` makes. The interface is the one of
the package `catalogue`, which mosaicml-streaming uses. Where that package is installed, its table holds the entries,
because programs save and restore that table; otherwise a table of our own does. The namespace is ours, so that
mosaicml-streaming keeps its own kinds in a process that imports both; only where `mixstream.compat` stands in for that
package, `streams_registry` moves to its namespace.
"""

import functools
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TypeVar, overload

from mixstream.errors import ConfigError
from mixstream.loader.stream import Stream

T = TypeVar("T")
_OWN: dict[tuple[str, ...], Any] = {}


class NotRegisteredError(ConfigError, LookupError):
    """A registry has no entry of this name."""


class Registry:
    """Entries by name, below a namespace; installed packages add theirs by entry points.

    >>> shapes = Registry(("example", "shapes"))
    >>> @shapes.register("square")
    ... class Square: ...
    >>> shapes.get("square").__name__, "circle" in shapes
    ('Square', False)

    Args:
        namespace: of the entries; its parts, joined by `_`, name the group of entry points.
        entry_points: whether entry points are entries.
        description: what the entries are.
    """

    def __init__(self, namespace: Sequence[str], entry_points: bool = False, description: str = "") -> None:
        self.namespace, self.entry_points, self.description = tuple(namespace), entry_points, description

    def move(self, *namespace: str) -> None:
        """Take another namespace, with all entries that are no entry points."""
        table, depth = _table(), len(self.namespace)
        for key in [key for key in table if key[:-1] == self.namespace and len(key) > depth]:
            table[*namespace, key[-1]] = table.pop(key)
        self.namespace = namespace

    @property
    def entry_point_namespace(self) -> str:
        """The group of entry points."""
        return "_".join(self.namespace)

    def __call__(self, name: str, func: Any = None) -> Any:
        """Do what `register` does."""
        return self.register(name, func=func)

    @overload
    def register(self, name: str, *, func: None = None) -> Callable[[T], T]: ...

    @overload
    def register(self, name: str, *, func: T) -> T: ...

    def register(self, name: str, *, func: Any = None) -> Any:
        """Add or replace an entry; without `func`, return a decorator that does."""
        if func is None:
            return functools.partial(self._add, name)
        return self._add(name, func)

    register_class = register

    def _add(self, name: str, entry: Any) -> Any:
        _table()[*self.namespace, name] = entry
        return entry

    def __contains__(self, name: str) -> bool:
        return (*self.namespace, name) in _table() or (self.entry_points and name in self._points())

    def get(self, name: str) -> Any:
        """Return an entry; that of an entry point comes first.

        Raises:
            NotRegisteredError: there is none.
        """
        if self.entry_points and (point := self._points().get(name)) is not None:
            return point.load()
        if (*self.namespace, name) not in _table():
            raise NotRegisteredError(
                f"no entry {name!r} in the registry {'.'.join(self.namespace)}, which has {sorted(self.get_all())}: "
                f"register({name!r}) it before it is used, or name one of these"
            )
        return _table()[*self.namespace, name]

    def get_all(self) -> dict[str, Any]:
        """Return all entries by name."""
        depth = len(self.namespace)
        own = {key[-1]: value for key, value in _table().items() if key[:-1] == self.namespace and len(key) > depth}
        return own | self.get_entry_points()

    def get_entry_points(self) -> dict[str, Any]:
        """Return what the entry points of the group name."""
        return {name: point.load() for name, point in self._points().items()} if self.entry_points else {}

    def get_entry_point(self, name: str, default: Any = None) -> Any:
        """Return what an entry point names; `default` if there is none."""
        point = self._points().get(name)
        return default if point is None else point.load()

    def _points(self) -> Mapping[str, importlib.metadata.EntryPoint]:
        catalogue = _catalogue()
        found: Any = importlib.metadata.entry_points() if catalogue is None else catalogue.AVAILABLE_ENTRY_POINTS
        group = self.entry_point_namespace
        points = found.select(group=group) if hasattr(found, "select") else found.get(group, [])
        return {point.name: point for point in points}


@functools.cache
def _catalogue() -> Any:
    """Return the package `catalogue`; None if it is not installed."""
    try:
        return import_module("catalogue")
    except ImportError:
        return None


def _table() -> MutableMapping[tuple[str, ...], Any]:
    catalogue = _catalogue()
    return _OWN if catalogue is None else catalogue.REGISTRY


@contextmanager
def saved_entries() -> Iterator[None]:
    """Restore the entries of all registries, as they are now, at the end of the block."""
    table, before = _table(), dict(_table())
    try:
        yield
    finally:
        table.clear()
        table.update(before)


streams_registry = Registry(
    ("mixstream", "streams_registry"), entry_points=True, description="Kinds of `Stream`, by their `stream_name`."
)
streams_registry.register("stream", func=Stream)
