"""Whole-shard compression by name: `zstd`, `zstd:7`, `gz`, `bz2:9`, `br:5`, `snappy`.

Only pure functions of bytes live here. A compressed shard is one stream with nothing behind it. Memory is bounded:

- `decompress` stops a stream at `raw_bytes + 1` bytes (brotli, which rounds up, at 32 KiB more). A small file therefore
  cannot fill the memory.
- It does not allocate a size that the index or the stream's header declares if the stream is too short for it.
- Joining the pieces of a gz, bz2 or br stream takes twice `raw_bytes` for a moment.
- A zstd frame without a content size may take 128 MiB more, for its window. A frame with a larger window is refused.

Names, levels and defaults are those of an MDS index (`specs/mds.md` section 2).
"""

import bz2
import struct
import zlib
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import zstandard

from mixstream.errors import ConfigError, ShardCorruptError
from mixstream.records import dataclass

# The most output bytes for a byte of a stream. zstd: a block takes at least four bytes (RLE) and gives at most 128 KiB.
# snappy: a copy of more than eleven bytes takes at least three and gives at most 64.
_ZSTD_SWELL = 1 << 15
_SNAPPY_SWELL = 22
_ZSTD_WINDOW = 1 << 27
_UNBOUNDED = 1 << 62  # bytes

_REMEDY = "fetch the file again; if that does not help, write the dataset again"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Codec:
    """One family: its levels (empty if it has none), its default level, and both directions."""

    levels: range
    default: int
    compress: Callable[[bytes, int], bytes]
    decompress: Callable[[bytes | bytearray, int], bytes]  # (data, limit) -> at most limit + 1 bytes, or ValueError


def is_compression(text: str | None) -> bool:
    """Return whether `text` names a compression: a family, or `family:level`."""
    return text is not None and _parse(text) is not None


def compression_names() -> list[str]:
    """Return the names of all compressions, sorted: each family, and each of its levels.

    >>> [name for name in compression_names() if name.startswith(("snappy", "zstd:1"))][:3]
    ['snappy', 'zstd:1', 'zstd:10']
    """
    levels = (f"{family}:{level}" for family, codec in _CODECS.items() for level in codec.levels)
    return sorted([*_CODECS, *levels])


def extension(text: str) -> str:
    """Return the file extension of a compression, without dot or level: `"zstd:7"` gives `"zstd"`.

    Raises:
        ConfigError: there is no such compression.
    """
    _require(text)
    return text.partition(":")[0]


def compress(text: str | None, data: bytes) -> bytes:
    """Compress a whole shard into one stream; with None, return it as it is.

    >>> stream = compress("zstd:7", b"tokens " * 1000)
    >>> len(decompress("zstd:7", stream, raw_bytes=7000, where="shard.00000.mds.zstd"))
    7000

    Raises:
        ConfigError: there is no such compression, or its package is not installed.
    """
    if text is None:
        return data
    codec, level = _require(text)
    return codec.compress(data, level)


def decompress(
    text: str | None, data: bytes | bytearray, *, raw_bytes: int | None = None, where: str = "the data"
) -> bytes:
    """Decompress a whole shard of exactly `raw_bytes` bytes; with None as `text`, return it as it is.

    `raw_bytes` bounds the memory, whatever the stream declares. Without it nothing does: then leave untrusted data
    alone. `where` names the file in errors.

    Raises:
        ShardCorruptError: the stream is damaged, cut short, followed by other bytes, or of another length.
        ConfigError: there is no such compression, or its package is not installed.
    """
    if text is None:
        return bytes(data)
    codec, _ = _require(text)
    try:
        raw = codec.decompress(data, _UNBOUNDED if raw_bytes is None else raw_bytes)
    except ConfigError:
        raise
    except (ValueError, OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        size = "" if raw_bytes is None else f" of {raw_bytes} bytes"
        raise ShardCorruptError(
            f"{where}: not a whole {text} stream{size} ({error}); the shard cannot be read; {_REMEDY}"
        ) from error
    if raw_bytes is not None and len(raw) != raw_bytes:
        size = f"more than {raw_bytes}" if len(raw) > raw_bytes else str(len(raw))
        raise ShardCorruptError(
            f"{where}: decompresses to {size} bytes, its index says {raw_bytes}; the shard cannot be read; {_REMEDY}"
        )
    return raw


def _parse(text: str) -> tuple[_Codec, int] | None:
    family, colon, level = text.partition(":")
    codec = _CODECS.get(family)
    if codec is None:
        return None
    if not colon:
        return codec, codec.default
    if not (level.isascii() and level.isdecimal() and str(int(level[:3])) == level and int(level) in codec.levels):
        return None
    return codec, int(level)


def _require(text: str) -> tuple[_Codec, int]:
    parsed = _parse(text)
    if parsed is None:
        known = ", ".join(f"{n}[:{c.levels[0]}-{c.levels[-1]}]" if c.levels else n for n, c in _CODECS.items())
        raise ConfigError(f"{text!r} is not a supported compression algorithm; choose among {known}")
    return parsed


def _import_extra(module: str, package: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"this compression needs the package {package}, which is not installed; `pip install {package}`"
        ) from error


def _stop_at_end(*, ended: bool, produced: int, limit: int, left: bytes) -> None:
    """Raise ValueError if a stream is cut short or followed by other bytes; one beyond its limit is left to callers."""
    if produced > limit:
        return
    if not ended:
        raise ValueError(f"it ends after {produced} bytes of output")
    if left:
        raise ValueError(f"{len(left)} bytes follow its end")


def _compress_gzip(data: bytes, level: int) -> bytes:
    # `gzip.compress` puts the time into bytes 4 to 8 and has changed its header between releases. These bytes depend on
    # neither the clock nor the Python version, and are otherwise those of CPython 3.11.
    extra_flags = {9: 2, 1: 4}.get(level, 0)
    deflate = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    header = struct.pack("<BBBBIBB", 0x1F, 0x8B, 8, 0, 0, extra_flags, 255)
    trailer = struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)
    return b"".join((header, deflate.compress(data), deflate.flush(), trailer))


