"""Samples and lines: what a JSON, CSV, TSV or XSV shard holds, both ways.

There is no quoting: in CSV, TSV and XSV a value that contains the separator or the newline is refused when it is
written, and so is a line that would be read as other values.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mixstream.errors import EncodingError, MissingColumnError, ShardCorruptError
from mixstream.formats.entry import MAX_OFFSET
from mixstream.formats.split.encodings import is_value, plain_value, xsv_decode, xsv_encode
from mixstream.formats.split.info import SplitInfo
from mixstream.formats.split.layout import REMEDY


def encode_line(sample: Mapping[str, Any], info: SplitInfo) -> bytes:
    """Encode one sample as a line of a shard like `info`. Further keys are ignored.

    Raises:
        MissingColumnError: the sample lacks a column (also a KeyError).
        EncodingError: a column cannot hold its value, or the line would be read as other values.
    """
    values = {}
    for name, encoding in zip(info.column_names, info.encodings):
        if name not in sample:
            raise MissingColumnError(
                f"the sample lacks column {name!r}; it has {sorted(map(str, sample))}, the dataset has "
                f"{list(info.column_names)}"
            )
        try:
            values[name] = (plain_value if info.name == "json" else xsv_encode)(encoding, sample[name])
        except (EncodingError, ValueError) as error:
            raise EncodingError(f"column {name!r}: {error}") from error
    text = json.dumps(values, sort_keys=True) if info.name == "json" else join_values(values, info)
    try:
        return (text + info.newline).encode()
    except UnicodeEncodeError as error:
        raise EncodingError(f"a value of the sample is no text that UTF-8 can hold: {error}") from error


def join_values(values: Mapping[str, Any], info: SplitInfo) -> str:
    """Join texts by the separator; EncodingError if they could not be told apart again."""
    for what, mark in (("separator", info.separator), ("newline", info.newline)):
        for name, value in values.items():
            if mark in value:
                raise EncodingError(
                    f"column {name!r}: the value {_short(value)} contains the {what} {mark!r}, and {info.name} has no "
                    f"quoting, so it would be read as other values: remove it, choose another {what} "
                    "(ms.XSVWriter), or write JSON or MDS"
                )
    text = info.separator.join(values.values())
    if text.split(info.separator) != [*values.values()] or info.newline in text:
        raise EncodingError(
            f"the values {_short(text)} contain a part of the separator {info.separator!r} or newline "
            f"{info.newline!r} at their ends, so they would be read as other values: choose a separator of one "
            "character, or write JSON or MDS"
        )
    return text


def header_of(info: SplitInfo) -> bytes:
    """Return the line of column names that a CSV, TSV or XSV data file begins with; empty for JSON."""
    return b"" if info.name == "json" else (info.separator.join(info.column_names) + info.newline).encode()


def encode_files(lines: Sequence[bytes], info: SplitInfo) -> tuple[bytes, bytes]:
    """Return the data file and the meta file of a shard of these lines.

    Raises:
        EncodingError: the data file would be larger than 2**32 - 1 bytes, the limit of its offsets.
    """
    header = header_of(info)
    offsets = np.zeros(len(lines) + 1, np.int64)
    np.cumsum([len(line) for line in lines], out=offsets[1:])
    offsets += len(header)
    if offsets[-1] > MAX_OFFSET:
        raise EncodingError(
            f"{len(lines)} samples make a data file of {offsets[-1]} bytes, offsets reach {MAX_OFFSET}; "
            "give size_limit a smaller number"
        )
    config = json.dumps(info.config(), sort_keys=True).encode()
    meta = b"".join((struct.pack("<I", len(lines)), offsets.astype("<u4").tobytes(), config))
    return b"".join((header, *lines)), meta


def decode_line(data: bytes | memoryview, info: SplitInfo, *, where: str) -> dict[str, Any]:
    """Decode one line into its columns, in the order of `info.column_names`.

    Raises:
        ShardCorruptError: the bytes are not a line of these columns.
    """
    try:
        text = str(data, "utf-8")
        if not text.endswith(info.newline):
            raise ValueError(f"the line does not end with {info.newline!r}")
        text = text[: len(text) - len(info.newline)]
        return _json_values(text, info) if info.name == "json" else _xsv_values(text, info)
    except (ValueError, RecursionError) as error:  # also UnicodeDecodeError, JSONDecodeError, ShardCorruptError
        raise ShardCorruptError(f"{where}: {error}; {REMEDY}") from error


def _json_values(text: str, info: SplitInfo) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict) or found.keys() != {*info.column_names}:
        shown = sorted(found) if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"the line holds {_short(str(shown))}, its index says {list(info.column_names)}")
    for name, encoding in zip(info.column_names, info.encodings):
        if not is_value(encoding, found[name]):
            raise ValueError(f"column {name!r} of encoding {encoding!r} holds {_short(str(found[name]))}")
    return {name: found[name] for name in info.column_names}


def _xsv_values(text: str, info: SplitInfo) -> dict[str, Any]:
    parts = text.split(info.separator)
    if len(parts) != len(info.column_names):
        raise ValueError(f"the line has {len(parts)} values, its index says {len(info.column_names)}")
    return {name: xsv_decode(encoding, part) for name, encoding, part in zip(*_columns(info), parts)}


def _columns(info: SplitInfo) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return info.column_names, info.encodings


def _short(value: str) -> str:
    return repr(value if len(value) <= 80 else f"{value[:80]}…")
