"""Which files are read, and which domain they belong to."""

import gzip
import json
import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.errors import ConfigError
from mixstream_tools.convert.files.choice import Choice
from mixstream_tools.convert.parts import plan_parts
from mixstream_tools.convert.sources.sources import find_sources
from mixstream_tools.shared.console import Console


def found(tmp_path, *sources, by_key=False, **choice) -> dict[str, list[str]]:
    corpus = find_sources(list(map(str, sources)), out=tmp_path / "out", choice=Choice(**choice), by_key=by_key)
    return {group.name: [file.name for file in group.files] for group in corpus.groups}


def test_a_directory_is_a_domain_and_is_walked_in_order_of_names(write_tree, tmp_path):
    source = write_tree({"web/b.txt": "b", "web/a/z.md": "z", "web/a/B.txt": "B", "web/c.jsonl": '{"text": "c"}'})
    assert found(tmp_path, source / "web") == {"web": ["a/B.txt", "a/z.md", "b.txt", "c.jsonl"]}


def test_one_directory_of_directories_is_a_domain_each(write_tree, tmp_path):
    source = write_tree({"web/a.txt": "a", "code/b.py": "b", ".git/config": "c"})
    assert found(tmp_path, source) == {"code": ["b.py"], "web": ["a.txt"]}


def test_a_file_beside_the_directories_makes_it_one_domain(write_tree, tmp_path):
    source = write_tree({"web/a.txt": "a", "README": "b"})
    assert found(tmp_path, source) == {"src": ["README", "web/a.txt"]}


@pytest.mark.parametrize("name", ["web.txt", "web.jsonl", "web.jsonl.gz", "web.json.zst", "web"])
def test_a_file_is_a_domain_without_its_suffixes(write_tree, tmp_path, name):
    source = write_tree({name: "", "other.md": "x"})
    assert list(found(tmp_path, source / name, source / "other.md")) == ["web", "other"]


def test_a_name_on_the_command_line_wins(write_tree, tmp_path):
    source = write_tree({"a/x.txt": "x", "b.txt": "b"})
    assert found(tmp_path, f"web={source / 'a'}", f"code={source / 'b.txt'}") == {"web": ["x.txt"], "code": ["b.txt"]}


def test_a_path_with_a_slash_before_the_sign_is_a_path(write_tree, tmp_path, monkeypatch):
    monkeypatch.chdir(write_tree({"a=b.txt": "x"}))
    assert found(tmp_path, "./a=b.txt") == {"a=b": ["a=b.txt"]}


def test_a_name_may_have_a_slash_that_is_no_directory(write_tree, tmp_path, monkeypatch):
    monkeypatch.chdir(
        write_tree({"sql/a.txt": "x", "data/lang=en/b.txt": "x", "en/c.txt": "x", "data/lang=de/b.txt": ""})
    )
    assert found(tmp_path, "PL/SQL=sql", "data/lang=en") == {"PL/SQL": ["a.txt"], "lang=en": ["b.txt"]}
    with pytest.raises(ConfigError, match="data/lang=sql: there is no such file"):
        found(tmp_path, "data/lang=sql")


def test_with_a_domain_key_all_files_are_one_group(write_tree, tmp_path):
    source = write_tree({"a/1.jsonl": "x", "b/2.jsonl": "x"})
    assert list(found(tmp_path, source / "a", source / "b", by_key=True).values()) == [["1.jsonl", "2.jsonl"]]


def test_what_is_skipped_is_counted(write_tree, tmp_path):
    source = write_tree(
        {"d/a.txt": "a", "d/.b": "b", "d/c.so": b"\x7fELF\0", "d/e": "text", "d/f.log": "f", "x/y": "y"}
    )
    (source / "d/loop").symlink_to(source / "d")
    (source / "d/gone").symlink_to(source / "nothing")
    (source / "d/other").symlink_to(source / "x")
    (source / "d/again").symlink_to(source / "d/a.txt")
    choice = Choice(exclude=("*.log",))
    corpus = find_sources([str(source / "d")], out=tmp_path / "out", choice=choice, by_key=False)
    assert [file.name for file in corpus.groups[0].files] == ["a.txt", "e"]
    assert dict(corpus.skipped) == {
        ("hidden", ""): 1,
        ("not text", ".so"): 1,
        ("left out by --include or --exclude", ""): 1,
        ("links inside the source", "again"): 1,
        ("links inside the source", "loop"): 1,
        ("links out of the source, which are not followed", "other"): 1,
        ("broken links", "gone"): 1,
    }


