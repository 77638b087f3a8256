"""Compressed shards from an attacker: the promised bytes or our error, in bounded time and memory."""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import json
import struct
import subprocess
import sys
import textwrap
import zlib

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.errors import ShardCorruptError
from mixstream.formats import compress, decompress

PACKAGES = {"br": "brotli", "snappy": "snappy"}
FAMILIES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name in PACKAGES and importlib.util.find_spec(PACKAGES[name]) is None, reason="extra not installed"
        ),
    )
    for name in ("br", "bz2", "gz", "snappy", "zstd")
]
DATA = b"a shard of text, " * 40 + bytes(range(256))
MAGIC = b"\x28\xb5\x2f\xfd"


def outcome(text: str, packed: bytes, promised: int) -> bytes | None:
    """Return what comes out, or None if it is refused as it should be."""
    try:
        raw = decompress(text, packed, raw_bytes=promised, where="shard.00007")
    except ShardCorruptError as error:
        refusal = str(error)
    else:
        assert len(raw) == promised
        return raw
    assert refusal.startswith("shard.00007: ")
    return None


def block(kind: int, size: int, data: bytes, *, last: bool = False) -> bytes:
    """Return a zstd block: 0 raw, 1 one byte repeated (RFC 8878 section 3.1.1.2)."""
    return struct.pack("<I", size << 3 | kind << 1 | last)[:3] + data


def frame(*blocks: bytes, window: int = 17, size: int | None = None) -> bytes:
    """Return a zstd frame with a window of 2**window bytes, which says its size if `size` is given."""
    head = MAGIC + bytes([0x00 if size is None else 0xC0, (window - 10) << 3])
    return head + (b"" if size is None else struct.pack("<Q", size)) + b"".join(blocks)


@pytest.mark.parametrize("text", FAMILIES)
@settings(max_examples=80)
@given(data=st.data())
def test_any_stream_made_of_pieces_of_good_ones(text, data):
    """Cut, doubled, joined, followed by other bytes, or promised to be of another length."""
    whole = [compress(text, raw) for raw in (DATA, b"", bytes(5000))]
    packed = b""
    for _ in range(data.draw(st.integers(1, 3))):
        piece = data.draw(st.sampled_from(whole))
        begin = data.draw(st.integers(0, len(piece)) | st.just(0))
        end = data.draw(st.just(len(piece)) | st.integers(begin, len(piece)))
        packed += piece[begin:end] + data.draw(st.binary(max_size=2))
    promised = data.draw(st.sampled_from([1, 8, len(DATA), 5000, 5001, len(DATA) + 5000, 2**32 - 1]))
    raw = outcome(text, packed, promised)
    assert raw is None or packed in (whole[0], whole[2]) or packed not in whole
    if packed in whole:
        expected = (DATA, b"", bytes(5000))[whole.index(packed)]
        assert raw == (expected if len(expected) == promised else None)


@pytest.mark.parametrize("text", FAMILIES)
@settings(max_examples=80)
@given(packed=st.binary(max_size=60), promised=st.sampled_from([1, 30, 2**20, 2**32 - 1]))
def test_raw_bytes(text, packed, promised):
    outcome(text, packed, promised)
    outcome(text, {"gz": b"\x1f\x8b\x08\0", "bz2": b"BZh9", "zstd": MAGIC}.get(text, b"") + packed, promised)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 3]), st.integers(0, 1 << 18), st.booleans()), max_size=4),
    st.integers(10, 41),
    st.none() | st.integers(0, 2**64 - 1) | st.integers(0, 1 << 18),
    st.integers(1, 1 << 18),
)
def test_zstd_frames_made_by_hand(blocks, window, size, promised):
    """Blocks of all kinds and sizes, windows of any size, sizes declared rightly or not at all or not rightly."""
    made = []
    for place, (kind, length, full) in enumerate(blocks):
        body = b"x" * (1 if kind == 1 else min(length, 4096) if full else 3)
        made.append(block(kind, length & 0x1FFFFF, body, last=place == len(blocks) - 1))
    packed = frame(*made, window=window, size=size)
    raw = outcome("zstd", packed, promised)
    if raw is not None:
        assert raw == zstandard.ZstdDecompressor().decompressobj().decompress(packed) == b"x" * promised


