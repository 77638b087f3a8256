"""Tar archives: every text of them is a document or is said not to be one, whoever wrote the archive."""

import bz2
import gzip
import io
import json
import lzma
import subprocess
import tarfile
import tracemalloc
from pathlib import Path

import pytest
import zstandard

from mixstream.errors import ConfigError
from mixstream_tools.convert.documents.fields import Fields
from mixstream_tools.convert.files.choice import Choice
from mixstream_tools.convert.files.source_files import SourceError
from mixstream_tools.convert.readers import members

LONG = "a" * 90 + "/" + "ü" * 80 + "/" + "b" * 120 + ".txt"
TEXTS = {"doc/a.txt": "one\n", "doc/b.py": "def b():\n", LONG: "long ä", "c": "no suffix"}
COMPRESS = {
    ".tar": bytes,
    ".tar.gz": gzip.compress,
    ".tgz": gzip.compress,
    ".tar.zst": zstandard.compress,
    ".tar.bz2": bz2.compress,
    ".txz": lzma.compress,
}


def tarred(files: dict[str, bytes | str], form: int = tarfile.PAX_FORMAT, **special: bytes) -> bytes:
    """An archive of files, and of members of other types, name to type."""
    with tarfile.open(fileobj=(stream := io.BytesIO()), mode="w", format=form) as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, kind in special.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "doc/a.txt"
            archive.addfile(member)
    return stream.getvalue()


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_member_is_a_document(tmp_path, read, suffix, form):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(COMPRESS[suffix](tarred(TEXTS, form)))
    found = read(path, Fields(text="text", id="path"))
    assert (found.formats, found.documents) == ({"tar"}, [*TEXTS.values()])
    assert [(each.record, each.id) for each in found.origins] == [*enumerate(TEXTS)]


def test_what_the_programs_of_this_machine_write(tmp_path, read):
    """GNU tar, with names as they come, and the archive of a package's sources."""
    source = Path(json.__file__).parent
    texts = {path.name: path.read_text() for path in sorted(source.glob("*.py"))}
    command = ["tar", "--sort=name", "-cf", tmp_path / "a.tar", "-C", source.parent, "--exclude=*.pyc", "./json"]
    subprocess.run(command, check=True, timeout=60)
    assert dict(zip(texts, read(tmp_path / "a.tar").documents)) == texts


