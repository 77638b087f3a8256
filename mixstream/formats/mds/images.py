"""Images as MDS bytes, by Pillow: an optional dependency, imported when a column first needs it.

    pil              u32 width, u32 height, u32 len(mode), mode, raw pixels; a palette is not stored
    jpeg, png        the file
    jpeg_array       u32 n, u32 len[n], JPEG files            (encodes from a list of bytes)
    list[…]          u32 0, u32 n, u32 len[n], elements

Sizes that the bytes declare are checked before anything is allocated. Pixels are decoded at once, so a damaged image
raises here and not in the trainer. Three things are refused, as ValueError: an image of more than
`PIL.Image.MAX_IMAGE_PIXELS` pixels (Pillow would warn, and decode up to twice as many), a list of too many pixels for
its bytes, and a JPEG of so many scans that it would take hours. Source: `specs/mds.md` section 3.
"""

import math
import os
import struct
from collections.abc import Callable, Sequence
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from mixstream.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

# Bytes of a pixel in `Image.tobytes()`; mode "1" packs eight pixels into a byte, row by row.
_PIXEL_BYTES = {
    **dict.fromkeys(("L", "P"), 1),
    **dict.fromkeys(("I;16", "I;16B", "I;16L", "LA", "La", "PA"), 2),
    **dict.fromkeys(("HSV", "LAB", "RGB", "YCbCr"), 3),
    **dict.fromkeys(("CMYK", "F", "I", "RGBA", "RGBX", "RGBa"), 4),
}

# A column of files may hold other formats than its encoding says, since files can be written as they are. Some of
# Pillow's readers do more than read (EPS starts Ghostscript), so the first bytes choose one of these. `Image.open` is
# not used: it only warns of large images.
_READERS = {
    b"\xff\xd8\xff": ("PIL.JpegImagePlugin", "JpegImageFile"),
    b"\x89PNG\r\n\x1a\n": ("PIL.PngImagePlugin", "PngImageFile"),
    b"RIFF": ("PIL.WebPImagePlugin", "WebPImageFile"),
    b"GIF8": ("PIL.GifImagePlugin", "GifImageFile"),
    b"BM": ("PIL.BmpImagePlugin", "BmpImageFile"),
}

# A scan of a progressive JPEG covers all pixels and can be as short as ten bytes; encoders write about ten scans.
_MAX_SCANS = 64
# Pixels of a list per byte of it, on top of those of one image; photographs have at most ten.
_LIST_PIXELS_PER_BYTE = 64
_RAISE_LIMIT = "; if you trust its origin, set PIL.Image.MAX_IMAGE_PIXELS higher"


def encode_pil(value: object) -> bytes:
    """Encode raw pixels."""
    image = _image(value)
    mode = image.mode.encode()
    return struct.pack("<3I", *image.size, len(mode)) + mode + image.tobytes()


def decode_pil(data: memoryview) -> "Image":
    """Decode raw pixels; their number must follow from size and mode."""
    if len(data) < 12:
        raise ValueError(f"{len(data)} bytes are too few for an image's head of 12")
    width, height, mode_bytes = struct.unpack_from("<3I", data)
    mode = str(data[12 : 12 + min(mode_bytes, 16)], "utf-8")
    if mode not in _PIXEL_BYTES and mode != "1":
        raise ValueError(f"image mode {mode!r} is not known")
    row = math.ceil(width / 8) if mode == "1" else width * _PIXEL_BYTES[mode]
    pixels = data[12 + mode_bytes :]
    if len(pixels) != row * height:
        raise ValueError(f"{len(pixels)} bytes of pixels where {width}x{height} {mode} takes {row * height}")
    if not pixels and max(width, height) >= 1 << 16:  # without pixels, nothing else bounds the size
        raise ValueError(f"{width}x{height} is no size of an empty image")
    return _pillow().frombytes(mode, (width, height), bytes(pixels))


def encode_jpeg(value: object) -> bytes:
    """Encode as JPEG. For an image that Pillow opened from a JPEG file, return the bytes of that file.

    MDSWriter of mosaicml-streaming does the same. It avoids a second lossy compression, but changes to such an image in
    memory are not stored. No other function of `mixstream.formats` reads a file.
    """
    image = _image(value)
    name = getattr(image, "filename", None)
    if image.format in {"JPEG", "MPO"} and name:
        try:
            return Path(os.fsdecode(name)).read_bytes()
        except FileNotFoundError:
            pass  # it was moved since it was opened: encode the image in memory
    return _save(image, "JPEG")


def encode_png(value: object) -> bytes:
    """Encode as PNG."""
    return _save(_image(value), "PNG")


