"""HTML → text: the value of `--extract`, and the functions that it names.

Rule: no extractor is a default, because each of them finds another text. Its name and version are part of the recipe.
`resiliparse` and `trafilatura` are packages, imported when they are needed; `module:function` is a function of the
user's, HTML as str → text as str, with "" or None for a page without text.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mixstream.errors import ConfigError
from mixstream.selection.embedders import find_function, hash_of_function

PACKAGES = ("resiliparse", "trafilatura")
Extractor = Callable[[str], str | None]


def describe_extractor(name: str) -> str:
    """Return an extractor's entry in the recipe: its name, with its version or the hash of its file.

    Raises:
        ConfigError: there is no such extractor, or its package is not installed.
    """
    if name in PACKAGES:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            raise _missing(name) from None
    if ":" not in name:
        raise ConfigError(f"--extract {name}: give none, {', '.join(PACKAGES)}, or MODULE:FUNCTION.")
    find_function(name)
    return f"{name} {hash_of_function(name) or 'builtin'}"


@lru_cache(maxsize=8)
def load_extractor(name: str) -> Extractor:
    """Return the function from HTML to text. Raises ConfigError as `describe_extractor`."""
    if name == "resiliparse":
        plain: Any = _package(name, "resiliparse.extract.html2text")
        return lambda html: plain.extract_plain_text(html, main_content=True)
    if name == "trafilatura":
        return _package(name, name).extract
    return find_function(name)


def extract(html: str, name: str) -> str:
    """Return the text of a page; empty if it has none.

    Raises:
        ValueError: the extractor failed at this page, or returned no text.
    """
    extractor = load_extractor(name)
    try:
        text = extractor(html)
    except Exception as error:  # of another package, or of the user
        raise ValueError(f"--extract {name} failed: {type(error).__name__}: {error}") from error
    if text is None:
        return ""
    if not isinstance(text, str):
        raise ValueError(f"--extract {name} returned {type(text).__name__}, not a text")
    return text


def _package(name: str, module: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError:
        raise _missing(name) from None


def _missing(name: str) -> ConfigError:
    return ConfigError(f"--extract {name}: the package `{name}` is not installed. Run: pip install {name}")
