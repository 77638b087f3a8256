"""What a file holds decides: JSON in all its shapes is read as documents, and what is no text never becomes text."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import sqlite3
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather, parquet

from mixstream.errors import ConfigError
from mixstream_tools.convert.documents.fields import Fields
from mixstream_tools.convert.files.choice import Choice
from mixstream_tools.convert.files.source_files import SourceError
from mixstream_tools.convert.readers import READERS, read_documents
from mixstream_tools.convert.readers import json_values as values
from mixstream_tools.convert.sources.sources import find_sources, list_file

DOCUMENTS = [{"text": f"ä {at}\n", "id": at} for at in range(30)]
LINES = "".join(json.dumps(document) + "\n" for document in DOCUMENTS)


def documents_of(path: Path, bad: list[str] | None = None) -> list[str]:
    """The documents that convert reads from a file."""

    def on_bad(fact: str, **about: object) -> None:
        if bad is None:
            raise SourceError(fact)
        bad.append(fact)

    file = list_file(str(path), path.stat(), name=path.name)
    documents: list[str] = []
    for piece in read_documents(READERS[file.format], file.whole, Fields(text="text"), on_bad, lambda size: None):
        documents += [piece.text] if piece.begins else []
        documents[-1] += "" if piece.begins else piece.text
    return documents


def refusal(source: Path, out: Path, **choice) -> str:
    with pytest.raises(ConfigError) as caught:
        find_sources([str(source)], out=out, choice=Choice(**choice), by_key=False)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("array.json", json.dumps(DOCUMENTS)),
        ("pretty.json", json.dumps(DOCUMENTS, indent=2)),
        ("mark.json", "\ufeff \n" + json.dumps(DOCUMENTS, indent=1)),
        ("array.jsonl", json.dumps(DOCUMENTS, indent=1)),
        ("one_line.jsonl", json.dumps(DOCUMENTS)),
        ("lines.json", LINES),
        ("behind.json", "\n# a comment\n// another\n\n" + LINES),
        ("mark_lines.json", "\ufeff" + LINES),
        ("behind_array.json", "// a comment\n" + json.dumps(DOCUMENTS)),
        ("objects.json", "\n".join(json.dumps(document, indent=2) for document in DOCUMENTS)),
        ("part-00000", LINES),
        ("part-00001", json.dumps(DOCUMENTS)),
        ("lines.txt", LINES),
        ("returns.jsonl", LINES.replace("\n", "\r\n")),
        ("comments.jsonl", "# head\n" + LINES + "// tail\n"),
        *((f"joined{suffix}", LINES.replace("\n", "")) for suffix in (".jsonl", ".json", ".txt", "")),
        ("old_returns.jsonl", LINES.replace("\n", "\r")),
    ],
)
@pytest.mark.parametrize("pack", ["", ".gz", ".zst", ".bz2", ".xz"])
def test_json_of_any_shape_is_documents(tmp_path, name, content, pack):
    compress = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    path = tmp_path / f"{name}{pack}"
    path.write_bytes(compress[pack](content.encode()))
    assert documents_of(path) == [document["text"] for document in DOCUMENTS]


@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30), max_size=12),
    indent=st.sampled_from([None, 0, 3]),
    block=st.integers(1, 40),
    ascii_only=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_an_array_is_read_whole_wherever_it_is_cut(tmp_path_factory, texts, indent, block, ascii_only):
    path = tmp_path_factory.mktemp("d") / "a.json"
    rows = [{"id": at, "text": text, "more": [{"x": 1.5e3}, None]} for at, text in enumerate(texts)]
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=ascii_only))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(values, "_BLOCK", block)
        assert documents_of(path) == texts


@pytest.mark.parametrize(
    ("content", "kept", "fact"),
    [
        (
            '[{"text": "a"},\n{"txt": "b"},\n{"text": "c"}]',
            ["a", "c"],
            "line 2: no field 'text'; the document has 'txt'",
        ),
        ('[{"text": "a"},\n7, {"text": "c"}]', ["a", "c"], "line 2: a JSON number, not an object"),
        ('[{"text": "a"},\n{"text": "b"', ["a"], "line 2: not JSON"),
        ('[{"text": "a"},\n', ["a"], "the file ends inside the array; the rest of it is lost"),
        ('[{"text": "a"}\n{"text": "b"}]', ["a"], "line 2: not JSON: '{' where ',' is due; the rest of it is lost"),
        ('[{"text": "a"}]\n{"text": "b"}', ["a"], "there is more after the end of the array"),
        (b'[{"text": "a"},\n{"text": "\xff"}, {"text": "c"}]', ["a", "c"], "line 2: field 'text' is not UTF-8"),
        ('[{"text": "a"},\n' + "[" * 100_000, ["a"], "line 2: not JSON: nested too deeply"),
    ],
)
def test_what_is_bad_in_an_array_is_named(tmp_path, content, kept, fact):
    path = tmp_path / "a.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    bad: list[str] = []
    assert documents_of(path, bad) == kept
    assert len(bad) == 1
    assert fact in bad[0]


def test_a_value_without_end_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(values, "_MAX_VALUE", 1000)
    monkeypatch.setattr(values, "_BLOCK", 100)
    (tmp_path / "a.json").write_text('[{"text": "a"}, "' + "x" * 10_000)
    bad: list[str] = []
    assert documents_of(tmp_path / "a.json", bad) == ["a"]
    assert "a value of more than" in bad[0]


def zipped() -> bytes:
    with zipfile.ZipFile(stream := io.BytesIO(), "w") as archive:
        archive.writestr("a.txt", "text")
    return stream.getvalue()


def rows() -> pa.Table:
    return pa.Table.from_pylist(DOCUMENTS)


def written(write) -> bytes:
    write(stream := io.BytesIO())
    return stream.getvalue()


def arrow_stream() -> bytes:
    with pa.ipc.new_stream(stream := io.BytesIO(), rows().schema) as writer:
        writer.write_table(rows())
    return stream.getvalue()


def database() -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.execute("create table t (body text)")
    try:
        return connection.serialize()
    finally:
        connection.close()


PARQUET = written(lambda stream: parquet.write_table(rows(), stream))
FEATHER = written(lambda stream: feather.write_feather(rows(), stream))
TEXTS = {
    "HTML": ("p.html", "<p>x</p>"),
    "XML": ("p.xml", "<a/>"),
    "notebook": ("n.ipynb", json.dumps({"cells": []})),
    "WARC": ("a.wat", "WARC/1.0\r\n"),
    "JSON, but neither": ("a.json", '"text"'),
    "mailbox": ("a.mbox", "From x"),
}
BINARIES = {
    "Parquet": ("t.parquet.gz", gzip.compress(PARQUET)),
    "an Arrow table": ("t.arrow.zst", zstandard.compress(arrow_stream())),
    "whose name says parquet, but not its content": ("t.parquet", b"text"),
    "whose name says arrow, but not its content": ("t.feather", b"text"),
    "office": ("a.docx", zipped()),
    "PDF": ("a.pdf", b"%PDF-1.4\n"),
    "SQLite": ("a.db", database()),
    "pickle": ("a.pkl", pickle.dumps(DOCUMENTS)),
    "arrays": ("a.npy", written(lambda stream: np.save(stream, np.arange(9)))),
    "UTF-16": ("a.txt", "text".encode("utf-16")),
    "binary data under the name of a text": ("b.txt", "text".encode("utf-16-le")),
    "gz data, which its name does not say": ("a.jsonl", gzip.compress(LINES.encode())),
    "whose name ends in .gz": ("a.jsonl.gz", LINES.encode()),
    "unfinished download": ("a.jsonl.part", LINES.encode()),
}


@pytest.mark.parametrize("kind", [*TEXTS, *BINARIES])
@pytest.mark.parametrize("beside", [False, True])
def test_another_format_is_refused_by_name_with_a_way_in(tmp_path, kind, beside):
    name, content = (TEXTS | BINARIES)[kind]
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "d" / "good.jsonl").write_text(LINES if beside else "")
    for source in (tmp_path / "d", tmp_path / "d" / name):
        told = refusal(source, tmp_path / "out")
        assert kind in told
        assert f"{tmp_path}/d/{name}" in told
        assert "Way in: " in told
        assert "--exclude '" in told
        assert ("--as-text '*" in told) == (kind in TEXTS)


@pytest.mark.parametrize("kind", ["PDF", "pickle", "SQLite", "HTML"])
@pytest.mark.parametrize("name", ["x", "x.txt", "x.jsonl", "x.gz"])
def test_content_shows_through_another_name(tmp_path, kind, name):
    _, content = (TEXTS | BINARIES)[kind]
    data = b"<!doctype html><p>" if kind == "HTML" else content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name == "x.gz" else data)
    assert kind in refusal(tmp_path / name, tmp_path / "out")


@pytest.mark.parametrize("kind", TEXTS)
def test_the_user_can_take_source_as_text(tmp_path, kind, convert_json):
    name, content = TEXTS[kind]
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / name).write_text(content * 40)
    (tmp_path / "d" / "good.jsonl").write_text(LINES)
    run = [tmp_path / "d", "--out", tmp_path / "out", "--seq-len", 8]
    assert convert_json(*run)[0] == 2
    assert not (tmp_path / "out").exists()
    status, told, _ = convert_json(*run, "--as-text", f"*{Path(name).suffix}")
    assert (status, told["domains"]["d"]["train"]["documents"]) == (0, len(DOCUMENTS) + 1)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "a pointer of Git LFS"),
        ("<head><title>x</title></head>", "HTML"),
        ("<mediawiki xmlns='x'>\n<page/></mediawiki>", "XML"),
        ("<?xml version='1.0'?>\n<svg>", "a picture"),
        ("filedesc://a.arc 0.0.0.0 2010 text/plain 76\n", "an ARC file"),
        ("From a@b.org Sat Jan  1 00:00:00 2000\nSubject: x\n", "a mailbox"),
        ('\x1e{"text": "a"}\n\x1e{"text": "b"}\n', "a JSON text sequence"),
        ('[[{"text": "a"}], [{"text": "b"}]]', "a JSON array, not an object"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a", "a.log.gz"])
def test_a_format_of_text_shows_through_a_name_that_says_nothing(tmp_path, text, kind, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    if "not an object" in kind and ".log" in name:
        return  # a log may hold anything
    with pytest.raises(ConfigError, match=kind):
        find_sources([str(path)], out=tmp_path / "out", choice=Choice(), by_key=False, fields=Fields(text="text"))


@pytest.mark.parametrize(
    "text",
    ["Yes, no\nPerhaps, or not\nWell, well\n", "one,two\n", "a,b\nthree, four, five\nsix\n", "x\ty\n", "{}, said Bob"],
)
def test_texts_with_commas_are_texts(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    assert documents_of(tmp_path / "a.txt") == [text]


def test_the_advice_leaves_out_nothing_that_can_be_read(tmp_path):
    (tmp_path / "d/c").mkdir(parents=True)
    (tmp_path / "d/good.txt").write_text("good")
    (tmp_path / "d/c/bad.txt").write_bytes("bad".encode("utf-16"))
    (tmp_path / "d/bad.html").write_text("<p>x</p>")
    told = refusal(tmp_path / "d", tmp_path / "out")
    assert "--exclude 'c/bad.txt'" in told
    assert "--exclude '*.html'" in told
    choice = Choice(exclude=("c/bad.txt", "*.html"))
    found = find_sources([str(tmp_path / "d")], out=tmp_path / "out", choice=choice, by_key=False)
    assert [file.name for file in found.groups[0].files] == ["good.txt"]


@pytest.mark.parametrize("nested", ["[" * 100_000 + "]" * 100_000, '{"a":' * 100_000])
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_a_line_nested_too_deeply_is_bad_and_no_other(tmp_path, nested, name):
    (tmp_path / name).write_text(f'{{"text": "a", "x": {nested}}}\n{{"text": "b"}}\n')
    bad: list[str] = []
    assert documents_of(tmp_path / name, bad) == ["b"]
    assert [fact.rpartition(": ")[2] for fact in bad] == ["nested too deeply"]


def test_pictures_and_programs_hold_no_text(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a.txt").write_text("text")
    (tmp_path / "d/b.png").write_bytes(b"\x89PNG\r\n\x1a\n\0")
    (tmp_path / "d/c").write_bytes(b"\x7fELF\2\1")
    found = find_sources([str(tmp_path / "d")], out=tmp_path / "out", choice=Choice(), by_key=False)
    assert [file.name for file in found.groups[0].files] == ["a.txt"]
    assert dict(found.skipped) == {("not text", ".png"): 1, ("not text", "no suffix"): 1}
    assert "a picture" in refusal(tmp_path / "d/b.png", tmp_path / "out")


@pytest.mark.parametrize("name", ["x", "x.txt", "x.jsonl", "x.csv", "x.parquet", "x.arrow"])
@pytest.mark.parametrize("content", [PARQUET, FEATHER, arrow_stream()], ids=["parquet", "feather", "stream"])
def test_a_table_is_read_whatever_its_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert documents_of(tmp_path / name) == [document["text"] for document in DOCUMENTS]


@pytest.mark.parametrize("format_", ["jsonl", "text", "csv", "arrow"])
def test_a_table_is_not_read_as_another_format(tmp_path, format_):
    (tmp_path / "a.parquet").write_bytes(PARQUET)
    assert "leave out --format" in refusal(tmp_path / "a.parquet", tmp_path / "out", format=format_)


def test_a_readme_beside_parquet_is_no_corpus(tmp_path):
    (tmp_path / "README.md").write_text("# about")
    (tmp_path / "a.parquet").write_bytes(PARQUET)
    found = find_sources([str(tmp_path)], out=tmp_path.parent / "out", choice=Choice(), by_key=False)
    assert [file.name for file in found.groups[0].files] == ["a.parquet"]
    assert dict(found.skipped) == {("about the data", "README.md"): 1}
    (tmp_path / "a.parquet").rename(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n\0")
    assert "1 about the data (README.md 1)" in refusal(tmp_path, tmp_path.parent / "out")


@pytest.mark.parametrize(
    "text",
    ["ORC is a word", "RIFF raff", "ID3 tags", "[1] a note", "{x} is a set", "# {\n", "<html> in a line? no: a <b>"],
)
def test_texts_that_begin_like_another_format_are_texts(tmp_path, text):
    path = tmp_path / "a.md"
    path.write_text(text)
    assert documents_of(path) == [text]
    if not text.startswith("<"):
        (tmp_path / "a").write_text(text)
        assert documents_of(tmp_path / "a") == [text]


def test_the_way_in_works(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the format
        feather.write_feather(pa.Table.from_pylist(DOCUMENTS), tmp_path / "a.feather", version=1)
    told = refusal(tmp_path / "a.feather", tmp_path / "out")
    assert "Feather in its first version" in told
    command = (
        "python -W ignore -c" + next(line for line in told.splitlines() if "Way in: " in line).split("python -c", 1)[1]
    )
    environ = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, env=environ, check=True)
    assert documents_of(tmp_path / "a.feather.arrow") == [document["text"] for document in DOCUMENTS]


@pytest.mark.parametrize(
    ("name", "content", "way"),
    [
        (
            "a.arc.gz",
            gzip.compress(b"filedesc://a.arc 127.0.0.1 20100101000000 text/plain 76\n", mtime=0),
            "warcio recompress",
        ),
        ("a.wat", b"WARC/1.0\r\nWARC-Type: metadata\r\n", "convert the WARC or WET files"),
        ("a.whl", b"PK\x03\x04", "--format zip reads its texts"),
    ],
)
def test_the_way_in_fits_the_format(tmp_path, name, content, way):
    (tmp_path / name).write_bytes(content)
    assert way in refusal(tmp_path / name, tmp_path / "out")
