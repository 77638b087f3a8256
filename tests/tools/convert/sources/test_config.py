"""`--config corpus.toml`: sources with options of their own, and what a changed one changes."""

import json
from pathlib import Path

import pytest

from mixstream.errors import ConfigError
from mixstream_tools.convert.documents.options import DocumentOptions
from mixstream_tools.convert.files.choice import Choice
from mixstream_tools.convert.sources.config import read_config

CONFIG = """
[[source]]
path = "crawl/*.jsonl"
domain = "web"
text-key = "body"
filter = ["lang == 'en'"]

[[source]]
path = "code"
include = ["*.py"]
"""


@pytest.fixture
def corpus(write_tree, monkeypatch):
    root = write_tree({
        "crawl/a.jsonl": '{"body": "english text", "lang": "en"}\n{"body": "deutsch", "lang": "de"}\n',
        "code/x.py": "print()\n",
        "code/x.rs": "fn main() {}\n",
        "plain.jsonl": '{"text": "of the command line"}\n',
        "corpus.toml": CONFIG,
    })  # fmt: skip
    monkeypatch.chdir(root)
    return root


def text_of(rows) -> str:
    return bytes(token for token in rows.ravel().tolist() if token < 256).decode()


def test_each_source_has_its_options(corpus, tmp_path, convert_json, read_rows):
    status, told, _ = convert_json("plain.jsonl", "--config", "corpus.toml", "--out", tmp_path / "out", "--seq-len", 1)
    assert status == 0
    texts = {name: text_of(read_rows(tmp_path / "out" / name / "train")) for name in told["domains"]}
    assert texts == {"web": "english text", "code": "print()\n", "plain": "of the command line"}
    assert told["left_out"] == {"--filter lang == 'en'": 1}


def test_a_changed_option_makes_only_its_domain_another(corpus, tmp_path, convert_json, read_rows):
    command = ["--config", "corpus.toml", "--out", tmp_path / "out", "--seq-len", 1]
    convert_json(*command)
    before = (tmp_path / "out/code/train/index.json").stat().st_mtime_ns
    Path("corpus.toml").write_text(CONFIG.replace("== 'en'", "== 'de'"))
    status, told, _ = convert_json(*command)
    assert status == 1
    assert "domain 'web': 1 files of" in told["error"]["message"]
    assert "with other names, times, formats or options" in told["error"]["message"]
    assert convert_json(*command, "--overwrite")[0] == 0
    assert text_of(read_rows(tmp_path / "out/web/train")) == "deutsch"
    assert (tmp_path / "out/code/train/index.json").stat().st_mtime_ns == before
    assert convert_json(*command)[1]["status"] == "nothing to do"


def test_all_sources_name_their_domains_or_none(corpus, tmp_path, convert_json):
    Path("corpus.toml").write_text(CONFIG + 'domain-key = "__file__"\n')
    status, told, _ = convert_json("--config", "corpus.toml", "--out", tmp_path / "out")
    assert status == 2
    assert "or none" in told["error"]["message"]


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        ("x = ", "not TOML"),
        ("", "it has no source"),
        ("sources = []", "it has 'sources'"),
        ("[[source]]\ndomain = 'a'", "no path"),
        ("[[source]]\npath = 'a'\ndomain = 3", "domain is 3"),
        ("[[source]]\npath = 'a'\ndomain = 'x=y'", "domain is 'x=y'"),
        ("[[source]]\npath = 'a'\ntext-keys = 'b'", "no option 'text-keys'.*text-key"),
        ("[[source]]\npath = 'a'\ntext-key = 3", "text-key is 3"),
        ("[[source]]\npath = 'a'\nfilter = [3]", r"filter is \[3\]"),
        ("[[source]]\npath = 'a'\nfilter = 'x ='", "condition"),
        ("[[source]]\npath = 'a'\nformat = 'doc'", "no format 'doc'"),
        ("[[source]]\npath = 'a'\nkeep = ['u=url', 'lang']", "keep has 'lang'.*--keep lang"),
    ],
)
def test_what_is_wrong_is_named_with_its_source(tmp_path, content, fact):
    path = tmp_path / "corpus.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=fact):
        read_config(path, DocumentOptions(keep=("u",)), Choice(), {})


def test_a_file_of_two_sources_that_read_it_differently_is_refused(corpus, tmp_path, convert_json):
    """It is read once, so what the second one says of it would be lost."""
    second = '[[source]]\npath = "crawl/a.jsonl"\ndomain = "web"\ntext-key = "lang"\n'
    Path("corpus.toml").write_text(CONFIG + second)
    status, told, _ = convert_json("--config", "corpus.toml", "--out", tmp_path / "out", "--seq-len", 1)
    assert status == 2
    assert "a.jsonl is a file of two sources with different options" in told["error"]["message"]
    Path("corpus.toml").write_text(CONFIG + CONFIG.partition('[[source]]\npath = "code"')[0])
    assert convert_json("--config", "corpus.toml", "--out", tmp_path / "out", "--seq-len", 1)[0] == 0


def test_the_example_of_the_help_is_one(tmp_path, capsys):
    from mixstream_tools.cli import main

    assert main(["convert", "--help"]) == 0
    told = capsys.readouterr().out
    table = told[told.index("[[source]]") : told.index("A source may have")]
    (tmp_path / "corpus.toml").write_text("\n".join(line.strip(" │") for line in table.splitlines()))
    (source,) = read_config(tmp_path / "corpus.toml", DocumentOptions(), Choice(), {})
    assert source.typed == "web=s3://crawl/2024/*.parquet"
    assert source.fields is not None
    assert json.dumps(source.fields.describe()["filters"])


def test_a_source_has_its_own_extractor(corpus, tmp_path, convert_json, read_rows, monkeypatch):
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>x</p>"
    head = "WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:a>\r\nWARC-Target-URI: https://a.b/\r\n"
    head += f"WARC-Date: 2026-01-02T03:04:05Z\r\nContent-Type: application/http\r\nContent-Length: {len(page)}\r\n\r\n"
    Path("a.warc").write_bytes(head.encode() + page + b"\r\n\r\n")
    Path("pages.py").write_text(
        "def upper(html):\n    return html.upper()\n\n\ndef lower(html):\n    return html.lower()\n"
    )
    monkeypatch.syspath_prepend(corpus)
    command = ["plain.jsonl", "--config", "corpus.toml", "--out", tmp_path / "out", "--seq-len", 1]
    table = '[[source]]\npath = "a.warc"\nextract = "pages:upper"\n'
    Path("corpus.toml").write_text(table)
    assert convert_json(*command)[0] == 0
    assert text_of(read_rows(tmp_path / "out/a/train")) == "<P>X</P>"
    assert convert_json(*command)[1]["status"] == "nothing to do"
    Path("corpus.toml").write_text(table.replace("upper", "lower"))
    assert "domain 'a'" in convert_json(*command)[1]["error"]["message"]
