"""Functions of the user, `module:function`, that see each record: they choose its domain, or whether it is taken.

Rule: the user named the function, so its code is trusted; what it returns is not. The hash of its file is part of the
recipe, so a changed function makes other domains. What else it depends on is the user's to keep equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mixstream.errors import ConfigError
from mixstream.selection.embedders import find_function, hash_of_function


@dataclass(frozen=True, slots=True)
class UserFunction:
    """A function by its name.

    Attributes:
        option: of the command line.
        name: `module:function`.
        hash: of the file that defines it; None for a builtin.
    """

    option: str
    name: str
    hash: str | None

    @classmethod
    def find(cls, option: str, name: str) -> UserFunction:
        """Look a function up; ConfigError if there is none."""
        if not name.strip().partition(":")[0]:
            raise ConfigError(f"{option} {name!r} names no module: give MODULE:FUNCTION")
        find_function(name, option)
        return cls(option, name, hash_of_function(name))

    def describe(self) -> dict[str, Any]:
        """Its entry in the recipe."""
        return {"function": self.name, "hash": self.hash}

    def __call__(self, record: Mapping[str, Any]) -> Any:
        """Call it; ValueError, with what it raised, if it fails: the document is bad."""
        try:
            return _load(self.name, self.option)(record)
        except Exception as error:
            raise ValueError(f"{self.option} {self.name} raised {type(error).__name__}: {error}") from error


_load: Callable[[str, str], Callable[..., Any]] = lru_cache(maxsize=8)(find_function)
