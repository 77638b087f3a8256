"""Sizes as text: "64mb", "1.5gb", "100k"; shown as 64.0 MiB.

Rule: bytes are counted in units of 1024, parsed and shown; what is shown can be typed.
"""

import re

from mixstream.arguments import MOST, shown, whole
from mixstream.errors import ConfigError

_BYTES = {"": 1} | {unit: 1024**at for at, unit in enumerate(("b", "kb", "mb", "gb", "tb", "pb", "eb", "zb", "yb"))}
_BYTES |= {f"{unit[0]}ib": size for unit, size in _BYTES.items() if len(unit) == 2}
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


def parse_bytes(size: float | str, *, name: str = "size") -> int:
    """Return a number of bytes from a number, or from text in units of 1024; `name` is the argument's, for errors.

    >>> parse_bytes("64mb"), parse_bytes("64 MiB"), parse_bytes("1.5kb"), parse_bytes(100)
    (67108864, 67108864, 1536, 100)

    Raises:
        ConfigError: it is negative, no whole number, or a text that is not a number with a known unit.
    """
    size = int(size) if isinstance(size, float) and size.is_integer() else size
    return _parse(name, size, _BYTES, "bytes", "100kb, 64mb or 1.5gb (units of 1024)")


def show_bytes(size: float) -> str:
    """Return a number of bytes as text, in units of 1024.

    >>> show_bytes(100), show_bytes(1536), show_bytes(64 << 20)
    ('100 B', '1.5 KiB', '64.0 MiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1000 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"


def parse_count(count: int | str, *, name: str = "count", of: str = "samples") -> int:
    """Return a number of samples, or of what `of` says, from a number, or from text in units of 1000; as `parse_bytes`.

    >>> parse_count("100k"), parse_count("64M"), parse_count("77b")
    (100000, 64000000, 77000000000)

    Raises:
        ConfigError: it is negative, no whole number, or a text that is not a number with a known unit.
    """
    return _parse(name, count, _COUNTS, of, "100k, 64m, 77b or 1t")


def _parse(name: str, value: float | str, units: dict[str, int], what: str, examples: str) -> int:
    if not isinstance(value, str):
        return whole(name, value, least=0, most=MOST, of=what)
    found = re.fullmatch(r"\s*([0-9][0-9,_]*(?:\.[0-9]+)?)\s*([a-z]*)\s*", value.lower()) if len(value) < 100 else None
    if found is None or found[2] not in units:
        raise ConfigError(
            f"Unsupported value/suffix {shown(value)} of `{name}`, a number of {what}; write an int, or {examples}"
        )
    number = float(found[1].replace(",", "").replace("_", "")) * units[found[2]]
    return whole(name, int(min(number, 2.0 * MOST)), most=MOST, of=what)
