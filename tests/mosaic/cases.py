"""Datasets that mosaicml-streaming and mixstream both write: the inputs, rebuilt the same everywhere.

`make_fixtures.py` gives them to MDSWriter of mosaicml-streaming and keeps what it writes in `tests/data/mosaic/`; the
tests give them to ours. Inputs may depend on nothing but this file: no clock, no generator whose stream may change.
"""

import pickle
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np

Sample = dict[str, Any]
DTYPES = ("uint8", "int8", "uint16", "int16", "float16", "uint32", "int32", "float32", "uint64", "int64", "float64")
COMPRESSIONS = ("zstd", "zstd:7", "gz", "gz:1", "bz2", "bz2:1", "br", "br:5", "snappy")
ALL_HASHES = [
    "blake2b",
    "blake2s",
    "md5",
    "sha1",
    "sha224",
    "sha256",
    "sha384",
    "sha3_224",
    "sha3_256",
    "sha3_384",
    "sha3_512",
    "sha512",
    "xxh128",
    "xxh32",
    "xxh3_128",
    "xxh3_64",
    "xxh64",
]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One dataset: what the writer is told, and what it is given."""

    columns: dict[str, str]
    samples: Callable[[], Iterable[Sample]]
    options: dict[str, Any] = field(default_factory=dict)


def noise(count: int, key: int) -> np.ndarray:
    """Return uint64 [count] that look random (splitmix64)."""
    z = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(key << 32)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def array(dtype: str, shape: tuple[int, ...], key: int) -> np.ndarray:
    """Return an array of small values that every dtype holds."""
    return (noise(int(np.prod(shape)), key) % np.uint64(100)).astype(dtype).reshape(shape)


def words(count: int, key: int) -> str:
    """Return text that compresses."""
    vocabulary = ("stream", "shard", "domain", "weight", "lane", "éß漢", "draw", "\n")
    return " ".join(vocabulary[int(n % np.uint64(8))] for n in noise(count, key))


def scalars() -> Iterable[Sample]:
    for i in range(8):
        yield {
            "bytes": bytes(range(i)),
            "str": words(i, i),
            "int": (-1) ** i * (1 << 8 * i) // 2,
            "str_int": -(10 ** (i * 9)),
            "str_float": (-1.5) ** i / 3,
            "str_decimal": Decimal(10) ** -i / 7,
            "json": {"i": i, "list": [None, True, 1.5, "ü"], "nested": {"deep": [[i]]}},
            **{dtype: np.dtype(dtype).type(i * 11 + 1) for dtype in DTYPES},
            "ignored": object(),
        }


def arrays() -> Iterable[Sample]:
    shapes = [(1,), (255,), (256,), (3, 4), (1, 2, 300), (1,) * 5]
    for i, shape in enumerate(shapes):
        yield {
            **{f"of_{dtype}": array(dtype, shape, i) for dtype in DTYPES},
            **{f"in_{dtype}": array(dtype, (2, 3), i) for dtype in DTYPES},
            "any": array(DTYPES[i], shape, i),
        }


def tokens(count: int = 60) -> Iterable[Sample]:
    for i in range(count):
        yield {"tokens": array("uint16", (32,), i), "id": i}


def documents(count: int = 40) -> Iterable[Sample]:
    for i in range(count):
        yield {"text": words(5 + i * 3, i), "tokens": array("int32", (1 + i * 2,), i)}


def oversize(at: int) -> Iterable[Sample]:
    for i in range(6):
        yield {"data": array("uint8", (500 if i == at else 40,), i).tobytes()}


def pickles() -> Iterable[Sample]:
    yield {"object": ["a", 1, {"b": (2.5, None)}]}
    yield {"object": b"\x80\x04N."}


def png_bytes(i: int) -> bytes:
    """Return an 8x8 grey PNG, made by hand so that no encoder's version matters."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + bytes((i * 9 + x * y) % 256 for x in range(8)) for y in range(8))
    stored = b"\x78\x01\x01" + struct.pack("<HH", len(rows), len(rows) ^ 0xFFFF) + rows
    stored += struct.pack(">I", zlib.adler32(rows))
    head = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", stored) + chunk(b"IEND", b"")


