"""`streaming.base.registry_utils`: registries of constructors, and files of Python that fill them."""

import functools
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from mixstream.errors import ConfigError, MixstreamError
from mixstream.loader.registry import Registry


class InitCodeError(MixstreamError, RuntimeError):
    """A file of Python that was to be run failed; the cause is its own error."""


class CodeNotFoundError(MixstreamError, FileNotFoundError):
    """There is no file of Python of this name."""


def create_registry(*namespace: str, generic_type: Any, entry_points: bool = False, description: str = "") -> Registry:
    """Return a registry of a namespace; `generic_type` is what its entries are, for readers."""
    del generic_type
    return Registry(namespace, entry_points=entry_points, description=description)


def construct_from_registry(  # noqa: PLR0917 - as there
    name: str,
    registry: Registry,
    partial_function: bool = True,
    pre_validation_function: Callable[[Any], None] | type | None = None,
    post_validation_function: Callable[[Any], None] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Any:
    """Return what the entry `name` makes of `kwargs`.

    Args:
        name: of the entry.
        registry: that has it.
        partial_function: whether a function that is no class is returned with `kwargs` bound, instead of being called.
        pre_validation_function: the class that the entry must be below, or a function that raises if it is not valid.
        post_validation_function: raises if the result is not valid.
        kwargs: arguments.

    Raises:
        ConfigError: there is no such entry, or it is of another kind.
    """
    entry = registry.get(name)
    if isinstance(pre_validation_function, type):
        if not (isinstance(entry, type) and issubclass(entry, pre_validation_function)):
            raise ConfigError(f"Expected {name} to be of type {pre_validation_function}, but got {entry!r}")
    elif pre_validation_function is not None:
        pre_validation_function(entry)
    if not callable(entry):
        raise ConfigError(f"Expected {name} to be a class or function, but got {type(entry)}")
    bound = functools.partial(entry, **(kwargs or {}))
    made = bound() if isinstance(entry, type) or not partial_function else bound
    if post_validation_function is not None:
        post_validation_function(made)
    return made


def import_file(loc: str | Path) -> ModuleType:
    """Run a file of Python, and return it as a module.

    Raises:
        CodeNotFoundError: there is no such file.
        InitCodeError: it raised an error.
    """
    if not Path(loc).exists():
        raise CodeNotFoundError(f"File {loc} does not exist.")
    spec = importlib.util.spec_from_file_location("python_code", str(loc))
    if spec is None or spec.loader is None:
        raise InitCodeError(f"Error executing {loc}: its name does not end in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InitCodeError(f"Error executing {loc}") from error
    return module
