"""`install()`: a finder that answers `import streaming` with modules whose attributes are looked up in `names`.

Rules. Nothing of mixstream is imported before a program asks for it. The real package is never imported, whether it is
installed or not, and one that was imported before is refused: half a program would have classes of the other half.
Child processes find the alias by themselves: those that `multiprocessing` starts get the parent's `sys.path`, on which
`path/` comes first, and its `streaming` calls `install()` in the child; forked ones have what the parent has. Classes
keep the module names that they have here, so a pickle names mixstream and needs no alias.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

from mixstream.compat.names import ABSENT, MODULES, VERSION
from mixstream.errors import ConfigError

DIRECTORY = str(Path(__file__).parent / "path")
"""On PYTHONPATH, it makes every Python program below resolve `streaming` to mixstream."""

ORDERS = ("mosaic", "mixstream")
_ORDER = "MIXSTREAM_COMPAT_ORDER"
"""Environment variable that hands the order to child processes."""
_PACKAGE = "streaming"


def install(*, order: str | None = None) -> None:
    """Let `import streaming` resolve to mixstream, in this process and in those that it starts with multiprocessing.

    May be called again, in any process. Programs started by `subprocess` or by a launcher (`torchrun`) call it
    themselves, or run below `python -m mixstream.compat`.

        import mixstream.compat

        mixstream.compat.install()
        from streaming.base.util import bytes_to_int  # mixstream.compat.util

    Args:
        order: default order of `streaming.StreamingDataset`, a dataset's own argument comes first. "mosaic": the sample
            sequence of mosaicml-streaming, in O(samples) of memory, so that a run goes on from its own checkpoint.
            "mixstream": ours. None: the one of an earlier call, also of the parent process; "mosaic" if there is none.

    Raises:
        ConfigError: the real package was imported before, or there is no such order.
    """
    if order is not None and order not in ORDERS:
        raise ConfigError(f"order={order!r} is not known; choose one of {', '.join(ORDERS)}")
    found = sys.modules.get(_PACKAGE)
    if found is not None and not isinstance(found, Alias) and not _is_ours(found):
        raise ConfigError(
            f"`streaming` was imported before, from {getattr(found, '__file__', 'somewhere')}: classes of both "
            "packages would meet in one program; call mixstream.compat.install() before the first `import streaming`, "
            "or run the program below `python -m mixstream.compat`"
        )
    if order is not None:
        os.environ[_ORDER] = order
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())
    if DIRECTORY not in sys.path:
        sys.path.insert(0, DIRECTORY)
    if found is not None and not isinstance(found, Alias):  # `path/streaming`, which is being imported
        sys.modules.pop(_PACKAGE)
        sys.modules[_PACKAGE] = import_module(_PACKAGE)


def default_order() -> str:
    """Return the order of aliased datasets that are made without one.

    Raises:
        ConfigError: the environment names another order than those that there are.
    """
    order = os.environ.get(_ORDER) or ORDERS[0]
    if order not in ORDERS:
        raise ConfigError(f"{_ORDER}={order!r} is not known; set it to one of {', '.join(ORDERS)}, or unset it")
    return order


def _is_ours(module: ModuleType) -> bool:
    return str(getattr(module, "__file__", None) or "").startswith(DIRECTORY + os.sep)


class Alias(ModuleType):
    """A module of mosaicml-streaming; its attributes are looked up on first use."""

    def __init__(self, name: str) -> None:
        super().__init__(name, f"`{name}` of mosaicml-streaming {VERSION}, resolved to mixstream.")
        self.__all__ = [*MODULES[name], *_children(name)]
        self.__file__ = str(Path(DIRECTORY, _PACKAGE, "__init__.py"))

    def __getattr__(self, name: str) -> Any:
        own = self.__name__
        if (target := MODULES[own].get(name)) is not None:
            module, _, attribute = target.partition(":")
            value = getattr(import_module(module), attribute) if attribute else import_module(module)
        elif f"{own}.{name}" in MODULES:
            value = import_module(f"{own}.{name}")
        elif (reason := ABSENT.get(f"{own}.{name}") or ABSENT.get(own)) is not None and not name.startswith("__"):
            raise ImportError(f"{own}.{name} is not there: {reason}")
        else:
            raise AttributeError(
                f"module {own!r} has no attribute {name!r}: this is mixstream's stand-in for mosaicml-streaming "
                f"{VERSION} (mixstream.compat), which has the names that docs/mosaic.md lists"
            )
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        return sorted({*vars(self), *self.__all__})


class Finder(MetaPathFinder, Loader):
    """Finds `streaming` and the modules below it in the table of names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module of the table; None for those of other packages."""
        del path, target
        if fullname.partition(".")[0] != _PACKAGE:
            return None
        if fullname not in MODULES:
            raise ModuleNotFoundError(
                f"No module named {fullname!r}: "
                + ABSENT.get(
                    fullname,
                    f"this is mixstream's stand-in for mosaicml-streaming {VERSION} (mixstream.compat), which has the "
                    "modules that docs/mosaic.md lists",
                ),
                name=fullname,
            )
        return spec_from_loader(fullname, self, is_package=bool(_children(fullname)), origin=__file__)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module, without any attribute yet."""
        return Alias(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: attributes are looked up when they are used."""


def _children(name: str) -> list[str]:
    begin = f"{name}."
    return [
        other.removeprefix(begin) for other in MODULES if other.startswith(begin) and "." not in other[len(begin) :]
    ]
