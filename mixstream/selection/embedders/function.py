"""A user's function as an embedder: `module:function`, called with texts or token arrays.

Rule: the user named the function, so its code is trusted; what it returns is not: shape, dtype and count are checked.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixstream.errors import ConfigError
from mixstream.selection.embedders.files import hash_model_file
from mixstream.selection.embedders.unit import Embedded, unit_rows


class FunctionEmbedder:
    """Calls `function(texts) -> array of floats [N, D]`. See `Embedder`.

    Args:
        name: `module:function`; modules in the current directory are found too.

    Raises:
        ConfigError: there is no such function.
    """

    def __init__(self, name: str) -> None:
        self._name, self._function = name, find_function(name)
        self._dimensions: int | None = None

    @property
    def dimensions(self) -> int:
        """See `Embedder`. Known by calling the function with one text."""
        if self._dimensions is None:
            self.embed(["text"])
        assert self._dimensions is not None
        return self._dimensions

    def embed(self, texts: Sequence[Any]) -> Embedded:
        """See `Embedder`.

        Raises:
            ConfigError: the function returns something else than N vectors of always the same dimension.
        """
        given = self._function(list(texts))
        if hasattr(given, "detach"):  # a torch tensor, perhaps on a GPU and with a gradient
            given = given.detach().float().cpu().numpy()
        found = np.asarray(given)
        if found.ndim != 2 or len(found) != len(texts) or not found.shape[1] or found.dtype.kind not in "fiu":
            raise ConfigError(
                f"--model {self._name} returned {found.dtype} {found.shape} for {len(texts)} texts: it must return "
                f"floats of shape [{len(texts)}, dimensions]"
            )
        if self._dimensions not in (None, found.shape[1]):
            raise ConfigError(
                f"--model {self._name} returned vectors of {found.shape[1]} dimensions after vectors of "
                f"{self._dimensions}: all must have the same"
            )
        self._dimensions = found.shape[1]
        unit_ND, failed_N = unit_rows(found)
        return Embedded(unit_ND=unit_ND, failed_N=failed_N, tokens_N=None)


def find_function(name: str, option: str = "--model") -> Callable[..., Any]:
    """Return the function that `module:function` names; `option` is that of the command line, for errors.

    Raises:
        ConfigError: there is none, or importing the module fails.
    """
    module_name, _, attribute = name.partition(":")
    if (here := os.getcwd()) not in sys.path:  # noqa: PTH109  # sys.path holds texts
        sys.path.append(here)
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{option} {name}: {error}. Give MODULE:FUNCTION of a module in the current directory or on PYTHONPATH"
        ) from error
    if not callable(found):
        raise ConfigError(f"{option} {name} is {type(found).__name__}, not a function")
    return found


def hash_of_function(name: str) -> str | None:
    """Return the hash of the file that defines the function; None if it has none."""
    try:
        file = inspect.getsourcefile(inspect.unwrap(find_function(name)))
    except TypeError:  # an object, or a builtin
        file = None
    return hash_model_file(Path(file)) if file else None
