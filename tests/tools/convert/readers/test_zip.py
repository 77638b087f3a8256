"""Zip archives of texts."""

import zipfile

import pytest

from mixstream.errors import ConfigError
from mixstream_tools.convert.documents.fields import Fields
from mixstream_tools.convert.files.source_files import SourceError

TEXTS = {"d/a.txt": "one ä", "d/b.py": "two\n" * 1000, "c": "three"}


def zipped(path, files, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.mkdir("d")
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_is_a_document(tmp_path, read, method):
    found = read(zipped(tmp_path / "a.zip", TEXTS, method), Fields(text="text", id="path"))
    assert (found.formats, found.documents) == ({"zip"}, [*TEXTS.values()])
    assert [(each.record, each.id) for each in found.origins] == [*enumerate(TEXTS)]


def test_what_is_no_text_is_left_out_or_named(tmp_path, read):
    path = zipped(tmp_path / "a.zip", {"a.png": b"\x89PNG\r\n\x1a\n\0", "p.html": "<p>", "t.txt": "t"})
    found = read(path, skip=True)
    assert (found.documents, found.left_out) == (["t"], {"not text": 1})
    assert (
        "member 'p.html': it is HTML, and members of an archive are read as texts only. Unpack it (`unzip"
        in found.bad[0]
    )


def test_damage_is_named(tmp_path, read):
    path = zipped(tmp_path / "a.zip", {"a.txt": "aaaa", "b.txt": "bbbb"}, zipfile.ZIP_STORED)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"aaaa", b"axaa"))
    found = read(path, skip=True)
    assert found.documents == ["bbbb"]
    assert "member 'a.txt': it is damaged: Bad CRC-32" in found.bad[0]
    path.write_bytes(data[:-30])
    with pytest.raises(SourceError, match="the zip archive is damaged or cut short: File is not a zip file"):
        read(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_data_is_a_bad_member(tmp_path, read, method):
    path = zipped(tmp_path / "a.zip", {"a.txt": "".join(map(str, range(999))), "b.txt": "b"}, method)
    data = bytearray(path.read_bytes())
    data[150:170] = bytes(20)
    path.write_bytes(data)
    found = read(path, skip=True)
    assert found.documents == ["b"]
    assert "member 'a.txt': it is damaged: " in found.bad[0]


def test_places_before_the_file_are_damage(tmp_path, read):
    path = zipped(tmp_path / "a.zip", TEXTS)
    data = bytearray(path.read_bytes())
    data[-6] += 1  # of where the table begins, which moves all members
    path.write_bytes(data)
    assert len(read(path, skip=True).bad) == len(TEXTS)


def test_other_formats_of_the_same_form_are_none(tmp_path, read):
    with pytest.raises(ConfigError, match="an office document"):
        read(zipped(tmp_path / "a.docx", TEXTS))
