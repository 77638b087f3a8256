"""Sizes as text: "64mb", "1.5gb", "100k"."""

import re

from mixstream.errors import ConfigError

_BYTES = {"": 1} | {unit: 1024**at for at, unit in enumerate(("b", "kb", "mb", "gb", "tb", "pb", "eb", "zb", "yb"))}
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


def parse_bytes(size: float | str) -> int:
    """Return a number of bytes from a number, or from text in units of 1024.

    >>> parse_bytes("64mb"), parse_bytes("1.5kb"), parse_bytes(100)
    (67108864, 1536, 100)

    Raises:
        ConfigError: the text is not a number with a known unit.
    """
    return _parse(size, _BYTES, "bytes", "100kb, 64mb or 1.5gb")


def parse_count(count: float | str) -> int:
    """Return a number of samples from a number, or from text in units of 1000.

    >>> parse_count("100k"), parse_count("64M"), parse_count("77b")
    (100000, 64000000, 77000000000)

    Raises:
        ConfigError: the text is not a number with a known unit.
    """
    return _parse(count, _COUNTS, "samples", "100k, 64m, 77b or 1t")


def _parse(value: float | str, units: dict[str, int], what: str, examples: str) -> int:
    if isinstance(value, int | float):
        return int(value)
    found = re.fullmatch(r"\s*([0-9][0-9,_]*(?:\.[0-9]+)?)\s*([a-z]*)\s*", value.lower())
    if found is None or found[2] not in units:
        raise ConfigError(f"Unsupported value/suffix {value!r} for a number of {what}; write an int, or {examples}")
    return int(float(found[1].replace(",", "").replace("_", "")) * units[found[2]])
