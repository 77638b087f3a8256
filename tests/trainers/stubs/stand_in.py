"""Makes packages that are imported and not used: every name in them is a class that cannot be made."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType


class StandIn:
    """What stands for a name of the package."""

    def __init__(self, *args, **kwargs):
        raise NotImplementedError(f"{type(self).__module__} is a stand-in here")


class _Module(ModuleType):
    __path__: list[str] = []  # noqa: RUF012 - a package without files

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (StandIn,), {"__module__": self.__name__})


def stand_in(package, *modules):
    """Make `modules` of `package`, a module that is being imported."""
    for name in modules:
        module = _Module(f"{package}.{name}")
        module.__spec__ = ModuleSpec(module.__name__, None)
        sys.modules[module.__name__] = module
        above, _, last = module.__name__.rpartition(".")
        setattr(sys.modules[above], last, module)
