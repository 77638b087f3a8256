"""What a document is: texts of several fields, templates, domains by map or function, filters. Rows are compared."""

import bz2
import gzip
import json

import numpy as np
import pytest
import zstandard

from mixstream.errors import ConfigError
from mixstream_tools.convert.documents.domain_map import DomainMap
from mixstream_tools.convert.documents.fields import Fields, template_parts
from mixstream_tools.convert.documents.filters import Filter
from mixstream_tools.convert.documents.options import DocumentOptions

EOS = 256
RECORDS = [
    {"id": "a", "title": "One", "text": "first text", "lang": "en", "score": 0.9, "year": 2024},
    {"id": "b", "title": None, "text": "second", "lang": "de", "score": 0.2, "year": 2025},
    {"id": "c", "text": "third", "lang": "en", "score": 0.4, "meta": {"set": "crawl-7"}, "year": 1999},
]


@pytest.fixture
def corpus(write_tree):
    return write_tree({"web.jsonl": "".join(json.dumps(record) + "\n" for record in RECORDS)}) / "web.jsonl"


@pytest.fixture
def run(corpus, tmp_path, convert_json, read_rows):
    """Convert with some options; returns status, document, and the texts of each domain."""

    def convert(*options, source=None):
        out = tmp_path / "out"
        status, told, err = convert_json(source or corpus, "--out", out, "--seq-len", 1, *options)
        texts = {}
        for path in sorted(out.glob("*/train/index.json")):
            tokens = read_rows(path.parent).ravel().tolist()
            ends = [at for at, token in enumerate(tokens) if token == EOS]
            begins = [0, *(end + 1 for end in ends)]
            texts[path.parent.parent.name] = [bytes(tokens[b:e]).decode() for b, e in zip(begins, ends)]
        return status, told, texts, err

    return convert


def test_several_fields_are_joined_and_optional_ones_may_be_missing(run):
    _, _, texts, _ = run("--text-key", "title?,text")
    assert texts == {"web": ["One\n\nfirst text", "second", "third"]}


def test_the_text_between_fields_is_chosen(run):
    _, _, texts, _ = run("--text-key", "lang,text", "--text-join", r"\t")
    assert texts == {"web": ["en\tfirst text", "de\tsecond", "en\tthird"]}


def test_a_field_that_is_not_optional_has_to_be_there(run):
    status, told, _, _ = run("--text-key", "title,text")
    assert status == 1
    assert "field 'title' is a JSON null, not a string" in told["error"]["message"]


def test_a_template_takes_numbers_and_braces(run):
    _, _, texts, _ = run("--text-template", r"{{{year}}} {title?}: {text}")
    assert texts == {"web": ["{2024} One: first text", "{2025} : second", "{1999} : third"]}


@pytest.mark.parametrize("template", ["no field", "{} x", "{text", "text}", "{ ?}"])
def test_a_template_without_sense_is_refused(template):
    with pytest.raises(ConfigError, match="--text-template"):
        Fields(text="text", template=template)


def test_a_template_has_texts_and_fields():
    assert [getattr(part, "name", part) for part in template_parts("a{{b{c}")] == ["a{", "b", "c"]


def test_a_map_gives_domains_by_value_and_by_pattern(run, tmp_path):
    (tmp_path / "map.csv").write_text("value,domain\nen,english\nd*,german\n")
    _, _, texts, _ = run("--domain-key", "lang", "--domain-map", tmp_path / "map.csv")
    assert texts == {"english": ["first text", "third"], "german": ["second"]}


def test_a_value_that_a_map_lacks_is_bad_unless_there_is_a_default(run, tmp_path):
    (tmp_path / "map.json").write_text('{"en": "english"}')
    status, told, _, _ = run("--domain-key", "lang", "--domain-map", tmp_path / "map.json")
    assert status == 1
    assert "--domain-map has no domain for 'de'" in told["error"]["message"]
    _, _, texts, _ = run("--domain-key", "lang", "--domain-map", tmp_path / "map.json", "--domain-default", "rest")
    assert texts == {"english": ["first text", "third"], "rest": ["second"]}


