"""Source formats: every document, whole, once, wherever files are cut; and what is said of those that are bad."""

import bz2
import gzip
import json
import lzma
import os
import random
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.errors import ConfigError
from mixstream_tools.cli import main
from mixstream_tools.convert.documents.fields import Fields
from mixstream_tools.convert.files.choice import Choice
from mixstream_tools.convert.files.source_files import DamagedFileError, Slice, SourceError, open_slice
from mixstream_tools.convert.parts import plan_parts
from mixstream_tools.convert.readers import READERS, Reader, Record, json_values, jsonl, read_documents, reader
from mixstream_tools.convert.readers import text as text_files
from mixstream_tools.convert.sources.sources import Group, find_sources, list_file

COMPRESS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}
PACKED = {".gz": gzip.compress, ".zst": zstandard.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def read(path: Path, *, fields=Fields(text="text"), part_bytes=None, bad=None) -> list:  # noqa: B008  # it is frozen
    """All documents of a file, as text or (text, domain); bad ones are raised, or put into `bad`."""

    def on_bad(fact: str, **about: object) -> None:
        if bad is None:
            raise SourceError(fact)
        bad.append(fact)

    file = list_file(str(path), path.stat(), name=path.name)
    documents, seen = [], 0

    def on_bytes(size: int) -> None:
        nonlocal seen
        seen += size

    for part in plan_parts(Group(name="d", files=(file,)), part_bytes):
        for piece in part.slices:
            for text, domain, begins, *_ in read_documents(READERS[file.format], piece, fields, on_bad, on_bytes):
                if begins:
                    documents.append((text, domain) if fields.domain else text)
                else:
                    documents[-1] += text
    assert seen >= file.size or bad
    return documents


@pytest.mark.parametrize("suffix", COMPRESS)
def test_text_is_one_document(tmp_path, suffix):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(COMPRESS[suffix]("ä\r\n\tb\n".encode()))
    assert read(path) == ["ä\r\n\tb\n"]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_line_is_a_document(tmp_path, suffix):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(COMPRESS[suffix](b'{"text": "one"}\r\n\n  \n{"id": 2, "text": "two\\n\\u00e4"}\n{"text": "last"}'))
    assert read(path) == ["one", "two\nä", "last"]


@pytest.mark.parametrize("keep", [(), ("meta.lang",)])
def test_bad_bytes_of_another_field_do_not_decide(tmp_path, keep):
    """Whichever fields are asked for, and as in arrays and tables."""
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "one", "x": "\xff"}\n{"text": "two"}\n')
    assert read(tmp_path / "a.jsonl", fields=Fields(text="text", keep=keep)) == ["one", "two"]


def test_an_empty_document_is_none(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"")
    (tmp_path / "a.jsonl").write_bytes(b'{"text": ""}\n{"text": "x"}\n')
    assert read(tmp_path / "a.txt") == []
    assert read(tmp_path / "a.jsonl") == ["x"]


def test_a_byte_order_mark_is_not_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfx")
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "x"}\n')
    assert read(tmp_path / "a.txt") == read(tmp_path / "a.jsonl") == ["x"]


def test_several_frames_or_members_are_one_file(tmp_path):
    lines = [json.dumps({"text": text}).encode() + b"\n" for text in ("a", "b" * 300_000, "c")]
    (tmp_path / "a.jsonl.gz").write_bytes(b"".join(map(gzip.compress, lines)))
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(map(zstandard.compress, lines)))
    assert read(tmp_path / "a.jsonl.gz") == read(tmp_path / "a.jsonl.zst") == ["a", "b" * 300_000, "c"]


@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40), min_size=1, max_size=30),
    part_bytes=st.integers(1, 400),
    end=st.sampled_from(["\n", "\r\n", "\n\n"]),
    closed=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_slices_hold_the_documents_of_the_file(tmp_path_factory, texts, part_bytes, end, closed):
    path = tmp_path_factory.mktemp("d") / "a.jsonl"
    path.write_bytes((end.join(json.dumps({"text": text}) for text in texts) + (end if closed else "")).encode())
    assert read(path, part_bytes=part_bytes) == texts