@pytest.mark.parametrize("window", [10, 17, 27])
def test_a_zstd_frame_that_says_nothing_is_read(window):
    packed = frame(block(1, 1 << 10, b"a"), block(0, 3, b"end", last=True), window=window)
    assert decompress("zstd", packed, raw_bytes=1027, where="s") == b"a" * 1024 + b"end"


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("gz", gzip.compress(DATA[:100]) + gzip.compress(DATA[100:])),
        ("bz2", bz2.compress(DATA[:100]) + bz2.compress(DATA[100:])),
        ("zstd", compress("zstd", DATA[:100]) + compress("zstd", DATA[100:])),
        ("zstd", compress("zstd", b"") * 1000 + compress("zstd", DATA)),
        ("zstd", struct.pack("<2I", 0x184D2A50, 5) + b"12345" + compress("zstd", DATA)),
        ("zstd", compress("zstd", DATA) + struct.pack("<2I", 0x184D2A5F, 0)),
        ("zstd", struct.pack("<2I", 0x184D2A50, 2**32 - 1) + compress("zstd", DATA)),
        ("gz", zlib.compress(DATA)),
        ("zstd", gzip.compress(DATA)),
    ],
)
def test_more_than_one_stream_or_another_is_refused(name, packed):
    assert outcome(name, packed, len(DATA)) is None


@pytest.mark.parametrize(
    "varint", [b"\xff\xff\xff\xff\x0f", b"\xff" * 4 + b"\x7f", b"\xff" * 9 + b"\x01", b"\x80" * 4, b""]
)
def test_a_snappy_block_that_declares_gigabytes_is_refused(varint):
    assert outcome("snappy", varint + b"\0a", 2**32 - 1) is None


BOMBS = """
    import bz2, json, resource, struct, sys, time, zlib
    from mixstream.errors import ShardCorruptError
    from mixstream.formats import compress, decompress

    LARGE, PROMISED = 1 << 24, (1 << 32) - 1
    rle = struct.pack("<I", (1 << 17) << 3 | 2)[:3] + b"a"
    end = struct.pack("<I", 1)[:3]
    def frame(window, size=None):
        head = b"\\x28\\xb5\\x2f\\xfd" + bytes([0x00 if size is None else 0xC0, (window - 10) << 3])
        return head + (b"" if size is None else struct.pack("<Q", size))

    bombs = [
        ("zstd", frame(17) + rle * 30000 + end, 1000),                    # 4 GB from 120 kB, nothing declared
        ("zstd", frame(17) + rle * 30000 + end, 1 << 20),
        ("zstd", frame(17, 30000 << 17) + rle * 30000 + end, 1000),       # declared
        ("zstd", frame(17, 1000) + rle * 30000 + end, 1000),              # declared wrongly
        ("zstd", frame(31) + rle, 1 << 17),                               # --long=31
        ("zstd", frame(31, PROMISED) + rle, PROMISED),
        ("zstd", frame(41, PROMISED) + rle, PROMISED),
        ("zstd", frame(17) + rle, PROMISED),                              # an index that promises what cannot come
        ("zstd", compress("zstd", b"") * 500000, 8),
        ("zstd", frame(17) + struct.pack("<I", 0)[:3] * 1000000, 8),      # blocks of nothing, without end
        ("gz", compress("gz", bytes(LARGE)), 1000),
        ("gz", compress("gz", b"a"), PROMISED),
        ("bz2", compress("bz2", bytes(LARGE)), 1000),
        ("bz2", compress("bz2", b"a"), PROMISED),
        ("bz2", bz2.compress(b"") * 100000, 8),
    ]
    for family in sys.argv[1:]:
        bombs += [(family, compress(family, bytes(LARGE)), 1000), (family, compress(family, b"a"), PROMISED)]
    if "snappy" in sys.argv:
        bombs.append(("snappy", b"\\xff\\xff\\xff\\xff\\x0f" + b"\\0a", PROMISED))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (192 << 20),) * 2)
    slowest = 0.0
    for number, (text, packed, promised) in enumerate(bombs):
        began = time.perf_counter()
        try:
            decompress(text, packed, raw_bytes=promised, where="s")
        except ShardCorruptError:
            pass
        else:
            raise AssertionError(f"bomb {number}, {text}, was let through")
        slowest = max(slowest, time.perf_counter() - began)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps({"bombs": len(bombs), "megabytes": grown, "seconds": slowest}))
"""


def test_bombs_take_neither_memory_nor_time():
    """In a process that may have 192 MiB more than it has: none needs even a tenth of that."""
    extras = [name for name, package in PACKAGES.items() if importlib.util.find_spec(package) is not None]
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(BOMBS), *extras],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    told = json.loads(child.stdout)
    assert told["bombs"] >= 15
    assert told["megabytes"] < 20
    assert told["seconds"] < 5
