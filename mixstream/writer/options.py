"""Arguments of writers, checked; each function returns the argument as it is used."""

from collections.abc import Mapping, Sequence
from typing import Any

from mixstream.arguments import MOST, has_items, shown, text, whole
from mixstream.errors import ConfigError, EncodingError
from mixstream.formats import (
    Index,
    ShardInfo,
    compress,
    dump_index,
    get_json_encodings,
    get_mds_encodings,
    hash_names,
    is_compression,
    is_hash,
    is_json_encoding,
    is_mds_encoding,
)
from mixstream.formats.entry import MAX_OFFSET
from mixstream.units import parse_bytes

_JSON_SPACE = " \t\r\n"


def mds_columns(columns: Mapping[str, str]) -> dict[str, str]:
    """Return the encodings of MDS columns, sorted by name."""
    return _columns(
        columns,
        is_mds_encoding,
        f"{', '.join(sorted(get_mds_encodings()))}, also ndarray:DTYPE[:DIM,DIM,...]",
        "columns={'tokens': 'ndarray:int32'}",
    )


def split_columns(columns: Mapping[str, str]) -> dict[str, str]:
    """Return the encodings of JSON, CSV, TSV or XSV columns, sorted by name."""
    return _columns(columns, is_json_encoding, ", ".join(sorted(get_json_encodings())), "columns={'text': 'str'}")


def _columns(columns: Mapping[str, str], is_known: Any, known: str, example: str) -> dict[str, str]:
    if not isinstance(columns, Mapping) or not columns or not all(isinstance(name, str) for name in columns):
        raise ConfigError(f"columns is {shown(columns)}; name at least one, as in {example}")
    for name, encoding in columns.items():
        if not isinstance(encoding, str) or not is_known(encoding):
            raise EncodingError(
                f"column {name!r} with encoding {shown(encoding)} is unsupported. Supported encodings are {known}"
            )
    return {name: columns[name] for name in sorted(columns)}


def compression_name(compression: str | None) -> str | None:
    """Return the compression, whose package is installed; None for none."""
    if compression is None or (isinstance(compression, str) and not compression):
        return None
    compression = text("compression", compression)
    if not is_compression(compression):
        try:
            compress(compression, b"")
        except ConfigError as error:
            raise ConfigError(f"Invalid compression: {error}") from None
    compress(compression, b"")  # raises for a missing package
    return compression


def hash_list(hashes: Sequence[str] | None) -> list[str]:
    """Return the names of hashes; None is none."""
    hashes = () if hashes is None else hashes
    if not has_items(hashes) or not all(isinstance(name, str) for name in hashes):
        remedy = f"; write [{shown(hashes)}]" if isinstance(hashes, str) else ""
        raise ConfigError(f"`hashes` is a list of names of hashes, got {shown(hashes)}{remedy}")
    if list(hashes) != sorted(set(hashes)):
        raise ConfigError(
            f"Hashes must be unique and in sorted order, got {shown(list(hashes))}; give {shown(sorted(set(hashes)))}"
        )
    for name in hashes:
        if not is_hash(name):
            raise ConfigError(f"Invalid hash: {shown(name)} in `hashes`; choose among {', '.join(hash_names())}")
    return list(hashes)


def limit_bytes(size_limit: int | str | None) -> int | None:
    """Return the size limit of a shard in bytes, or None."""
    number = None if size_limit is None else parse_bytes(size_limit, name="size_limit")
    if number is not None and not 0 < number <= MAX_OFFSET:
        raise ConfigError(
            f"`size_limit` must be less than 2**32 and more than 0, got {shown(size_limit)}, since offsets in a shard "
            f"have 32 bits; give 1 to {MAX_OFFSET} bytes, or None for the largest"
        )
    return number


def at_least(name: str, value: int, least: int) -> int:
    """Return a number that is not below `least`."""
    value = whole(name, value, most=MOST)
    if value < least:
        raise ConfigError(f"{name} is {shown(value)}; give {least} or more")
    return value


def line_marks(name: str, newline: str, separator: str | None, columns: Sequence[str]) -> tuple[str, str]:
    """Return newline and separator of lines that can be read again; `separator` is None for JSON.

    Args:
        name: of the format.
        newline: what a line ends with.
        separator: what stands between values.
        columns: names of the columns, which CSV, TSV and XSV files begin with.
    """
    if separator is None:
        if not isinstance(newline, str) or newline.strip(_JSON_SPACE):
            raise ConfigError(
                f"newline is {shown(newline)}, which no JSON parser skips; give '\\n' or other white space"
            )
        return newline, ""
    for what, mark in (("newline", newline), ("separator", separator)):
        if not isinstance(mark, str) or not mark:
            raise ConfigError(f"{what} is {shown(mark)}; give one character or more")
        text(what, mark.replace("\0", " "))  # a NUL may part values
        if bad := [column for column in columns if mark in column]:
            raise ConfigError(
                f"column {bad[0]!r} contains the {what} {mark!r}, and {name} has no quoting: rename the column, or "
                f"choose another {what} (ms.XSVWriter)"
            )
    if newline in separator or separator in newline:
        raise ConfigError(f"separator {separator!r} and newline {newline!r} overlap; give two that do not")
    if separator.join(columns).split(separator) != [*columns]:
        raise ConfigError(
            f"the names of the columns {[*columns]} end with a part of the separator {separator!r}: rename them, or "
            "choose a separator of one character"
        )
    return newline, separator


def dump(metadata: Mapping[str, object], shards: Sequence[ShardInfo]) -> bytes:
    """Return the bytes of an index; ConfigError if JSON cannot hold `metadata`."""
    try:
        return dump_index(Index(shards=tuple(shards), extra=metadata))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"metadata cannot be stored in index.json: {error}") from error
