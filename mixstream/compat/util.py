"""`streaming.base.util`: the functions that programs take from there.

`merge_index` is `mixstream.merge_index`. Sizes and counts are parsed here and not by `mixstream.units`, since programs
rely on what that package takes beyond it (floats, "1.09zb").
"""

import functools
import logging
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mixstream.errors import ConfigError, WaitTimeoutError

_BYTES = {f"{unit}b": 1024**at for at, unit in enumerate("kmgtpezy", start=1)}
_COUNTS = {"k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


class FileMissingError(WaitTimeoutError, RuntimeError):
    """A file did not appear in time; programs catch RuntimeError."""


def get_list_arg(text: str) -> list[str]:
    """Return the parts of a comma-separated argument.

    >>> get_list_arg("web,code"), get_list_arg("")
    (['web', 'code'], [])
    """
    return text.split(",") if text else []


def wait_for_file_to_exist(filename: str, poll_interval: float, timeout: float, err_msg: str) -> None:
    """Wait until a file exists.

    Args:
        filename: path of the file.
        poll_interval: seconds between two looks.
        timeout: seconds to wait at most.
        err_msg: begin of the error's message.

    Raises:
        FileMissingError: it did not appear in time.
    """
    began = time.monotonic()
    while not Path(filename).exists():
        if (waited := time.monotonic() - began) > timeout:
            raise FileMissingError(f"{err_msg}{timeout:.3f} < {waited:.3f} secs.")
        time.sleep(poll_interval)


def bytes_to_int(bytes_str: float | str) -> int:
    """Return a number of bytes from a number, or from text in units of 1024.

    >>> bytes_to_int("64mb"), bytes_to_int("1.5kb"), bytes_to_int("50b"), bytes_to_int(100)
    (67108864, 1536, 50, 100)

    Raises:
        ConfigError: the text is no number, or its unit is not known.
    """
    return _parsed(bytes_str, _BYTES, ["b", *_BYTES])


def number_abbrev_to_int(abbrev_str: float | str) -> int:
    """Return a number from a number, or from text in units of 1000.

    >>> number_abbrev_to_int("100k"), number_abbrev_to_int("1.5m"), number_abbrev_to_int(100)
    (100000, 1500000, 100)

    Raises:
        ConfigError: the text is no number, or its unit is not known.
    """
    return _parsed(abbrev_str, _COUNTS, [*_COUNTS])


def _parsed(value: float | str, units: dict[str, int], known: Sequence[str]) -> int:
    if isinstance(value, int | float):
        return int(value)
    text = value.lower().strip()
    unit = next((unit for unit in units if text.endswith(unit)), "")
    try:
        if unit:
            return int(float(text.removesuffix(unit)) * units[unit])
        return int(text.removesuffix("b") if "b" in known else text)
    except ValueError:
        raise ConfigError(f"Unsupported value/suffix {value}. Supported suffix are {list(known)}.") from None


def clean_stale_shared_memory() -> None:
    """Do nothing: mixstream has no shared memory that a killed process could leave behind."""
    logging.getLogger("streaming").debug("clean_stale_shared_memory: mixstream has no shared memory, nothing to clean")


def get_import_exception_message(package_name: str, extra_deps: str) -> str:
    """Return the message for a package that is not installed.

    >>> get_import_exception_message("brotli", "compression")
    'Streaming was installed without brotli support: `pip install brotli`'
    """
    del extra_deps  # there are no extras of the name that the program knows
    return f"Streaming was installed without {package_name} support: `pip install {package_name}`"


def retry(
    exc_class: Any = Exception,
    clean_up_fn: Callable[[], None] | None = None,
    num_attempts: int = 3,
    initial_backoff: float = 1.0,
    max_jitter: float = 0.5,
) -> Any:
    """Decorate a function so that it is called again after an error.

    >>> @retry(OSError, num_attempts=2, initial_backoff=0.0, max_jitter=0.0)
    ... def flaky(answers=[OSError(), "here"]):
    ...     answer = answers.pop(0)
    ...     if isinstance(answer, OSError):
    ...         raise answer
    ...     return answer
    >>> flaky()
    'here'

    Args:
        exc_class: the error after which it is called again, or several; the function itself, in `@retry`.
        clean_up_fn: called after each error.
        num_attempts: calls at most; the error of the last one is raised.
        initial_backoff: seconds before the second call, twice as many before each further one.
        max_jitter: most seconds, chosen at random, on top.

    Raises:
        ConfigError: `num_attempts` is below 1.
    """
    if num_attempts < 1:
        raise ConfigError(f"num_attempts must be at-least 1, got {num_attempts}")
    if not isinstance(exc_class, type | Sequence):
        return retry()(exc_class)
    caught: Any = exc_class if isinstance(exc_class, type) else tuple(exc_class)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for attempt in range(num_attempts):
                try:
                    return function(*args, **kwargs)
                except caught:
                    if clean_up_fn is not None:
                        clean_up_fn()
                    if attempt + 1 == num_attempts:
                        raise
                    time.sleep(initial_backoff * 2**attempt + random.random() * max_jitter)
            raise AssertionError("not reached: the last attempt returns or raises")

        return call

    return decorate
