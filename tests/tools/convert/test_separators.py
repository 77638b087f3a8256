"""Text files divided into documents by what stands between them, wherever the file is cut into blocks."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.errors import ConfigError
from mixstream_tools.convert.files import SourceError
from mixstream_tools.convert.readers import READERS, Fields, text
from mixstream_tools.convert.separators import unescape
from mixstream_tools.convert.sources import list_file


def documents_of(path, separator, bad=None):
    def on_bad(fact):
        if bad is None:
            raise SourceError(fact)
        bad.append(fact)

    file = list_file(str(path), path.stat(), name=path.name)
    pieces = list(READERS["text"].read(file.whole, Fields(text="", separator=separator), on_bad, lambda size: None))
    assert all(piece.begins and piece.ends for piece in pieces)
    return [piece.text for piece in pieces], sum(piece.separated for piece in pieces)


@given(
    parts=st.lists(st.text(st.sampled_from("ab<|>ä🙂\n"), max_size=12), max_size=12),
    separator=st.sampled_from(["<|>", "\n\n", "ä", "<|endoftext|>", "aa"]),
    block=st.integers(1, 9),
    closed=st.booleans(),
)
@settings(max_examples=120, deadline=None)
def test_documents_are_those_that_split_gives(tmp_path_factory, parts, separator, block, closed):
    path = tmp_path_factory.mktemp("d") / "a.md"
    content = separator.join(parts) + separator * closed
    path.write_text(content, newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "_BLOCK", block)
        documents, separated = documents_of(path, separator)
    split = content.split(separator)
    assert documents == [each for each in split if each.strip()]
    assert separated == sum(bool(each.strip()) for each in split[:-1])


def test_what_is_bad_between_separators_spoils_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"good<s>bad \xff\xfe<s>also good<s>nul \0<s>last")
    bad: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mixstream_tools.convert.sniff._NUL_WITHIN", 0)
        assert documents_of(path, "<s>", bad)[0] == ["good", "also good", "last"]
    assert bad[0] == f"{path}: not UTF-8: byte 11, invalid start byte"
    assert bad[1] == f"{path}, the document at byte 28: it holds a NUL byte, at character 4, so it is not text"


@pytest.mark.parametrize("block", [7, 1 << 20])
def test_a_document_without_end_is_bounded(tmp_path, monkeypatch, block):
    monkeypatch.setattr(text, "_MAX_DOCUMENT", 50)
    monkeypatch.setattr(text, "_BLOCK", block)
    path = tmp_path / "a.txt"
    path.write_text("one|" + "x" * 500 + "|two")
    bad: list[str] = []
    assert documents_of(path, "|", bad)[0] == ["one", "two"]
    assert len(bad) == 1
    assert "longer than" in bad[0]


def test_the_separator_is_no_text_and_is_counted(write_tree, tmp_path, convert_json, read_rows, expected_rows):
    texts = ["first one", "second one", "third one"]
    source = write_tree(
        {"d/a.txt": "<|endoftext|>".join(texts[:2]), "d/c.jsonl": json.dumps({"text": "a<|endoftext|>"})}
    )
    (source / "d/b.txt.gz").write_bytes(gzip.compress(f"{texts[2]}<|endoftext|>".encode()))
    run = [source / "d", "--out", tmp_path / "out", "--seq-len", 4, "--document-separator", "<|endoftext|>"]
    status, told, _ = convert_json(*run)
    assert (status, told["separators"], told["domains"]["d"]["train"]["documents"]) == (0, 2, 4)
    assert (read_rows(tmp_path / "out/d/train") == expected_rows([*texts, "a<|endoftext|>"], 4)).all()
    status, told, _ = convert_json(source / "d", "--out", tmp_path / "out", "--seq-len", 4)
    assert '--document-separator was "<|endoftext|>", is null' in told["error"]["message"]


def test_a_separator_that_no_file_has_is_said(write_tree, tmp_path, convert_json):
    source = write_tree({"d/a.txt": "one\r\n\r\ntwo"})
    status, told, log = convert_json(source, "--out", tmp_path / "out", "--seq-len", 4, "--document-separator", r"\n\n")
    assert status == 0
    assert "stands in no text file" in told["warnings"][0]
    assert "warning: " in log


@pytest.mark.parametrize(
    ("typed", "separator"),
    [
        (r"\n\n", "\n\n"),
        (r"\\n", "\\n"),
        (r"\x1e", "\x1e"),
        (r"\u2029", "\u2029"),
        ("<|endoftext|>", "<|endoftext|>"),
        ("ä\n", "ä\n"),
        ("---", "---"),
    ],
)
def test_escapes(typed, separator):
    assert unescape(typed) == separator


@pytest.mark.parametrize("typed", [r"\x00", "a\0b", r"\u0000"])
def test_a_separator_that_no_text_can_have(typed):
    with pytest.raises(ConfigError, match=r"NUL byte.*tr '"):
        unescape(typed)


def test_a_separator_may_begin_with_a_dash(write_tree, tmp_path, convert_json, read_rows, expected_rows):
    source = write_tree({"d/a.md": "one\n---\ntwo"})
    status, told, _ = convert_json(source, "--out", tmp_path / "out", "--seq-len", 1, "--document-separator", "---")
    assert (status, told["separators"]) == (0, 1)
    assert (read_rows(tmp_path / "out/d/train") == expected_rows(["one\n", "\ntwo"], 1)).all()