@given(
    text=st.text(st.sampled_from("ab \n\tä🙂") | st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300),
    limit=st.integers(4, 50),
    suffix=st.sampled_from(list(COMPRESS)),
)
@settings(max_examples=80, deadline=None)
def test_a_long_document_comes_in_pieces_and_whole(tmp_path_factory, text, limit, suffix):
    path = tmp_path_factory.mktemp("d") / f"a.txt{suffix}"
    path.write_bytes(COMPRESS[suffix](text.encode()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "PIECE_CHARS", limit)
        file = list_file(str(path), path.stat(), name="a")
        pieces = list(read_documents(READERS["text"], file.whole, Fields(text=""), pytest.fail, lambda size: None))
    assert "".join(piece.text for piece in pieces) == text.removeprefix("\ufeff")
    assert all(len(piece.text) <= limit for piece in pieces)
    assert [piece.begins for piece in pieces] == [at == 0 for at in range(len(pieces))]
    assert [piece.ends for piece in pieces] == [at == len(pieces) - 1 for at in range(len(pieces))]


def test_pieces_are_cut_where_a_line_ends(tmp_path, monkeypatch):
    """So that no tokenizer that works by words or lines can tell."""
    monkeypatch.setattr(reader, "PIECE_CHARS", 1600)
    text = "".join(f"line {at} of this long document\n" for at in range(500))
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": text}))
    file = list_file(str(path), path.stat(), name="a")
    pieces = list(read_documents(READERS["jsonl"], file.whole, Fields(text="text"), pytest.fail, lambda size: None))
    assert len(pieces) == 10
    assert all(piece.text.endswith("\n") for piece in pieces)


@pytest.mark.parametrize(
    ("line", "fact"),
    [
        (b"{", "not a JSON document: Expecting property name"),
        (b'{"text": "x"', "not a JSON document"),
        (b'{"text": "x"} y', "not a JSON document: Extra data at column 15"),
        (b'{"txt": "x", "id": 1}', "no field 'text'; the document has 'txt', 'id' (number)"),
        (b'{"text": null}', "field 'text' is a JSON null, not a string; the document has 'text' (null)"),
        (b'{"text": 5}', "field 'text' is a JSON number"),
        (b'{"text": "\xff"}', "field 'text' is not UTF-8 (at character 0)"),
        (b'{"text": \xff}', "not UTF-8: byte 9 of the line"),
        (b'{"text": "\\ud800"}', "half of a surrogate pair"),
        (b'["text"]', "a JSON array, not an object with a field 'text'"),
        (b"[" * 100_000, "not a JSON document"),
    ],
)
@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_bad_line_is_named_with_its_number(tmp_path, line, fact, suffix):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(COMPRESS[suffix](b'{"text": "one"}\n\n' + line + b'\n{"text": "two"}\n'))
    bad: list[str] = []
    assert read(path, bad=bad) == ["one", "two"]
    assert len(bad) == 1
    assert bad[0].startswith(f"{path}, line 3: ")
    assert fact in bad[0]
    with pytest.raises(SourceError, match="line 3"):
        read(path)


def test_a_bad_line_has_its_number_in_the_file_not_in_the_slice(tmp_path):
    lines = [b'{"text": "%d"}' % at for at in range(100)]
    lines[76] = b"nonsense"
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(lines))
    bad: list[str] = []
    assert len(read(path, part_bytes=50, bad=bad)) == 99
    assert [fact.startswith(f"{path}, line 77: not a JSON document") for fact in bad] == [True]


def test_what_only_python_writes_into_json_is_read(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x", "score": NaN}\n')
    assert read(tmp_path / "a.jsonl") == ["x"]


def test_a_line_without_end_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "_MAX_LINE", 64)
    monkeypatch.setattr(jsonl, "_PIECE", 16)
    long = "c" * 45  # with the rest of its line, as long as may be
    (tmp_path / "a.jsonl").write_text(
        '{"text": "a"}\n' + "x" * 1000 + f'\n{{"text": "{long}"}}      \n{{"text": "b{long}"}}      \n' + "y" * 64
    )
    bad: list[str] = []
    assert read(tmp_path / "a.jsonl", bad=bad) == ["a", long]
    assert [fact.partition(", ")[2] for fact in bad] == [f"line {at}: the line is longer than 64 B" for at in (2, 4, 5)]


@pytest.mark.parametrize("name", ["meta.set.name", "dotted.name"])
def test_a_field_inside_an_object_or_with_a_dot_in_its_name(tmp_path, name):
    line = {"text": "x", "meta": {"set": {"name": "web"}}, "dotted.name": "web"}
    (tmp_path / "a.jsonl").write_text(json.dumps(line))
    assert read(tmp_path / "a.jsonl", fields=Fields(text="text", domain=name)) == [("x", "web")]


@pytest.mark.parametrize("domain", ["", "  ", "x" * 1001, 7, None])
def test_a_domain_that_cannot_be_a_name_is_a_bad_document(tmp_path, domain):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x", "d": domain}))
    with pytest.raises(SourceError, match="line 1: "):
        read(tmp_path / "a.jsonl", fields=Fields(text="text", domain="d"))


@pytest.mark.parametrize("size", [0, 10, 5000])
def test_text_that_is_not_utf8_is_a_bad_document_in_no_part_read(tmp_path, monkeypatch, size):
    """Whether the fault is in the first piece or far behind it."""
    monkeypatch.setattr(reader, "PIECE_CHARS", 1000)
    path = tmp_path / "a.txt"
    path.write_bytes(b"line\n" * size + b"\xff\xfe")
    bad: list[str] = []
    assert read(path, bad=bad) == []
    assert bad == [f"{path}: not UTF-8: byte {5 * size}, line {size + 1}, invalid start byte"]