def test_what_lies_around_data_is_skipped(write_tree, tmp_path):
    around = [
        "_SUCCESS",
        ".part-0.jsonl.crc",
        "part-0.jsonl.md5",
        "SHA256SUMS",
        "__MACOSX/x.txt",
        "Thumbs.db",
        ".DS_Store",
    ]
    around += ["._part-0.jsonl", ".git/config", "part-0.jsonl~", "part-0.jsonl.bak", "_committed_123", "empty.jsonl"]
    source = write_tree(
        {"d/part-0.jsonl": '{"text": "a"}'} | {f"d/{name}": b"x" * ("empty" not in name) for name in around}
    )
    corpus = find_sources([str(source / "d")], out=tmp_path / "out", choice=Choice(), by_key=False)
    assert [file.name for file in corpus.groups[0].files] == ["part-0.jsonl"]
    assert corpus.skipped.total() == len(around)


@pytest.mark.parametrize("about", ["README.md", "LICENSE", "dataset_card.md", "CITATION.cff", "readme", "COPYING.txt"])
def test_what_describes_data_is_no_document(write_tree, tmp_path, about):
    source = write_tree(
        {"data/a/x.jsonl": '{"text": "a"}', f"data/{about}": "about", "code/x.py": "x", f"code/{about}": "about"}
    )
    assert found(tmp_path, source / "data", source / "code") == {"data": ["a/x.jsonl"], "code": sorted([about, "x.py"])}
    assert found(tmp_path, source / "data", as_text=(about,))["data"] == sorted([about, "a/x.jsonl"])
    assert found(tmp_path, source / "data" / about) == {about.partition(".")[0]: [about]}


def test_several_sources_make_one_domain(write_tree, tmp_path, monkeypatch):
    source = write_tree(dict.fromkeys(("a1.txt", "a2.txt", "b/c/d.txt", "b/e.txt", ".h.txt", "x/y.txt"), "text"))
    monkeypatch.chdir(source)
    assert found(tmp_path, "web=a*.txt", "web=b/", "law=x/**/*.txt") == {
        "web": ["a1.txt", "a2.txt", "c/d.txt", "e.txt"],
        "law": ["y.txt"],
    }
    assert found(tmp_path, "[ab]?.txt") == {"a1": ["a1.txt"], "a2": ["a2.txt"]}
    assert found(tmp_path, "all=**/*.txt") == {"all": ["a1.txt", "a2.txt", "d.txt", "e.txt", "y.txt"]}
    assert found(tmp_path, "all=b/**") == {"all": ["c/d.txt", "e.txt"]}
    assert list(found(tmp_path, "x*", "b/*").items()) == [("x", ["y.txt"]), ("c", ["d.txt"]), ("e", ["e.txt"])]


def test_a_name_with_the_signs_of_a_pattern_is_a_name(write_tree, tmp_path):
    source = write_tree({"a[1]/b*.txt": "x", "a1/b.txt": "y"})
    assert found(tmp_path, source / "a[1]/b*.txt") == {"b*": ["b*.txt"]}
    assert found(tmp_path, f"d={source}/a[1]/*") == {"d": ["b*.txt"]}


def test_a_file_named_twice_is_read_once(write_tree, tmp_path, monkeypatch):
    source = write_tree({"a.jsonl": '{"text": "a"}', "b.jsonl": '{"text": "b"}', "c/d.txt": "x"})
    (source / "link.jsonl").symlink_to(source / "a.jsonl")
    (source / "hard.jsonl").hardlink_to(source / "b.jsonl")
    monkeypatch.chdir(source)
    given = ["web=a.jsonl", "web=*.jsonl", "web=c", "web=c/d.txt"]
    corpus = find_sources(given, out=tmp_path / "out", choice=Choice(), by_key=False)
    assert [file.name for file in corpus.groups[0].files] == ["a.jsonl", "b.jsonl", "d.txt"]
    assert corpus.skipped["named twice, and read once", ""] == 4
    with pytest.raises(
        ConfigError, match=r"would be read twice: in domain 'web', and, as .*link\.jsonl, in domain 'law'"
    ):
        find_sources(["web=a.jsonl", "law=link.jsonl"], out=tmp_path / "out", choice=Choice(), by_key=False)


def test_links_that_are_named_are_followed(write_tree, tmp_path):
    source = write_tree({"d/a.txt": "a", "elsewhere/b.txt": "b"})
    (source / "link").symlink_to(source / "elsewhere")
    (source / "d/link.txt").symlink_to(source / "elsewhere/b.txt")
    assert found(tmp_path, source / "link") == {"elsewhere": ["b.txt"]}
    assert found(tmp_path, f"d={source}/d/*.txt") == {"d": ["a.txt", "link.txt"]}


