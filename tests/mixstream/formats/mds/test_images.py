import struct
import sys
from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.errors import ConfigError, EncodingError, ShardCorruptError
from mixstream.formats import mds_decode, mds_encode

Image = pytest.importorskip("PIL.Image")

MODES = ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "I;16"]


def picture(mode="RGB", size=(13, 7), key=0):
    pixels = np.random.default_rng(key).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    return (
        Image.new(mode, size, 300)
        if mode == "I;16"
        else image.convert("L").convert(mode)
        if mode != "LAB"
        else Image.new(mode, size)
    )


def saved(image, file_format):
    out = BytesIO()
    image.save(out, format=file_format)
    return out.getvalue()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(13, 7), (1, 1), (8, 2)])
def test_raw_images_round_trip_in_every_mode(mode, size):
    image = picture(mode, size)
    data = mds_encode("pil", image)
    assert data[:12] == struct.pack("<3I", *size, len(mode))
    decoded = mds_decode("pil", data)
    assert (decoded.mode, decoded.size, decoded.tobytes()) == (mode, size, image.tobytes())


def test_png_round_trips_and_jpeg_nearly():
    image = picture(size=(16, 16))
    assert mds_encode("png", image) == saved(image, "PNG")
    assert mds_decode("png", mds_encode("png", image)).tobytes() == image.tobytes()
    grey = Image.linear_gradient("L")
    decoded = mds_decode("jpeg", mds_encode("jpeg", grey))
    assert np.abs(np.asarray(decoded, np.int16) - np.asarray(grey, np.int16)).max() < 16


def test_an_image_opened_from_a_jpeg_file_keeps_that_file_s_bytes(tmp_path):
    path = tmp_path / "a.jpg"
    picture().save(path, quality=31)
    with Image.open(path) as image:
        assert mds_encode("jpeg", image) == path.read_bytes()
        image.load()
        path.unlink()
        assert mds_encode("jpeg", image) == saved(image, "JPEG")
    assert mds_encode("jpeg", Image.open(BytesIO(saved(picture(), "JPEG"))))[:2] == b"\xff\xd8"


def test_lists_round_trip():
    images = [picture(key=n, size=(n + 1, 4)) for n in range(3)]
    for chosen in (images, images[:1], []):
        for encoding in ("list[pil]", "list[png]", "list[jpeg]"):
            data = mds_encode(encoding, chosen)
            assert data[:8] == struct.pack("<2I", 0, len(chosen))
            assert [i.size for i in mds_decode(encoding, data)] == [i.size for i in chosen]
    assert [i.tobytes() for i in mds_decode("list[png]", mds_encode("list[png]", images))] == [
        i.tobytes() for i in images
    ]


@pytest.mark.parametrize("encoding", ["jpeg_array", "jpegarray"])
def test_jpeg_arrays_are_lists_of_files(encoding):
    files = [saved(picture(key=n, size=(n + 8, 8)), "JPEG") for n in range(3)]
    data = mds_encode(encoding, [bytearray(files[0]), *files[1:]])
    assert data == struct.pack("<4I", 3, *map(len, files)) + b"".join(files)
    assert [i.size for i in mds_decode(encoding, data)] == [(8, 8), (9, 8), (10, 8)]


@pytest.mark.parametrize(
    ("encoding", "value"),
    [
        ("pil", np.zeros((2, 2), np.uint8)),
        ("png", "a.png"),
        ("jpeg", None),
        ("jpeg", picture("RGBA")),
        ("list[png]", (picture(),)),
        ("list[png]", [1]),
        ("jpeg_array", [picture()]),
        ("jpeg_array", 5),
    ],
)
def test_what_is_no_image_is_refused(encoding, value):
    with pytest.raises(EncodingError):
        mds_encode(encoding, value)


GOOD = {
    "pil": mds_encode("pil", picture()),
    "png": mds_encode("png", picture()),
    "jpeg": mds_encode("jpeg", picture()),
    "list[pil]": mds_encode("list[pil]", [picture(), picture("L")]),
    "list[png]": mds_encode("list[png]", [picture(), picture("L")]),
    "jpeg_array": mds_encode("jpeg_array", [saved(picture(), "JPEG")]),
}


@pytest.mark.parametrize("encoding", GOOD)
def test_cut_images_are_refused(encoding):
    for end in (0, 3, 9, 13, len(GOOD[encoding]) // 2):
        with pytest.raises(ShardCorruptError):
            mds_decode(encoding, GOOD[encoding][:end])


@pytest.mark.parametrize("encoding", GOOD)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow warns of what it repairs
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_damaged_images_give_an_image_or_our_error(encoding, data):
    damaged = bytearray(GOOD[encoding])
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, min(len(damaged) - 1, 60)))] = data.draw(st.integers(0, 255))
    with suppress(ShardCorruptError):
        mds_decode(encoding, bytes(damaged))


@pytest.mark.parametrize("pixels", [b"", bytes(7)])
@pytest.mark.parametrize("size", [(2**32 - 1, 2**32 - 1), (2**31, 1), (2**32 - 1, 0), (2**31 - 1, 0), (0, 2**31 - 1)])
@pytest.mark.parametrize("mode", ["RGB", "1", "XYZ", "L" * 40])
def test_a_declared_size_allocates_nothing(mode, size, pixels):
    with pytest.raises(ShardCorruptError):
        mds_decode("pil", struct.pack("<3I", *size, len(mode)) + mode.encode() + pixels)


def test_an_empty_image_round_trips():
    assert mds_decode("pil", mds_encode("pil", Image.new("RGB", (0, 5)))).size == (0, 5)


def test_files_that_make_pillow_start_a_program_are_not_opened():
    with pytest.raises(ShardCorruptError):
        mds_decode("png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")


def test_without_pillow_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    for call in (
        lambda: mds_encode("png", 1),
        lambda: mds_decode("png", b""),
        lambda: mds_decode("list[pil]", GOOD["list[pil]"]),
    ):
        with pytest.raises(ConfigError, match=r"pip install pillow"):
            call()
