"""Text files divided into documents by what stands between them, wherever the file is cut into blocks."""

import gzip
import io
import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.errors import ConfigError
from mixstream_tools.convert.documents.fields import Fields
from mixstream_tools.convert.documents.separators import unescape
from mixstream_tools.convert.files.source_files import SourceError
from mixstream_tools.convert.job import run_conversion
from mixstream_tools.convert.readers import READERS, read_documents
from mixstream_tools.convert.readers import separated as separated_documents
from mixstream_tools.convert.recipe import Recipe
from mixstream_tools.convert.sources.sources import list_file
from mixstream_tools.convert.tokens.tokenizer import describe_tokenizer


def documents_of(path, separator, bad=None):
    def on_bad(fact, **about):
        if bad is None:
            raise SourceError(fact)
        bad.append(fact)

    file = list_file(str(path), path.stat(), name=path.name)
    pieces = list(
        read_documents(READERS["text"], file.whole, Fields(text="", separator=separator), on_bad, lambda size: None)
    )
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
        patch.setattr(separated_documents, "_BLOCK", block)
        documents, separated = documents_of(path, separator)
    split = content.split(separator)
    assert documents == [each for each in split if each.strip()]
    assert separated == sum(bool(each.strip()) for each in split[:-1])


def test_what_is_bad_between_separators_spoils_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"good<s>bad \xff\xfe<s>also good<s>nul \0<s>last")
    bad: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mixstream_tools.convert.readers.kinds._NUL_WITHIN", 0)
        assert documents_of(path, "<s>", bad)[0] == ["good", "also good", "last"]
    assert bad[0] == f"{path}: not UTF-8: byte 11, invalid start byte"
    assert bad[1] == f"{path}, the document at byte 28: it holds a NUL byte, at character 4, so it is not text"


@pytest.mark.parametrize("block", [7, 1 << 20])
def test_a_document_without_end_is_bounded(tmp_path, monkeypatch, block):
    monkeypatch.setattr(separated_documents, "MAX_DOCUMENT", 50)
    monkeypatch.setattr(separated_documents, "_BLOCK", block)
    path = tmp_path / "a.txt"
    path.write_text("one|" + "x" * 500 + "|two")
    bad: list[str] = []
    assert documents_of(path, "|", bad)[0] == ["one", "two"]
    assert len(bad) == 1
    assert "the document at byte 4: it is longer than" in bad[0]


@given(
    content=st.text(st.sampled_from("ab-\n"), max_size=60),
    separator=st.sampled_from(["--", "\n\n", "-", "ab", "aba", "aab-aab"]),
    block=st.integers(1, 9),
    part=st.integers(1, 20),
)
@settings(max_examples=300, deadline=None)
def test_wherever_a_file_is_cut_its_documents_are_the_same(content, separator, block, part):
    data, by = content.encode(), separator.encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(separated_documents, "_BLOCK", block)
        whole = list(separated_documents.split_documents(io.BytesIO(data), by, 0, None))
        cuts = [*range(0, len(data), part), len(data)]
        cut = [
            each
            for start, stop in pairwise(cuts)
            for each in separated_documents.split_documents(io.BytesIO(data), by, start, stop)
        ]
    assert cut == whole


def test_a_large_file_is_several_parts_and_an_output_of_an_earlier_version_stays_finished(
    write_tree, tmp_path, snapshot, monkeypatch
):
    texts = [f"{at} " * 50 for at in range(300)]
    source = write_tree({"d/a.txt": "<|>".join(texts)})

    def convert(out):
        recipe = Recipe(
            tokenizer=describe_tokenizer("bytes"),
            fields=Fields(text="text", separator="<|>"),
            seq_len=16,
            part_bytes=9000,
        )
        return run_conversion([str(source / "d")], out=out, recipe=recipe)

    told = convert(tmp_path / "cut")
    run = json.loads((tmp_path / "cut/.convert/run.json").read_bytes())["groups"]["d"]
    assert (told["domains"]["d"]["train"]["documents"], run["cut"], run["parts"] > 3) == (300, True, True)
    assert convert(tmp_path / "cut")["status"] == "nothing to do"
    with monkeypatch.context() as earlier:
        earlier.setitem(READERS, "text", replace(READERS["text"], separable=False))
        convert(tmp_path / "earlier")
    before = snapshot(tmp_path / "earlier")
    assert json.loads(before[".convert/run.json"])["groups"]["d"]["parts"] == 1
    assert convert(tmp_path / "earlier")["status"] == "nothing to do"
    assert snapshot(tmp_path / "earlier") == before


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


def test_the_separator_of_a_source_is_counted_and_missed_too(write_tree, tmp_path, convert_json):
    names = {"a.txt": ("one<>two", "<>"), "b.txt": ("one\n\ntwo", "@@"), "c.txt": ("three", None)}
    source = write_tree({name: text for name, (text, _) in names.items()})
    (source / "corpus.toml").write_text(
        "".join(
            f'[[source]]\ndomain = "d"\npath = "{source / name}"\n'
            + (f'document-separator = "{separator}"\n' if separator else "")
            for name, (_, separator) in names.items()
        )
    )
    out = ["--config", source / "corpus.toml", "--out", tmp_path / "out", "--seq-len", 4]
    status, told, _ = convert_json(*out)
    assert (status, told["separators"], told["domains"]["d"]["train"]["documents"]) == (0, 1, 4)
    assert told["warnings"] == ["--document-separator '@@' stands in no text file: each of them is one document."]


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