def test_a_wrong_field_is_named_before_anything_is_written(write_tree, tmp_path, convert_json):
    source = write_tree({"a.jsonl": '{"content": "x", "meta": {"lang": "en"}, "id": 1}\n' * 40})
    run = [source / "a.jsonl", "--out", tmp_path / "out", "--seq-len", 16]
    for options in ([], ["--text-key", "id"], ["--text-key", "content", "--domain-key", "lang"]):
        for policy in ("raise", "skip"):
            status, told, _ = convert_json(*run, *options, "--on-bad-document", policy)
            assert status == 2
            assert "the document has 'content', 'meta.lang', 'id' (number)" in told["error"]["message"]
            assert not (tmp_path / "out").exists()
    assert convert_json(*run, "--text-key", "content")[0] == 0


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"include": ("*.py",)}, ["a.py", "t/b.py"]),
        ({"include": ("*.py",), "exclude": ("t/*",)}, ["a.py"]),
        ({"exclude": ("*.py", "*.md")}, ["t/c.txt"]),
    ],
)
def test_patterns(write_tree, tmp_path, choice, expected):
    source = write_tree(dict.fromkeys(("d/a.py", "d/t/b.py", "d/t/c.txt", "d/t/d.md"), "x"))
    assert found(tmp_path, source / "d", **choice) == {"d": expected}


@pytest.mark.parametrize(
    ("files", "sources", "by_key", "expected"),
    [
        ({"a/web/x.txt": "x", "b/web/x.txt": "x"}, ["a/web", "b/web"], False, "domain 'web'"),
        ({"Web/x.txt": "x", "web/x.txt": "x"}, ["Web", "web"], False, "where case is ignored"),
        ({"a/.hidden": "x"}, ["a"], False, "domain 'a': no file to convert (skipped: 1 hidden)"),
        ({"a/x.bin": b"\0"}, ["a/x.bin"], False, "binary data"),
        ({"a/x.txt": "x"}, ["a", "a/x.txt"], False, "read twice"),
        ({"a/x.txt": "x", "a/y.txt": "x", "b": "x"}, ["a/y.txt", "b", "a", "a/x.txt"], False, "read twice"),
        ({"a/x.txt": "x"}, ["one=a", "two=a"], False, "read twice"),
        ({"a/x.txt": "x"}, ["."], False, "lies inside SRC"),
        ({"a/x.txt": "x"}, ["a"], True, "has no fields"),
        ({"a/x.jsonl": "x"}, ["web=a"], True, "NAME=PATH"),
        ({"a/x.txt": "x"}, ["../evil=a"], False, "no such file"),
        ({"a/x.txt": "x"}, [" =a"], False, "cannot be the name"),
        ({"a/x.txt": "x"}, [".by-key=a"], False, "cannot be called"),
        ({"a/x.txt": "x"}, ["web="], False, "no path follows"),
        ({"a/x.txt": "x"}, ["none*"], False, "matches this pattern"),
        ({"a/x.txt": "x", "b": "x"}, ["a=b", "a"], False, "If they belong together"),
    ],
)
def test_sources_that_cannot_be(write_tree, monkeypatch, files, sources, by_key, expected):
    source = write_tree(files)
    monkeypatch.chdir(source)
    with pytest.raises(ConfigError) as caught:
        find_sources(sources, out=source / "out", choice=Choice(), by_key=by_key)
    assert expected in "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])


@given(
    sizes=st.lists(st.tuples(st.integers(1, 5000), st.booleans()), min_size=1, max_size=20), part=st.integers(1, 3000)
)
@settings(max_examples=60, deadline=None)
def test_parts_hold_every_byte_once_in_order(tmp_path_factory, sizes, part):
    source = tmp_path_factory.mktemp("d")
    for at, (size, lines) in enumerate(sizes):
        (source / f"{at:03}{'.jsonl' if lines else '.txt'}").write_bytes(b"\n" * size)
    (group,) = find_sources([f"d={source}"], out=source.parent / "out", choice=Choice(), by_key=False).groups
    parts = plan_parts(group, part)
    slices = [piece for each in parts for piece in each.slices]
    assert [each.number for each in parts] == list(range(len(parts)))
    for file in group.files:
        bounds = [(piece.start, piece.stop) for piece in slices if piece.file == file]
        assert bounds[0][0] == 0
        assert bounds[-1][1] == file.size
        assert all(before[1] == after[0] for before, after in pairwise(bounds))
    assert [piece.file.name for piece in slices] == sorted(piece.file.name for piece in slices)
    assert all(each.bytes <= part for each in parts if all(piece.file.format == "jsonl" for piece in each.slices))