def test_what_is_no_text_is_left_out_and_counted(tmp_path, read):
    files = {"a.png": b"\x89PNG\r\n\x1a\n\0", "b.bin": b"\0\1", ".hidden": "x", "/abs.txt": "x", "d/../../up.txt": "x"}
    kinds = {"link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "dev": tarfile.CHRTYPE, "pipe": tarfile.FIFOTYPE}
    path = tmp_path / "a.tar"
    path.write_bytes(tarred({**files, "t.txt": "text"}, **kinds, directory=tarfile.DIRTYPE))
    found = read(path)
    assert found.documents == ["text"]
    assert found.left_out == {
        "not text": 2,
        "hidden": 1,
        "with paths that lead out of the archive": 2,
        "links": 2,
        "devices or pipes": 2,
    }


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_sparse_files_are_left_out_and_what_follows_is_read(tmp_path, read, form):
    with (tmp_path / "hole.txt").open("wb") as file:
        for at in range(64):  # more holes than a header has room for
            file.seek(at << 20)
            file.write(b"text" * 1024)
    (tmp_path / "next.txt").write_text("next")
    command = ["tar", "-S", f"--format={form}", "-cf", "a.tar", "hole.txt", "next.txt"]
    subprocess.run(command, check=True, timeout=60, cwd=tmp_path)
    found = read(tmp_path / "a.tar")
    assert (found.documents, found.left_out) == (["next"], {"sparse files": 1})


@pytest.mark.parametrize(
    ("name", "content", "fact"),
    [
        ("p.html", "<p>x</p>", "it is HTML, and members of an archive are read as texts only. Unpack it (`tar -xf "),
        ("p.json", '{"a": 1}', "it is of format jsonl"),
        ("l.txt", '{"a": 1}\n{"a": 2}\n', "it is of format jsonl"),
        ("a.txt.gz", gzip.compress(b"x", mtime=0), "it is gz data"),
        ("p.txt", b"PAR1\0", "it is of format parquet"),
        ("c.txt", "id,text\n1,one\n2,two\n", "it is a CSV table"),
        ("x.tar", tarred(TEXTS), "it is a tar archive"),
        ("u.txt", b"a\xff", "not UTF-8: byte 1"),
        ("n.txt", b"a" * 9000 + b"\0", "a NUL byte, at character 9000"),
        ("big.txt", "a" * 2000, "it is larger than 1.0 KiB"),
    ],
)
def test_a_member_that_may_be_a_document_and_is_no_text_is_named(tmp_path, read, monkeypatch, name, content, fact):
    if name == "big.txt":
        monkeypatch.setattr(members, "MAX_RECORD", 1024)
    path = tmp_path / "a.tar"
    path.write_bytes(tarred({"a.txt": "one", name: content, "b.txt": "two"}))
    with pytest.raises((SourceError, ConfigError)) as caught:
        read(path)
    assert f"a.tar, member {name!r}: " in str(caught.value)
    assert fact in str(caught.value)
    found = read(path, skip=True)
    assert (found.documents, len(found.bad)) == (["one", "two"], 1)


def test_the_pattern_that_leaves_compressed_members_out_does_so(tmp_path, read):
    path = tmp_path / "a.tar"
    path.write_bytes(tarred({"a.txt": "one", "d/b.txt.gz": gzip.compress(b"x", mtime=0)}))
    with pytest.raises(SourceError, match=r"leave such members out with --exclude '\*\.txt\.gz'") as caught:
        read(path)
    assert "--as-text" not in str(caught.value)
    assert read(path, choice=Choice(exclude=("*.txt.gz",))).documents == ["one"]


def test_options_choose_members(tmp_path, read):
    path = tmp_path / "a.tar"
    path.write_bytes(tarred({"p.html": "<p>x</p>", "b.json": "[1]", "t.txt": "t"}))
    found = read(path, choice=Choice(as_text=("*.html",), exclude=("*.json",)))
    assert found.documents == ["<p>x</p>", "t"]
    assert found.left_out == {"left out by --include or --exclude": 1}


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("cut", ["inside", "header", "border"])
def test_an_archive_that_is_cut_short_is_an_error_and_the_rest_is_lost(tmp_path, read, suffix, cut):
    whole = tarred({"a.txt": "a" * 600, "b.txt": "b" * 600})
    at = {"inside": 512 + 1024 + 512 + 300, "header": 512 + 1024 + 300, "border": 512 + 1024}[cut]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(COMPRESS[suffix](whole[:at]))
    with pytest.raises(SourceError, match="the tar archive is damaged or cut short at byte"):
        read(path)
    found = read(path, skip=True)
    assert (found.documents, len(found.bad)) == (["a" * 600], 1)


def test_a_damaged_header_does_not_end_an_archive(tmp_path, read):
    """The standard library takes it for the end."""
    data = bytearray(tarred({"a.txt": "a", "b.txt": "b", "c.txt": "c"}))
    data[1024 + 150] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert archive.getnames() == ["a.txt"]
    with pytest.raises(SourceError, match="at byte 1024: no member begins here"):
        read(tmp_path / "a.tar")


def test_archives_one_behind_another_are_read_and_other_bytes_are_named(tmp_path, read):
    one, two = tarred({"a.txt": "a"}), tarred({"b.txt": "b"})
    (tmp_path / "a.tar").write_bytes(one + two)
    assert read(tmp_path / "a.tar").documents == ["a", "b"]
    (tmp_path / "a.tar").write_bytes(one + b"x" * 512)
    with pytest.raises(SourceError, match="something behind its end that is no member"):
        read(tmp_path / "a.tar")


@pytest.mark.parametrize("size", [-5, 1 << 62])
def test_a_size_that_lies_is_an_error(tmp_path, read, size):
    member = tarfile.TarInfo("a.txt")
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (size % (1 << 96)).to_bytes(12, "big")
    header[124] = 0xFF if size < 0 else 0x80
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:512]))
    (tmp_path / "a.tar").write_bytes(header + b"x" * 512)
    with pytest.raises(SourceError, match=r"no number of bytes|cut short|larger than"):
        read(tmp_path / "a.tar")


def test_what_is_passed_over_takes_no_memory(tmp_path, read):
    """A picture of 100 MB packs to 100 kB; the text behind it is read."""
    picture = tarfile.TarInfo("a.png")
    picture.size = 100 << 20
    with gzip.open(tmp_path / "a.tar.gz", "wb", 1) as stream:
        stream.write(picture.tobuf())
        for at in range(100):
            stream.write(b"\x89PNG\r\n\x1a\n".ljust(1 << 20, b"\0") if not at else bytes(1 << 20))
        stream.write(tarred({"b.txt": "text"}))
    tracemalloc.start()
    try:
        assert read(tmp_path / "a.tar.gz").documents == ["text"]
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