def decode_file(data: memoryview) -> "Image":
    """Decode an image file, pixels included."""
    return _load(_open(data))


def encode_jpeg_array(value: object) -> bytes:
    """Encode a sequence of JPEG files, given as bytes."""
    if not isinstance(value, Sequence) or not all(isinstance(v, bytes | bytearray | memoryview) for v in value):
        raise TypeError(f"needs a list of JPEG files as bytes, got {type(value).__name__}")
    return _pack([bytes(v) for v in value])


def decode_jpeg_array(data: memoryview) -> list["Image"]:
    """Decode a sequence of JPEG files into images."""
    return _decode_files(_unpack(data, 0), len(data))


def encode_list(encode: Callable[[object], bytes], value: object) -> bytes:
    """Encode a list, each element with `encode`."""
    if not isinstance(value, list):
        raise TypeError(f"needs a list of images, got {type(value).__name__}")
    return struct.pack("<I", 0) + _pack([encode(element) for element in value])


def decode_file_list(data: memoryview) -> list["Image"]:
    """Decode a list of image files; its first four bytes are reserved."""
    return _decode_files(_unpack(data, 4), len(data))


def decode_pil_list(data: memoryview) -> list["Image"]:
    """Decode a list of raw images; its first four bytes are reserved."""
    return [decode_pil(part) for part in _unpack(data, 4)]


def _decode_files(parts: list[memoryview], size: int) -> list["Image"]:
    images = [_open(part) for part in parts]
    limit = _pillow().MAX_IMAGE_PIXELS
    pixels = sum(image.width * image.height for image in images)
    if limit is not None and pixels > limit + _LIST_PIXELS_PER_BYTE * size:
        raise ValueError(f"its {len(images)} images have {pixels} pixels, too many for {size} bytes{_RAISE_LIMIT}")
    return [_load(image) for image in images]


def _open(data: memoryview) -> "Image":
    """Read the header of an image file; no pixel is decoded or allocated."""
    pillow = _pillow()
    begin = bytes(data[:8])
    name = next((name for magic, name in _READERS.items() if begin.startswith(magic)), None)
    if name is None:
        raise ValueError(f"it begins with {begin.hex() or 'nothing'}: no JPEG, PNG, WebP, GIF or BMP file")
    content = bytes(data)
    if name[1] == "JpegImageFile" and (scans := content.count(b"\xff\xda")) > _MAX_SCANS:
        raise ValueError(f"it has {scans} scans, a JPEG has {_MAX_SCANS} at most")
    try:
        image = getattr(import_module(name[0]), name[1])(BytesIO(content))
    except Exception as error:
        raise _unreadable(error) from error
    limit = pillow.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ValueError(f"it has {image.width}x{image.height} pixels, at most {limit} are decoded{_RAISE_LIMIT}")
    return image


def _load(image: "Image") -> "Image":
    try:
        image.load()
    except Exception as error:
        raise _unreadable(error) from error
    return image


def _unreadable(error: Exception) -> ValueError:
    # Pillow's readers raise nearly anything on damaged files, SyntaxError included.
    return ValueError(f"Pillow cannot read it ({type(error).__name__}: {error})")


def _pack(parts: list[bytes]) -> bytes:
    return struct.pack(f"<{len(parts) + 1}I", len(parts), *map(len, parts)) + b"".join(parts)


def _unpack(data: memoryview, start: int) -> list[memoryview]:
    if len(data) < start + 4:
        raise ValueError(f"{len(data)} bytes are too few for a list's head of {start + 4}")
    (count,) = struct.unpack_from("<I", data, start)
    at = start + 4 + 4 * count
    if len(data) < at:
        raise ValueError(f"it ends inside the sizes of {count} elements")
    sizes = struct.unpack_from(f"<{count}I", data, start + 4)
    if at + sum(sizes) != len(data):
        raise ValueError(f"{count} elements take {at + sum(sizes)} bytes, the list has {len(data)}")
    parts = []
    for size in sizes:
        parts.append(data[at : at + size])
        at += size
    return parts


def _pillow():
    try:
        from PIL import Image
    except ImportError as error:
        raise ConfigError(
            "image columns need the package pillow, which is not installed; `pip install pillow`"
        ) from error
    return Image


def _image(value: object) -> "Image":
    if not isinstance(value, _pillow().Image):
        raise TypeError(f"needs a PIL image, got {type(value).__name__}")
    return value


def _save(image: "Image", file_format: str) -> bytes:
    out = BytesIO()
    image.save(out, format=file_format)
    return out.getvalue()