def test_a_name_that_is_no_text_does_not_stand_in_the_way(write_tree, tmp_path, convert_json):
    """File names are bytes; these are not UTF-8."""
    source = write_tree({"d/a.txt": "x" * 100})
    (source / "d/b\udcff.jsonl").write_text('{"text": "y"}\nbad\n')
    status, told, _ = convert_json(
        source / "d", "--out", tmp_path / "out", "--seq-len", 16, "--on-bad-document", "skip"
    )
    assert status == 0
    assert "line 2" in told["skipped"]["examples"][0]
    status, told, _ = convert_json(source / "d", "--out", tmp_path / "other", "--seq-len", 16)
    assert "line 2" in told["error"]["message"]


@pytest.mark.parametrize("source", [b"d/b\xff.txt", b"w\xff=d/a.txt", b"d\xff"])
def test_a_domain_name_that_is_no_text_is_refused_before_work(write_tree, tmp_path, convert_json, monkeypatch, source):
    monkeypatch.chdir(write_tree({"d/a.txt": "x" * 100}))
    Path(os.fsdecode(b"d/b\xff.txt")).write_text("x" * 100)
    Path(os.fsdecode(b"d\xff")).mkdir()
    Path(os.fsdecode(b"d\xff/a.txt")).write_text("x" * 100)
    status, told, _ = convert_json(os.fsdecode(source), "--out", tmp_path / "out", "--seq-len", 16)
    assert status == 2
    assert "is not UTF-8" in told["error"]["message"]
    assert not (tmp_path / "out").exists()
    if b"=" not in source:
        assert convert_json("web=" + os.fsdecode(source), "--out", tmp_path / "out", "--seq-len", 16)[0] == 0


def test_a_file_and_itself_compressed_are_said_to_come_twice(write_tree, tmp_path, convert_json):
    line = '{"text": "a document that comes twice"}\n'
    source = write_tree({"a.jsonl": line, "b.jsonl": line, "c.jsonl": line})
    for name in ("a", "b"):
        (source / f"{name}.jsonl.gz").write_bytes(gzip.compress(line.encode(), mtime=0))
    run = [f"web={source}", "--out", tmp_path / "out", "--seq-len", 8]
    status, told, said = convert_json(*run)
    assert (status, told["domains"]["web"]["train"]["documents"]) == (0, 5)
    assert "a.jsonl and a.jsonl.gz are both read, and 1 more such pairs; if they are one file, compressed" in said
    assert "both read" not in convert_json(*run, "--exclude", "*.gz", "--overwrite")[2]


def test_patterns_that_leave_no_file_are_explained(write_tree, tmp_path):
    source = write_tree({"web/docs/a.txt": "a"})
    with pytest.raises(ConfigError, match=r"1 left out by --include .*whole path below .* '\*/docs/\*'.*tar and WARC"):
        found(tmp_path, f"web={source}", include=("docs/*",))
    assert found(tmp_path, f"web={source}", include=("*/docs/*",)) == {"web": ["web/docs/a.txt"]}


def test_a_table_without_a_heading_is_recognised(write_tree, tmp_path, convert_json):
    source = write_tree({"a.tsv": "3C 338\tone\n226E\ttwo\n"})
    status, told, _ = convert_json(source, "--out", tmp_path / "out")
    assert status == 2
    assert "--domain-key (the first row of the file names them)" in told["error"]["message"]


def test_a_kept_field_that_no_document_has_is_said(write_tree, tmp_path, convert_json):
    source = write_tree({"a.jsonl": '{"text": "x", "score": null, "meta": {"url": "u"}}\n' * 3})
    run = [f"web={source}", "--out", tmp_path / "out", "--seq-len", 1, "--overwrite"]
    said = convert_json(*run, "--keep", "url,meta.url")[2]
    assert "warning: --keep url: the first documents of" in said
    assert "--keep meta.url" not in said
    assert "--keep" not in convert_json(*run, "--keep", "u=meta.url")[2]


def test_of_many_fields_the_texts_are_named_first(write_tree, tmp_path, convert_json):
    meta = {f"number{at}": at for at in range(30)}
    source = write_tree({"a.jsonl": json.dumps({"meta": meta | {"url": "u"}, "body": "x"})})
    told = convert_json(source, "--out", tmp_path / "out")[1]["error"]["message"]
    assert "no field 'text'; the document has 'body', 'meta.url', 'meta.number0' (number)" in told


def test_of_many_files_it_is_shown_how_many_were_looked_at(write_tree, tmp_path, monkeypatch, capsys):
    source = write_tree({f"{at}.txt": "x" for at in range(4)})
    choice, console = Choice(), Console(interval_s=0)
    for many, shown in ((5, []), (4, ["25", "50", "75", "100"])):
        monkeypatch.setattr("mixstream_tools.convert.sources.found._MANY", many)
        find_sources([str(source)], out=tmp_path / "out", choice=choice, by_key=False, progress=console.progress)
        assert [line.split()[4] for line in capsys.readouterr().err.splitlines()] == shown