def _decompress_gzip(data: bytes | bytearray, limit: int) -> bytes:
    return _decompress_stream(zlib.decompressobj(zlib.MAX_WBITS | 16), data, limit)


def _decompress_bz2(data: bytes | bytearray, limit: int) -> bytes:
    return _decompress_stream(bz2.BZ2Decompressor(), data, limit)


def _decompress_stream(stream: Any, data: bytes | bytearray, limit: int) -> bytes:
    raw = stream.decompress(data, limit + 1)
    _stop_at_end(ended=stream.eof, produced=len(raw), limit=limit, left=stream.unused_data)
    return raw


def _compress_zstd(data: bytes, level: int) -> bytes:
    return zstandard.ZstdCompressor(level=level).compress(data)


def _decompress_zstd(data: bytes | bytearray, limit: int) -> bytes:
    # The one-shot call allocates what the frame declares, or else `max_output_size`, so both are bounded first.
    declared, possible = zstandard.frame_content_size(data), _ZSTD_SWELL * len(data)
    if declared > min(limit, possible):
        raise ValueError(f"its header declares {declared} bytes")
    stream = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    if declared < 0 and limit == _UNBOUNDED:  # a frame without a size; the one-shot call would allocate `possible`
        chunks = stream.decompressobj()
        raw = chunks.decompress(data)
        _stop_at_end(ended=chunks.eof, produced=len(raw), limit=limit, left=chunks.unused_data)
        return raw
    return stream.decompress(data, max_output_size=min(limit, possible) + 1, allow_extra_data=False)


def _compress_brotli(data: bytes, level: int) -> bytes:
    return _import_extra("brotli", "brotli").compress(data, quality=level)


def _decompress_brotli(data: bytes | bytearray, limit: int) -> bytes:
    brotli = _import_extra("brotli", "brotli")
    stream = brotli.Decompressor()
    chunks, produced, fed = [], 0, data
    try:
        while produced <= limit and not stream.is_finished():
            chunk = stream.process(fed, output_buffer_limit=min(limit + 1 - produced, 1 << 24))
            fed = b""
            if not chunk:
                break
            chunks.append(chunk)
            produced += len(chunk)
    except brotli.error as error:
        raise ValueError(str(error)) from error
    _stop_at_end(ended=stream.is_finished(), produced=produced, limit=limit, left=b"")
    return b"".join(chunks)


def _compress_snappy(data: bytes, _level: int) -> bytes:
    return bytes(_import_extra("snappy", "python-snappy").compress(data))


def _decompress_snappy(data: bytes | bytearray, limit: int) -> bytes:
    # The raw block begins with its length as a varint, and the decoder allocates that many bytes: check it first.
    declared = 0
    for place, byte in enumerate(data[:5]):
        declared |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            break
    else:
        raise ValueError("it has no length at its head")
    if declared > min(limit, _SNAPPY_SWELL * len(data)):
        raise ValueError(f"its header declares {declared} bytes")
    snappy = _import_extra("snappy", "python-snappy")
    try:
        return bytes(snappy.uncompress(data))
    except snappy.UncompressError as error:
        raise ValueError("it is not a snappy block") from error


_CODECS = {
    "br": _Codec(levels=range(12), default=11, compress=_compress_brotli, decompress=_decompress_brotli),
    "bz2": _Codec(levels=range(1, 10), default=9, compress=bz2.compress, decompress=_decompress_bz2),
    "gz": _Codec(levels=range(10), default=9, compress=_compress_gzip, decompress=_decompress_gzip),
    "snappy": _Codec(levels=range(0), default=0, compress=_compress_snappy, decompress=_decompress_snappy),
    "zstd": _Codec(levels=range(1, 23), default=3, compress=_compress_zstd, decompress=_decompress_zstd),
}