def test_text_cut_inside_a_character_is_a_bad_document(tmp_path):
    (tmp_path / "a.txt").write_bytes("xä".encode()[:-1])
    with pytest.raises(SourceError, match="byte 1, line 1, unexpected end of data"):
        read(tmp_path / "a.txt")


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize("cut", [1, 9, 5000])
@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_a_compressed_file_that_is_cut_short_is_never_a_shorter_document(tmp_path, suffix, cut, kind):
    content = "".join(json.dumps({"text": str(at * 7919 % 100_003)}) + "\n" for at in range(3000))
    path = tmp_path / f"a.{kind}{suffix}"
    packed = PACKED[suffix](content.encode())
    path.write_bytes(packed[: -min(cut, len(packed) // 2)])
    with pytest.raises(DamagedFileError, match="damaged or cut short"):
        read(path)
    path.write_bytes(packed + b"x" + packed[1:])  # a second stream whose beginning is damaged
    with pytest.raises(DamagedFileError, match="damaged or cut short"):
        read(path)
    path.write_bytes(packed + packed)
    twice = read(path)
    path.write_bytes(packed)
    assert "".join(twice) == "".join(read(path)) * 2


def test_a_file_that_is_not_what_its_suffix_says(tmp_path):
    for suffix in (".gz", ".zst"):
        (tmp_path / f"a.txt{suffix}").write_text("plain text, not compressed at all")
        with pytest.raises(DamagedFileError):
            read(tmp_path / f"a.txt{suffix}")


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n')
    file = list_file(str(path), path.stat(), name="a")
    path.write_text('{"text": "a"}\n{"text": "b"}\n')
    piece = Slice(file=file, start=0, stop=file.size)
    with pytest.raises(SourceError, match="changed while it was being converted"):
        list(read_documents(READERS["jsonl"], piece, Fields(text="text"), pytest.fail, lambda size: None))


def test_what_another_program_cuts_is_no_damage_that_may_be_left_out(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(random.Random(0).randbytes(3 << 20), 0))
    file = list_file(str(path), path.stat(), name="a")

    def read_while_it_is_cut() -> None:
        with open_slice(file.whole) as stream:
            stream.read(1)
            os.truncate(path, 2 << 20)
            stream.read()

    with pytest.raises(SourceError, match="changed while") as caught:
        read_while_it_is_cut()
    assert not isinstance(caught.value, DamagedFileError)


def test_a_file_that_is_gone_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("text")
    file = list_file(str(path), path.stat(), name="a")
    path.unlink()
    with pytest.raises(SourceError, match=r"a\.txt: the file was there when the sources were listed, and is gone now"):
        list(read_documents(READERS["text"], file.whole, Fields(text="text"), pytest.fail, lambda size: None))


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("text")
    file = list_file(str(path), path.stat(), name="a")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(SourceError, match="changed while it was being converted"):
        list(read_documents(READERS["text"], file.whole, Fields(text="text"), pytest.fail, lambda size: None))


def test_a_new_format_is_one_line_of_the_table(tmp_path, monkeypatch):
    """The worked example of `readers/__init__.py`: found by suffix, read, and its fields are fields."""

    def read_kv(source, columns, on_bad, on_bytes):
        number = 0
        with open_slice(source, on_bytes) as stream:
            for number, line in enumerate(stream, 1):
                try:
                    key, text = line.decode().rstrip("\n").split("\t", 1)
                except ValueError as error:
                    on_bad(f"{source.file.path}, record {number - 1}: {error}", record=number - 1)
                    continue
                yield Record({"key": key, "text": text}, number - 1)
        return number

    monkeypatch.setitem(READERS, "kv", Reader(suffixes=frozenset({".kv"}), records=read_kv))
    for suffix, compress in COMPRESS.items():
        (tmp_path / f"a.kv{suffix}").write_bytes(compress(b"x\tone\ny\ttwo\n"))
        assert read(tmp_path / f"a.kv{suffix}", part_bytes=3) == ["one", "two"]
        by_key = Fields(text="text", domain="key")
        assert read(tmp_path / f"a.kv{suffix}", fields=by_key) == [("one", "x"), ("two", "y")]
    (tmp_path / "c.kv").write_bytes(b"x\tone\n\xff\n")
    bad: list[str] = []
    assert read(tmp_path / "c.kv", bad=bad) == ["one"]
    assert bad[0].startswith(f"{tmp_path / 'c.kv'}, record 1: ")


def test_a_format_without_fields_cannot_name_domains(tmp_path):
    (tmp_path / "b.txt").write_text("three\n\nfour")
    with pytest.raises(ConfigError, match=r"format text has no fields"):
        find_sources([str(tmp_path)], out=tmp_path.parent / "out", choice=Choice(), by_key=True)


def test_the_help_says_the_limits_that_readers_keep(capsys):
    assert main(["convert", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "A line or an object of JSON, and a document between separators, has at most 256 MiB." in told
    assert {jsonl._MAX_LINE, json_values._MAX_VALUE, text_files.MAX_DOCUMENT} == {256 << 20}