def image(mode: str, i: int) -> Any:
    """Return an 8x6 PIL image."""
    from PIL import Image

    channels = len(mode) if mode in {"RGB", "RGBA"} else 1
    return Image.frombytes(mode, (8, 6), array("uint8", (48 * channels,), i).tobytes())


def raw_images() -> Iterable[Sample]:
    """Images whose bytes no encoder's version changes."""
    for i, mode in enumerate(("L", "RGB", "RGBA", "P")):
        yield {"pil": image(mode, i), "list": [image(mode, n) for n in range(i)], "png": png_bytes(i)}


def encoded_images() -> Iterable[Sample]:
    """Images that Pillow encodes, so that their bytes depend on its version."""
    from io import BytesIO

    for i in range(3):
        jpegs = []
        for n in range(i + 1):
            out = BytesIO()
            image("RGB", n).save(out, format="JPEG")
            jpegs.append(out.getvalue())
        yield {
            "jpeg": image("RGB", i),
            "png": image("RGBA", i),
            "jpeg_array": jpegs,
            "jpegarray": jpegs,
            "list[jpeg]": [image("L", n) for n in range(i + 1)],
            "list[png]": [image("RGB", n) for n in range(i)],
        }


def codec_versions(zstd: str) -> dict[str, str]:
    """Return the version of the library behind each codec; of zstd there are two bindings, so the caller says."""
    import brotli
    import cramjam
    import PIL

    return {
        "br": brotli.__version__,
        "bz2": "1",  # its output is frozen
        "gz": zlib.ZLIB_RUNTIME_VERSION,
        "pickle": str(pickle.DEFAULT_PROTOCOL),
        "pillow": PIL.__version__,
        "snappy": cramjam.__version__,
        "zstd": zstd,
    }


_SCALAR_COLUMNS = ("bytes", "str", "int", "str_int", "str_float", "str_decimal", "json", *DTYPES)
_TOKEN_COLUMNS = {"tokens": "ndarray:uint16:32", "id": "int"}
_DOCUMENT_COLUMNS = {"text": "str", "tokens": "ndarray:int32"}

CASES: dict[str, Case] = {
    "scalars": Case(columns={name: name for name in _SCALAR_COLUMNS}, samples=scalars),
    "arrays": Case(
        columns={
            **{f"of_{dtype}": f"ndarray:{dtype}" for dtype in DTYPES},
            **{f"in_{dtype}": f"ndarray:{dtype}:2,3" for dtype in DTYPES},
            "any": "ndarray",
        },
        samples=arrays,
    ),
    "tokens": Case(columns=_TOKEN_COLUMNS, samples=tokens, options={"size_limit": 1024, "hashes": ["sha1", "xxh64"]}),
    "one_shard": Case(columns=_TOKEN_COLUMNS, samples=tokens, options={"size_limit": None}),
    "hashes": Case(columns=_TOKEN_COLUMNS, samples=lambda: tokens(2), options={"hashes": ALL_HASHES}),
    "oversize": Case(columns={"data": "bytes"}, samples=lambda: oversize(3), options={"size_limit": 400}),
    "oversize_first": Case(columns={"data": "bytes"}, samples=lambda: oversize(0), options={"size_limit": 400}),
    "empty": Case(columns=_TOKEN_COLUMNS, samples=lambda: ()),
    "pickles": Case(columns={"object": "pkl"}, samples=pickles),
    "raw_images": Case(columns={"pil": "pil", "list": "list[pil]", "png": "png"}, samples=raw_images),
    "encoded_images": Case(
        columns={n: n for n in ("jpeg", "png", "jpeg_array", "jpegarray", "list[jpeg]", "list[png]")},
        samples=encoded_images,
    ),
    **{
        f"documents_{compression.replace(':', '')}": Case(
            columns=_DOCUMENT_COLUMNS,
            samples=documents,
            options={"compression": compression, "size_limit": "4kb", "hashes": ["md5", "xxh3_64"]},
        )
        for compression in COMPRESSIONS
    },
}
