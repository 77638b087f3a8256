"""Values from an attacker: a value or one of our errors, without a warning, in bounded time and memory."""

from __future__ import annotations

import json
import pickle
import struct
import subprocess
import sys
import textwrap
from contextlib import suppress
from decimal import Decimal
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.errors import ShardCorruptError
from mixstream.formats import mds_decode, mds_encode


def picture() -> Any:
    image = pytest.importorskip("PIL.Image")
    return image.linear_gradient("L").resize((9, 7)).convert("RGB")


def saved(file_format: str, **kw: Any) -> bytes:
    out = BytesIO()
    picture().save(out, format=file_format, **kw)
    return out.getvalue()


def payloads(encoding: str) -> list[bytes]:
    """Return good payloads of an encoding."""
    if encoding in ("jpeg", "png"):
        return [saved("JPEG", progressive=True), saved("PNG"), saved("GIF"), saved("BMP"), saved("WEBP")]
    if encoding == "jpeg_array":
        return [mds_encode(encoding, [saved("JPEG")] * 2)]
    if encoding.startswith("list["):
        return [mds_encode(encoding, [picture()] * 2)]
    value = {
        "pil": picture,
        "json": lambda: {"a": [1, 2.5, None, "é"], "b": {"c": True}},
        "str": lambda: "é漢",
        "str_int": lambda: -12345678901234567890,
        "str_float": lambda: 1.5e300,
        "str_decimal": lambda: Decimal("1.50e-3"),
        "bytes": lambda: b"\0\xff",
        "int": lambda: -3,
        "float16": lambda: 1.5,
        "uint64": lambda: 2**64 - 1,
        "pkl": lambda: {"a": [1, (2.5, None)]},
    }.get(encoding, lambda: np.arange(6, dtype=np.int32).reshape(2, 3))()
    return [mds_encode(encoding, value)]


IMAGES = ["pil", "jpeg", "png", "jpeg_array", "list[pil]", "list[jpeg]", "list[png]"]
TEXTS = ["json", "str", "str_int", "str_float", "str_decimal", "bytes"]
NUMBERS = ["int", "float16", "uint64", "ndarray", "ndarray:int32", "ndarray:int32:2,3"]


