"""Which files are read, and which domain they belong to."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.errors import ConfigError
from mixstream_tools.convert.domain_names import check_domain_name
from mixstream_tools.convert.parts import plan_parts
from mixstream_tools.convert.sources import Choice, find_sources


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
    source = write_tree({name: "", "other.md": ""})
    assert list(found(tmp_path, source / name, source / "other.md")) == ["web", "other"]


def test_a_name_on_the_command_line_wins(write_tree, tmp_path):
    source = write_tree({"a/x.txt": "x", "b.txt": "b"})
    assert found(tmp_path, f"web={source / 'a'}", f"code={source / 'b.txt'}") == {"web": ["x.txt"], "code": ["b.txt"]}


def test_a_path_with_a_slash_before_the_sign_is_a_path(write_tree, tmp_path, monkeypatch):
    monkeypatch.chdir(write_tree({"a=b.txt": "x"}))
    assert found(tmp_path, "./a=b.txt") == {"a=b": ["a=b.txt"]}


def test_with_a_domain_key_all_files_are_one_group(write_tree, tmp_path):
    source = write_tree({"a/1.jsonl": "", "b/2.jsonl": ""})
    assert list(found(tmp_path, source / "a", source / "b", by_key=True).values()) == [["1.jsonl", "2.jsonl"]]


def test_what_is_passed_over_is_counted(write_tree, tmp_path):
    source = write_tree({"d/a.txt": "a", "d/.b": "b", "d/c.so": b"\x7fELF\0", "d/e": "text", "d/f.log": "f"})
    (source / "d/loop").symlink_to(source / "d")
    (source / "d/gone").symlink_to(source / "nothing")
    choice = Choice(exclude=("*.log",))
    corpus = find_sources([str(source / "d")], out=tmp_path / "out", choice=choice, by_key=False)
    assert [file.name for file in corpus.groups[0].files] == ["a.txt", "e"]
    assert dict(corpus.skipped) == {
        ("hidden", ""): 1,
        ("not text", ".so"): 1,
        ("left out by --include or --exclude", ""): 1,
        ("links to a directory above", ""): 1,
        ("broken links or devices", ""): 1,
    }


def test_links_are_followed(write_tree, tmp_path):
    source = write_tree({"d/a.txt": "a", "elsewhere/b.txt": "b"})
    (source / "d/link").symlink_to(source / "elsewhere")
    assert found(tmp_path, source / "d") == {"d": ["a.txt", "link/b.txt"]}


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


def test_a_json_document_is_text_and_json_lines_are_lines(write_tree, tmp_path):
    source = write_tree(
        {"d/package.json": '{\n "name": "x"\n}', "d/lines.json": '{"text": "a"}\n', "d/list.json": "[1]"}
    )
    corpus = find_sources([str(source / "d")], out=tmp_path / "out", choice=Choice(), by_key=False)
    assert {file.name: file.format for file in corpus.groups[0].files} == {
        "package.json": "text",
        "lines.json": "jsonl",
        "list.json": "text",
    }


@pytest.mark.parametrize(
    ("files", "sources", "by_key", "expected"),
    [
        ({"a/web/x.txt": "", "b/web/x.txt": ""}, ["a/web", "b/web"], False, "domain 'web'"),
        ({"Web/x.txt": "", "web/x.txt": ""}, ["Web", "web"], False, "where case is ignored"),
        ({"a/.hidden": ""}, ["a"], False, "domain 'a': no file to convert (skipped: 1 hidden)"),
        ({"a/x.bin": b"\0"}, ["a/x.bin"], False, "not text"),
        ({"a/x.txt": ""}, ["a", "a/x.txt"], False, "read twice"),
        ({"a/x.txt": "", "a/y.txt": "", "b": ""}, ["a/y.txt", "b", "a", "a/x.txt"], False, "read twice"),
        ({"a/x.txt": ""}, ["one=a", "two=a"], False, "read twice"),
        ({"a/x.txt": ""}, ["."], False, "lies inside SRC"),
        ({"a/x.txt": ""}, ["a"], True, "has no fields"),
        ({"a/x.jsonl": ""}, ["web=a"], True, "NAME=PATH"),
        ({"a/x.txt": ""}, ["../evil=a"], False, "no such file"),
        ({"a/x.txt": ""}, [".evil=a"], False, "cannot be the name"),
        ({"a/x.txt": ""}, ["web="], False, "no path follows"),
        ({"a:b/x.txt": ""}, ["a:b"], False, "Name the domain yourself"),
    ],
)
def test_sources_that_cannot_be(write_tree, monkeypatch, files, sources, by_key, expected):
    source = write_tree(files)
    monkeypatch.chdir(source)
    with pytest.raises(ConfigError) as caught:
        find_sources(sources, out=source / "out", choice=Choice(), by_key=by_key)
    assert expected in "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])


@pytest.mark.parametrize("name", ["web", "Wikipedia (en)", "PubMed Abstracts", "français", "日本語", "a.b-c_d", "0"])
def test_names_that_directories_can_have(name):
    assert check_domain_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", ".x", "a/b", "a\\b", "a\0", "a\n", "x.", " x", "x ", "-x", "C:", "a?", "NUL", "domains.json"),
        *("x" * 201, "e\u0301", "a\u200bb", "50%", "#1"),
    ],
)
def test_names_that_they_cannot(name):
    with pytest.raises(ConfigError, match="cannot be the name of a domain"):
        check_domain_name(name)


@given(
    sizes=st.lists(st.tuples(st.integers(0, 5000), st.booleans()), min_size=1, max_size=20), part=st.integers(1, 3000)
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
