import gzip
import importlib.util
import random
import struct
import sys
import tracemalloc
import zlib

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.errors import ConfigError, ShardCorruptError
from mixstream.formats import (
    compress,
    compression_names,
    decompress,
    extension,
    get_compression_extension,
    get_compressions,
    is_compression,
)

PACKAGES = {"br": "brotli", "snappy": "snappy"}
LEVELS = {"br": range(12), "bz2": range(1, 10), "gz": range(10), "zstd": range(1, 23)}
EVERY = [*LEVELS, "snappy", *(f"{family}:{level}" for family, levels in LEVELS.items() for level in levels)]
DATA = random.Random(3).randbytes(300) + b"a shard of text, " * 400


def available(text):
    package = PACKAGES.get(text.partition(":")[0])
    return package is None or importlib.util.find_spec(package) is not None


def codecs(*texts):
    return [pytest.param(t, marks=pytest.mark.skipif(not available(t), reason="extra not installed")) for t in texts]


FAMILIES = codecs("br", "bz2", "gz", "snappy", "zstd")


@pytest.mark.parametrize("text", codecs(*EVERY))
def test_round_trip(text):
    assert is_compression(text)
    for data in (DATA, b"", b"x"):
        assert decompress(text, compress(text, data), raw_bytes=len(data), where="s") == data


@pytest.mark.parametrize("text", EVERY)
def test_extension_has_no_level(text):
    assert extension(text) == text.partition(":")[0]


@pytest.mark.parametrize(
    "text", ["", "zip", "zstd:", "zstd:0", "zstd:23", "zstd:-1", "zstd:3.0", "zstd:03", "zstd:٣", "br:12", "snappy:1"]
)
def test_unknown_compression_is_refused_and_the_known_are_named(text):
    assert not is_compression(text)
    for call in (
        lambda: extension(text),
        lambda: compress(text, b""),
        lambda: decompress(text, b"", raw_bytes=0, where="s"),
    ):
        with pytest.raises(ConfigError, match=r"zstd\[:1-22\]"):
            call()


@pytest.mark.parametrize("text", FAMILIES)
def test_another_length_than_promised_is_refused_with_both_numbers(text):
    packed = compress(text, DATA)
    for promised in (0, 1, len(DATA) - 1, len(DATA) + 1, 10 * len(DATA)):
        with pytest.raises(ShardCorruptError, match=rf"shard\.00007.*\b{promised}\b"):
            decompress(text, packed, raw_bytes=promised, where="shard.00007")


@pytest.mark.parametrize("text", FAMILIES)
def test_truncation_and_trailing_bytes_are_refused(text):
    packed = compress(text, DATA)
    for damaged in (b"", packed[:1], packed[: len(packed) // 2], packed[:-1], packed + b"\0", packed + packed):
        with pytest.raises(ShardCorruptError, match=r"shard\.00007"):
            decompress(text, damaged, raw_bytes=len(DATA), where="shard.00007")


@pytest.mark.parametrize("text", FAMILIES)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_bytes_give_our_error_or_the_promised_length(text, data):
    packed = bytearray(compress(text, DATA))
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    try:
        raw = decompress(text, bytes(packed), raw_bytes=len(DATA), where="s")
    except ShardCorruptError:
        return
    assert len(raw) == len(DATA)


@pytest.mark.parametrize("text", FAMILIES)
def test_a_bomb_does_not_swell(text):
    bomb = compress(text, bytes(1 << 24))
    tracemalloc.start()
    try:
        with pytest.raises(ShardCorruptError):
            decompress(text, bomb, raw_bytes=1000, where="s")
        assert tracemalloc.get_traced_memory()[1] < 1 << 21
    finally:
        tracemalloc.stop()


def test_a_zstd_frame_that_does_not_say_its_size_is_bounded_too():
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(DATA)
    assert decompress("zstd", frame, raw_bytes=len(DATA), where="s") == DATA
    with pytest.raises(ShardCorruptError):
        decompress("zstd", frame, raw_bytes=len(DATA) - 1, where="s")


def test_a_zstd_header_that_declares_terabytes_is_refused_before_allocation():
    frame = bytes.fromhex("28b52ffd e0".replace(" ", "")) + struct.pack("<Q", 1 << 44) + b"\x01\0\0"
    with pytest.raises(ShardCorruptError, match=str(1 << 44)):
        decompress("zstd", frame, raw_bytes=100, where="s")


def test_gzip_is_the_same_at_any_time_and_any_reader_reads_it():
    for level in (0, 1, 6, 9):
        packed = compress(f"gz:{level}", DATA)
        assert packed == compress(f"gz:{level}", DATA)
        assert gzip.decompress(packed) == DATA
        assert packed[4:8] == bytes(4)  # the time
        assert packed[10:-8] == zlib.compress(DATA, level, wbits=-15)


@pytest.mark.parametrize(
    ("text", "module", "package"), [("br", "brotli", "brotli"), ("snappy", "snappy", "python-snappy")]
)
def test_a_missing_package_is_named_with_the_word_to_type(text, module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    for call in (lambda: compress(text, b"x"), lambda: decompress(text, b"\1\0x", raw_bytes=1, where="s")):
        with pytest.raises(ConfigError, match=rf"{package}.*pip install {package}"):
            call()


@pytest.mark.parametrize("text", FAMILIES)
def test_without_a_size_a_stream_is_decompressed_whole(text):
    assert decompress(text, compress(text, DATA)) == DATA
    with pytest.raises(ShardCorruptError, match="not a whole"):
        decompress(text, compress(text, DATA)[:-3])


def test_a_zstd_frame_without_a_size_too():
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(DATA)
    assert decompress("zstd", frame) == DATA
    with pytest.raises(ShardCorruptError, match="bytes follow"):
        decompress("zstd", frame + b"x")


def test_names_and_none():
    assert set(compression_names()) == set(EVERY) == get_compressions()
    assert compress(None, DATA) == decompress(None, DATA) == DATA
    assert not is_compression(None)
    assert get_compression_extension("zstd:7") == "zstd"
    with pytest.raises(ConfigError, match="is not a supported compression algorithm"):
        compress("br:99", DATA)