def test_a_map_alone_maps_the_names_of_files(run, write_tree, tmp_path):
    source = write_tree({"tree/a/x.txt": "one", "tree/b/y.txt": "two", "tree/b/z.txt": "three"}) / "tree"
    (tmp_path / "map.tsv").write_text("a/*\tfirst\nb/*\tsecond\n")
    _, _, texts, _ = run("--domain-map", tmp_path / "map.tsv", source=source)
    assert texts == {"first": ["one"], "second": ["two", "three"]}


@pytest.mark.parametrize(
    ("content", "fact"),
    [(b"", "no pair"), (b"a,b,c\n", "3 columns"), (b"a,x\na,y\n", "two domains"), (b'{"a": 1}', "not a text"),
     (b"{", "not JSON"), (b"\xff,a\n", "not UTF-8"), (b"a,\n", "cannot be the name of a domain")],
)  # fmt: skip
def test_a_map_that_is_none_is_refused(tmp_path, content, fact):
    (tmp_path / "map").write_bytes(content)
    with pytest.raises(ConfigError, match=fact):
        DomainMap.read(tmp_path / "map")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module of the user; returns its name."""
    monkeypatch.chdir(tmp_path)
    name = f"chosen_{abs(hash(str(tmp_path)))}"

    def write(code: str) -> str:
        (tmp_path / f"{name}.py").write_text(code)
        return name

    return write


def test_a_function_chooses_the_domain_and_leaves_out(run, module):
    name = module(
        "def choose(record):\n    return record['lang'] + '-' + record['__file__'] if record['score'] > 0.3 else None\n"
    )
    _, told, texts, err = run("--domain-function", f"{name}:choose")
    assert texts == {"en-web.jsonl": ["first text", "third"]}
    assert told["left_out"] == {f"--domain-function {name}:choose": 1}
    assert f"left out: 1 documents by --domain-function {name}:choose" in err


def test_a_function_that_fails_makes_the_document_bad(run, module):
    name = module("def choose(record):\n    return record['meta']['set']\n")
    status, told, _, _ = run("--domain-function", f"{name}:choose")
    assert status == 1
    assert f"--domain-function {name}:choose raised KeyError: 'meta'" in told["error"]["message"]


def test_a_condition_takes_documents_and_counts_the_others(run, tmp_path):
    _, told, texts, _ = run("--filter", "lang == 'en' and score >= 0.5")
    assert texts == {"web": ["first text"]}
    assert told["left_out"] == {"--filter lang == 'en' and score >= 0.5": 2}
    assert json.loads((tmp_path / "out/domains.json").read_text())["left_out"] == told["left_out"]


def test_a_condition_reaches_into_objects(run):
    _, told, texts, _ = run("--filter", "meta.set == 'crawl-7'", "--on-bad-document", "skip")
    assert texts == {"web": ["third"]}
    assert told["skipped"]["reasons"] == {"missing-field": 2}


@pytest.mark.parametrize("condition", ["lang > 3", "score == 'x'", "missing == 1", "title == 'One'"])
def test_what_a_condition_cannot_answer_makes_the_document_bad(run, condition):
    status, told, _, _ = run("--filter", condition)
    assert status in {1, 2}
    assert "line" in told["error"]["message"] or "field" in told["error"]["message"]


def test_lists_of_ids_take_or_drop_documents(run, tmp_path):
    (tmp_path / "keep.txt").write_text("a\nc\nx\n")
    (tmp_path / "drop.txt").write_text("c\n")
    _, told, texts, _ = run(
        "--id-key", "id", "--filter-ids", tmp_path / "keep.txt", "--drop-ids", tmp_path / "drop.txt"
    )
    assert texts == {"web": ["first text"]}
    assert told["left_out"] == {"--drop-ids drop.txt": 1, "--filter-ids keep.txt": 1}


def test_an_id_is_a_line_as_it_stands(tmp_path):
    """Unicode has more ends of lines than files have."""
    (tmp_path / "ids.txt").write_text("a\u2028b\r\n c\x85d\n\n", newline="")
    takes = Filter.ids(str(tmp_path / "ids.txt")).compiled()
    found = [id_ for id_ in ("a\u2028b", " c\x85d", "a", "b", "d", "") if takes(len, lambda id_=id_: id_, {})]
    assert found == ["a\u2028b", " c\x85d"]


def test_lists_of_ids_are_read_whole_and_damaged_ones_refused(tmp_path):
    """Also of several gzip members or zstd frames, as pigz, pzstd and `cat` write them."""
    parts = [b"a\nb\n", b"c\n" * 500]
    for suffix, pack in ((".gz", gzip.compress), (".zst", zstandard.ZstdCompressor().compress), (".bz2", bz2.compress)):
        packed, path = b"".join(map(pack, parts)), tmp_path / f"ids{suffix}"
        path.write_bytes(packed)
        keep, drop = Filter.ids(str(path)), Filter.ids(str(path), drop=True)
        assert [id_ for id_ in "abcd" if keep.compiled()(len, lambda id_=id_: id_, {})] == ["a", "b", "c"]
        assert [id_ for id_ in "abcd" if drop.compiled()(len, lambda id_=id_: id_, {})] == ["d"]
        for content in (packed[:-5], packed[:9] + bytes(9) + packed[18:]):
            path.write_bytes(content)
            with pytest.raises(ConfigError, match=f"ids{suffix}: the list of ids is damaged"):
                Filter.ids(str(path))
    with pytest.raises(ConfigError, match="changed while it was in use"):
        Filter(kind="ids", of=str(path), hash="0" * 64).compiled()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "--filter-ids .*ids.txt: it cannot be read .No such file or directory"),
        (b" \n\n", "it has no id; give one in each line"),
        (b"ok\n\xff\n", "is not UTF-8 .byte 3.; give one id in each line"),
    ],
)
def test_lists_without_ids_are_refused(tmp_path, content, words):
    if content is not None:
        (tmp_path / "ids.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        Filter.ids(str(tmp_path / "ids.txt"))


def test_a_list_of_ids_does_not_judge_a_long_text_by_its_beginning(run, write_tree, tmp_path, monkeypatch):
    monkeypatch.setattr("mixstream_tools.convert.readers.reader.PIECE_CHARS", 100)
    source = write_tree({"texts/long.txt": "words " * 100, "texts/short.txt": "short"}) / "texts"
    (tmp_path / "drop.txt").write_text("x\n")
    _, told, texts, _ = run("--drop-ids", tmp_path / "drop.txt", "--on-bad-document", "skip", source=source)
    assert texts == {"texts": ["short"]}
    assert told["skipped"]["reasons"] == {"too-long": 1}


def test_a_function_filters(run, module):
    name = module("def long(record):\n    return len(record['text']) > 5\n")
    _, told, texts, _ = run("--filter-function", f"{name}:long")
    assert texts == {"web": ["first text", "second"]}
    assert told["left_out"] == {f"--filter-function {name}:long": 1}


def test_other_filters_are_other_options(run):
    run("--filter", "score > 0.3")
    status, told, _, _ = run("--filter", "score > 0.1")
    assert status == 1
    assert "--filters was" in told["error"]["message"]


def test_a_changed_function_is_another_recipe(module):
    name = module("def f(record):\n    return 'a'\n")
    before = DocumentOptions(domain_function=f"{name}:f").fields().describe()
    module("def f(record):\n    return 'b'\n")
    assert DocumentOptions(domain_function=f"{name}:f").fields().describe() != before


def test_documents_without_text_are_counted(run, write_tree):
    source = write_tree({"e/web.jsonl": '{"text": ""}\n{"text": "x"}\n'}) / "e/web.jsonl"
    _, told, texts, _ = run(source=source)
    assert texts == {"web": ["x"]}
    assert told["left_out"] == {"documents without text": 1}


def test_options_that_contradict_each_other_are_refused(tmp_path):
    (tmp_path / "map").write_text("a,b\n")
    with pytest.raises(ConfigError, match="Leave out one"):
        DocumentOptions(domain_key="a", domain_function="os:getcwd").fields()
    with pytest.raises(ConfigError, match="Leave out one"):
        DocumentOptions(domain_map=tmp_path / "map", domain_function="os:getcwd").fields()
    with pytest.raises(ConfigError, match="for --domain-map"):
        DocumentOptions(domain_default="x").fields()


def test_options_that_are_not_used_change_no_recipe():
    described = Fields(text="text").describe()
    assert {key: value for key, value in described.items() if value not in (None, [])} == {"text-key": "text"}
    assert np.all([described[key] is None or described[key] == [] for key in ("text-join", "filters", "domain-map")])