@pytest.mark.parametrize("encoding", [*IMAGES, *TEXTS, *NUMBERS])
@settings(max_examples=60)
@given(data=st.data())
def test_damaged_payloads_of_every_encoding(encoding, data):
    """A value or our error; any warning, of NumPy or Pillow, would fail the test."""
    payload = bytearray(data.draw(st.sampled_from(payloads(encoding))))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(payload) - 1))
        payload[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
        if not payload:
            break
    with suppress(ShardCorruptError):
        repr(mds_decode(encoding, payload))
    with suppress(ShardCorruptError):
        mds_decode(encoding, data.draw(st.binary(max_size=40)))


@pytest.mark.parametrize(
    ("encoding", "payload"),
    [
        ("str_decimal", b"1e" + b"9" * 30),
        ("str_decimal", b"sNaN1" * 5),
        ("str_int", b"9" * 4301),
        ("json", b"9" * 4301),
        ("json", b'{"a":' * 100_000),
        ("str", b"\xed\xa0\x80"),
        ("ndarray", struct.pack("<BB", 8, 63 << 2) + b"\x02" * 64),
        ("ndarray:uint8", bytes([3 | 8 << 2]) + struct.pack("<8Q", *[2**63] * 8)),
        ("ndarray:uint8", bytes([3 | 2 << 2]) + struct.pack("<2Q", 2**32, 2**32)),
        ("pil", struct.pack("<3I", 2**32 - 1, 2**32 - 1, 3) + b"RGB"),
        ("pil", struct.pack("<3I", 0, 2**32 - 1, 1) + b"L"),
        ("pil", struct.pack("<3I", 1, 1, 2**32 - 1) + b"L"),
        ("list[png]", struct.pack("<2I", 0, 2**32 - 1)),
        ("list[pil]", struct.pack("<4I", 0, 2, 2**32 - 1, 1)),
        ("jpeg_array", struct.pack("<I", 2**30)),
    ],
)
def test_values_that_say_too_much_are_refused(encoding, payload):
    with pytest.raises(ShardCorruptError, match=r"not a value of encoding"):
        mds_decode(encoding, payload)


def test_odd_numbers_are_decoded_without_a_warning():
    """Signalling NaNs, subnormals, and the least integers are bits like others."""
    for name, bits in (
        ("float16", 0x7C01),
        ("float32", 0x7F800001),
        ("float64", 0x7FF0000000000001),
        ("int64", 1 << 63),
    ):
        size = np.dtype(name).itemsize
        payload = bits.to_bytes(size, "little")
        assert mds_decode(name, payload).tobytes() == payload
        assert mds_decode(f"ndarray:{name}:2", payload * 2).tobytes() == payload * 2


class Trap:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return exec, ("raise SystemError('the trap')",)


def test_nothing_is_unpickled_by_the_other_encodings():
    trap = pickle.dumps(Trap())
    for encoding in ("json", "str", "ndarray", "ndarray:int32", "str_int", "pil", "png", "list[png]", "jpeg_array"):
        with pytest.raises(ShardCorruptError) as caught:
            mds_decode(encoding, trap)
        assert "the trap" not in str(caught.value)
    assert mds_decode("bytes", trap) == trap


@pytest.mark.parametrize(
    "payload",
    [
        pickle.dumps(Trap()),
        b"cno_such_module\nname\n.",
        b"cos\nno_such_name\n.",
        b"",
        b".",
        b"\x80\x04K",
        b"(R.",
        b"\x80\xff.",
    ],
)
def test_what_a_pickle_raises_is_our_error(payload):
    """Whoever allows pickles gets errors of mixstream all the same, with what was raised."""
    with pytest.raises(ShardCorruptError, match=r"not a value of encoding 'pkl': \w+Error: "):
        mds_decode("pkl", payload)


def scans(times: int) -> bytes:
    """Return a progressive JPEG whose last scan stands `times` times."""
    file = saved("JPEG", progressive=True)
    last = file[file.rindex(b"\xff\xda") : -2]
    return file[:-2] + last * (times - 1) + b"\xff\xd9"


def test_a_jpeg_of_endless_scans_is_refused():
    """Each takes ten bytes here and goes over all pixels there."""
    assert mds_decode("jpeg", scans(20)).size == (9, 7)
    with pytest.raises(ShardCorruptError, match="scans"):
        mds_decode("jpeg", scans(1000))


def test_pillow_s_limit_is_ours_without_a_warning(monkeypatch):
    """Pillow warns above its limit and refuses above twice that; here the limit is the limit, and can be set."""
    image = pytest.importorskip("PIL.Image")
    file, files = saved("PNG"), mds_encode("list[png]", [picture()] * 300)
    monkeypatch.setattr(image, "MAX_IMAGE_PIXELS", 62)
    with pytest.raises(ShardCorruptError, match=r"9x7 pixels, at most 62 .*set PIL\.Image\.MAX_IMAGE_PIXELS higher"):
        mds_decode("png", file)
    monkeypatch.setattr(image, "MAX_IMAGE_PIXELS", 63)
    assert mds_decode("png", file).size == (9, 7)
    assert len(mds_decode("list[png]", files)) == 300  # many images are no bomb
    monkeypatch.setattr(image, "MAX_IMAGE_PIXELS", None)
    assert mds_decode("png", file).size == (9, 7)


BOMBS = """
    import json, resource, struct, sys, zlib
    from io import BytesIO
    from PIL import Image, PngImagePlugin, JpegImagePlugin, GifImagePlugin, BmpImagePlugin, WebPImagePlugin
    from mixstream.errors import ShardCorruptError
    from mixstream.formats import mds_decode

    def saved(file_format, size=(64, 64), mode="L"):
        out = BytesIO()
        Image.new(mode, size).save(out, format=file_format)
        return bytearray(out.getvalue())

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def png(side, *more):
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
        rows = zlib.compress(bytes((side // 8 + 1) * min(side, 9000)), 9)
        return b"\\x89PNG\\r\\n\\x1a\\n" + head + b"".join(more) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")

    jpeg = saved("JPEG")
    struct.pack_into(">HH", jpeg, jpeg.index(b"\\xff\\xc0") + 5, 65000, 65000)
    gif = saved("GIF")
    struct.pack_into("<HH", gif, 6, 65535, 65535)
    bmp = saved("BMP")
    struct.pack_into("<ii", bmp, 18, 60000, 60000)
    webp = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + b"\\xff\\x7f\\0" * 2
    text = chunk(b"zTXt", b"a\\0\\0" + zlib.compress(bytes(1 << 27), 9))
    one = png(9000)
    many = struct.pack("<2I", 0, 300) + struct.pack("<I", len(one)) * 300 + one * 300
    array = struct.pack("<I", 400) + struct.pack("<I", len(jpeg)) * 400 + bytes(jpeg) * 400
    bombs = {"png": png(60000), "jpeg": jpeg, "gif": gif, "bmp": bmp, "webp": webp, "text": png(8, text)}
    assert mds_decode("png", one).size == (9000, 9000)  # 80 MB, which one image may have; its page tables are warm

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (256 << 20),) * 2)
    found = {}
    for name, bomb in [*bombs.items(), ("list[png]", many), ("jpeg_array", array)]:
        try:
            mds_decode(name if name in ("list[png]", "jpeg_array") else "png", bytes(bomb))
            found[name] = "decoded"
        except ShardCorruptError as error:
            found[name] = str(error)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps({"found": found, "megabytes": grown}))
"""


def test_image_bombs_take_no_memory():
    """Small files of billions of pixels, in a process that may have 256 MiB more than it has."""
    pytest.importorskip("PIL.Image")
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(BOMBS)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    told = json.loads(child.stdout)
    assert set(told["found"]) == {"png", "jpeg", "gif", "bmp", "webp", "text", "list[png]", "jpeg_array"}
    assert all("not a value of encoding" in text and "MemoryError" not in text for text in told["found"].values()), told
    assert told["megabytes"] < 64
    assert "too many for" in told["found"]["list[png]"]