SAMPLES = [
    {"txt": "one", "json": {"text": "uno", "lang": "it"}, "jpg": b"\xff\xd8\xff\0"},
    {"txt": "two ä", "json": {"text": "dos", "lang": "es"}, "jpg": b"\xff\xd8\xff\0"},
]


def shard(samples=SAMPLES, prefix: str = "s/") -> bytes:
    """A WebDataset shard."""
    return tarred(
        {
            f"{prefix}{at:06}.{kind}": json.dumps(value) if isinstance(value, dict) else value
            for at, sample in enumerate(samples)
            for kind, value in sample.items()
        }
    )


@pytest.mark.parametrize("suffix", COMPRESS)
def test_members_of_one_key_are_a_sample(tmp_path, read, suffix):
    (tmp_path / f"a{suffix}").write_bytes(COMPRESS[suffix](shard()))
    found = read(tmp_path / f"a{suffix}", Fields(text="txt", id="__key__", keep=("json.lang",), domain="json.lang"))
    assert (found.formats, found.documents, found.domains) == ({"webdataset"}, ["one", "two ä"], ["it", "es"])
    assert [(*each,)[:3] for each in found.origins] == [(0, "s/000000", ("it",)), (1, "s/000001", ("es",))]
    assert read(tmp_path / f"a{suffix}", Fields(text="json.text")).documents == ["uno", "dos"]


def test_a_webdataset_needs_the_name_of_its_text(tmp_path, read):
    (tmp_path / "a.tar").write_bytes(shard())
    with pytest.raises(ConfigError, match=r"no field 'text'; the document has '__key__', 'txt', 'json.text'"):
        read(tmp_path / "a.tar")


def test_bad_samples_of_a_webdataset_are_named(tmp_path, read):
    good = {"txt": "good", "json": {}}
    bad = [{"json": {}, "cls": "1"}, {"txt": b"\xff", "json": {}}, {"txt": "x", "json": "{"}]
    (tmp_path / "a.tar").write_bytes(shard([good, good, *bad, good]))
    found = read(tmp_path / "a.tar", Fields(text="txt", keep=("json",)), skip=True)
    assert (found.documents, [each.record for each in found.origins]) == (["good"] * 3, [0, 1, 5])
    assert "sample 's/000002': no field 'txt'" in found.bad[0]
    assert "sample 's/000003': field 'txt' is not UTF-8" in found.bad[1]
    assert "sample 's/000004': its member .json is not JSON" in found.bad[2]


def test_one_key_twice_is_a_fault_and_two_shards_may_have_equal_keys(tmp_path, read):
    twice = io.BytesIO()
    with tarfile.open(fileobj=twice, mode="w") as archive:
        for name in ("1.txt", "1.json", "2.txt", "2.json", "3.txt", "3.txt", "4.txt"):
            member = tarfile.TarInfo(name)
            member.size = 2
            archive.addfile(member, io.BytesIO(b"{}"))
    (tmp_path / "a.tar").write_bytes(twice.getvalue())
    found = read(tmp_path / "a.tar", Fields(text="txt"), skip=True)
    assert [each.record for each in found.origins] == [0, 1, 3]
    assert "sample '3': it has two members .txt" in found.bad[0]
    (tmp_path / "d").mkdir()
    for name in ("a", "b"):
        (tmp_path / "d" / f"{name}.tar").write_bytes(shard())
    assert read(tmp_path / "d", Fields(text="txt")).documents == ["one", "two ä"] * 2


def test_a_tree_of_sources_is_no_webdataset(tmp_path, read):
    files = {"a.c": "a", "a.h": "b", "b.c": "c", "b.h": "d"}
    (tmp_path / "a.tar").write_bytes(tarred(files))
    assert read(tmp_path / "a.tar").documents == [*"abcd"]


def test_convert_says_what_it_left_out(tmp_path, convert_json):
    (tmp_path / "a.tar").write_bytes(
        tarred({"a.txt": "text " * 9, "b.png": b"\x89PNG\r\n\x1a\n\0"}, link=tarfile.SYMTYPE)
    )
    run = [tmp_path / "a.tar", "--out", tmp_path / "out", "--seq-len", 8]
    status, told, _ = convert_json(*run)
    assert status == 0
    assert told["left_out"] == {"links": 1, "not text": 1}
    assert convert_json(*run)[1]["status"] == "nothing to do"
    assert convert_json(*run, "--exclude", "*.png")[0] == 1  # other members of the same file
