"""What `mixstream convert` writes: rows, layout, counts, splits, domains. Content is compared token by token."""

import json
from itertools import chain

import numpy as np
import pytest

from mixstream.formats import parse_index
from mixstream_tools.convert.documents.fields import Fields
from mixstream_tools.convert.job import run_conversion
from mixstream_tools.convert.recipe import Recipe
from mixstream_tools.convert.tokens.tokenizer import describe_tokenizer

TEXTS = {name: f"document {name} " * count for name, count in [("a", 30), ("b", 1), ("c", 200), ("d", 77)]}


def jsonl(*documents: dict) -> str:
    return "".join(json.dumps(document) + "\n" for document in documents)


def recipe(**options) -> Recipe:
    fields = Fields(text="text", domain=options.pop("domain_key", None))
    return Recipe(**{"tokenizer": describe_tokenizer("bytes"), "fields": fields, "seq_len": 16, **options})


@pytest.fixture
def corpus(write_tree):
    return write_tree({f"web/{name}.txt": text for name, text in TEXTS.items()} | {"code/x.py": "x = 1\n" * 50})


def test_rows_are_the_documents_end_to_end(corpus, tmp_path, convert_json, read_rows, expected_rows):
    status, told, _ = convert_json(corpus, "--out", tmp_path / "out", "--seq-len", 64)
    assert status == 0
    rows = read_rows(tmp_path / "out/web/train")
    np.testing.assert_array_equal(rows, expected_rows(TEXTS.values(), 64))
    np.testing.assert_array_equal(read_rows(tmp_path / "out/code/train"), expected_rows(["x = 1\n" * 50], 64))
    assert list(told["domains"]) == ["code", "web"]
    assert told["domains"]["web"]["train"]["rows"] == len(rows)


def test_index_says_what_it_holds(corpus, tmp_path, convert_json, read_meta):
    _, told, _ = convert_json(corpus / "web", "--out", tmp_path / "out", "--seq-len", 64)
    total = sum(len(text) + 1 for text in TEXTS.values())
    meta = read_meta(tmp_path / "out/web/train")
    assert [file["basename"] for file in meta.pop("documents_files")] == ["documents/part-00000.parquet"]
    assert meta == {
        "row_kind": "packed",
        "domain": "web",
        "split": "train",
        "documents": 4,
        "rows": total // 64,
        "tokens": total // 64 * 64,
        "shards": 1,
        "dropped_tokens": total % 64,
        "seq_len": 64,
        "tokenizer": {"name": "bytes", "vocab_size": 257, "eos": 256, "hash": "bytes"},
    }
    assert told["domains"]["web"]["train"] == {key: meta[key] for key in told["domains"]["web"]["train"]}
    index = parse_index((tmp_path / "out/web/train/index.json").read_bytes(), where="")
    assert index.shards[0].columns == {"tokens": "ndarray:uint16:64"}
    assert index.shards[0].hashes == ("xxh3_64",)
    assert json.loads((tmp_path / "out/domains.json").read_bytes())["domains"] == told["domains"]


def test_compression_hashes_and_size_limit_reach_the_shards(corpus, tmp_path, convert_json):
    options = ["--compression", "zstd:3", "--hashes", "sha1", "--hashes", "xxh64", "--size-limit", "2kb"]
    convert_json(corpus / "web", "--out", tmp_path / "out", "--seq-len", 64, *options)
    index = parse_index((tmp_path / "out/web/train/index.json").read_bytes(), where="")
    assert len(index.shards) > 1
    for info in index.shards:
        assert info.compression == "zstd:3"
        assert info.hashes == ("sha1", "xxh64")
        assert info.raw.bytes <= 2048
        assert (tmp_path / "out/web/train" / info.zip.basename).stat().st_size == info.zip.bytes


def test_only_the_last_row_of_a_domain_is_dropped_however_many_parts(write_tree, tmp_path, read_rows):
    """Each file is a part of 100 to 200 tokens; rows of 64. The parts' tails are joined and cut too."""
    texts = [chr(97 + at % 26) * (100 + at * 7 % 100) for at in range(20)]
    source = write_tree({f"d/{at:03}.txt": text for at, text in enumerate(texts)})
    summary = run_conversion([str(source)], out=tmp_path / "out", recipe=recipe(seq_len=64, part_bytes=100))
    streams = [[*text.encode(), 256] for text in texts]
    whole = [stream[: len(stream) // 64 * 64] for stream in streams]
    tails = [token for stream, kept in zip(streams, whole) for token in stream[len(kept) :]]
    expected = [*chain.from_iterable(whole), *tails[: len(tails) // 64 * 64]]
    rows = read_rows(tmp_path / "out/d/train")
    assert rows.ravel().tolist() == expected
    assert summary["domains"]["d"]["train"]["dropped_tokens"] == sum(map(len, streams)) - len(expected) < 64
    assert summary["domains"]["d"]["train"]["documents"] == 20


def test_the_output_does_not_depend_on_workers(write_tree, tmp_path, snapshot):
    documents = [{"text": f"{at} " * (at % 50 + 1), "meta": {"set": "ABC"[at % 3]}} for at in range(300)]
    source = write_tree({"d/one.jsonl": jsonl(*documents[:250]), "d/two.jsonl": jsonl(*documents[250:])})
    made = recipe(part_bytes=2000, val_fraction=0.2, domain_key="meta.set")
    for workers in (1, 2):
        run_conversion([str(source / "d")], out=tmp_path / f"out{workers}", recipe=made, workers=workers)
    alone, together = snapshot(tmp_path / "out1"), snapshot(tmp_path / "out2")
    assert alone == together
    assert sum(name.startswith(".convert/parts") and name.endswith(".json") for name in alone) > 5


def test_a_domain_does_not_change_when_another_joins(write_tree, tmp_path, snapshot):
    source = write_tree({f"{domain}/{at}.txt": f"{domain}{at} " * 40 for domain in "ab" for at in range(9)})
    for name, sources in {"one": ["b"], "two": ["a", "b"]}.items():
        run_conversion([str(source / domain) for domain in sources], out=tmp_path / name, recipe=recipe(part_bytes=500))
    assert snapshot(tmp_path / "one/b") == snapshot(tmp_path / "two/b")


def test_val_split_is_by_document_disjoint_and_complete(write_tree, tmp_path, read_rows):
    """Documents are as long as a row less the end, so each row is a document."""
    texts = [f"{at:015}" for at in range(2000)]
    source = write_tree({"d.jsonl": jsonl(*({"text": text} for text in texts))})
    summary = run_conversion([str(source / "d.jsonl")], out=tmp_path / "out", recipe=recipe(val_fraction=0.1))
    train, val = (
        {bytes(row[:-1].tolist()).decode() for row in read_rows(tmp_path / "out/d" / split)}
        for split in ("train", "val")
    )
    assert not train & val
    assert train | val == set(texts)
    assert 140 < len(val) < 260
    assert summary["domains"]["d"]["val"]["documents"] == len(val)


def test_val_split_follows_content_and_seed(write_tree, tmp_path, read_rows):
    """Whatever file or order documents are in, and how often they occur, the same ones are set aside."""
    texts = [f"{at:015}" for at in range(300)]
    lines = [{"text": text} for text in texts]
    source = write_tree({"one.jsonl": jsonl(*lines), "two.jsonl": jsonl(*reversed(lines), *lines)})

    def chosen(name: str, out: str, seed: int) -> set[bytes]:
        made = recipe(val_fraction=0.3, seed=seed, part_bytes=1000)
        run_conversion([f"d={source / name}"], out=tmp_path / out, recipe=made)
        return {bytes(row[:-1].tolist()) for row in read_rows(tmp_path / out / "d/val")}

    first = chosen("one.jsonl", "a", 0)
    assert chosen("two.jsonl", "b", 0) == first
    assert chosen("one.jsonl", "c", 1) != first


def test_domain_key_sorts_lines_into_domains(write_tree, tmp_path, convert_json, read_rows, expected_rows):
    lines = [{"text": f"{at} " * 9, "source": ["Wikipedia (en)", "code"][at % 2]} for at in range(60)]
    source = write_tree({"mix.jsonl": jsonl(*lines)})
    status, told, _ = convert_json(
        source / "mix.jsonl", "--out", tmp_path / "out", "--domain-key", "source", "--seq-len", 32
    )
    assert status == 0
    assert list(told["domains"]) == ["Wikipedia (en)", "code"]
    for name in told["domains"]:
        expected = expected_rows([line["text"] for line in lines if line["source"] == name], 32)
        np.testing.assert_array_equal(read_rows(tmp_path / "out" / name / "train"), expected)


def test_a_rare_domain_is_not_lost_between_parts(write_tree, tmp_path, read_rows):
    """Of `rare` every part holds less than a row."""
    lines = [
        {"text": "r" * 9 if at % 20 == 0 else "c" * 90, "d": "rare" if at % 20 == 0 else "common"} for at in range(200)
    ]
    source = write_tree({"mix.jsonl": jsonl(*lines)})
    made = recipe(part_bytes=1500, domain_key="d")
    run_conversion([str(source / "mix.jsonl")], out=tmp_path / "out", recipe=made)
    assert read_rows(tmp_path / "out/rare/train").ravel().tolist() == ([*b"r" * 9, 256] * 10)[: 100 // 16 * 16]


def test_a_domain_without_a_row_is_a_fault_and_the_others_are_there(write_tree, tmp_path, convert_json, read_rows):
    source = write_tree({"big/a.txt": "x" * 1000, "tiny/a.txt": "too little"})
    status, told, log = convert_json(source, "--out", tmp_path / "out", "--seq-len", 64)
    assert status == 1
    assert "domain 'tiny' is empty: 1 documents, 11 tokens, no row of 64" in told["faults"][0]
    assert told["faults"][0] in log
    assert len(read_rows(tmp_path / "out/big/train")) == 15
    assert not (tmp_path / "out/tiny").exists()


def test_an_empty_val_split_is_a_warning(write_tree, tmp_path, convert_json):
    source = write_tree({"d/a.txt": "x" * 1000})
    status, told, log = convert_json(source / "d", "--out", tmp_path / "out", "--seq-len", 64, "--val-fraction", "1e-9")
    assert status == 0
    assert "'val' is empty" in told["warnings"][0]
    assert "warning: " in log


def test_the_table_shows_every_domain_and_a_total(corpus, tmp_path, capsys):
    from mixstream_tools.cli import main

    assert main(["convert", str(corpus), "--out", str(tmp_path / "out"), "--seq-len", "64", "--workers", "1"]) == 0
    told = capsys.readouterr()
    lines = [line.split() for line in told.out.splitlines()]
    assert lines[0] == ["domain", "split", "documents", "rows", "tokens", "shards", "dropped", "tokens"]
    assert lines[1] == ["code", "train", "1", "4", "256", "1", "45"]
    assert lines[2][:3] == ["web", "train", "4"]
    assert lines[3][0] == "total"
    assert "converted" in told.out
    assert "domain web: 4 files" in told.err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--seq-len", "0"), ("--val-fraction", "1"), ("--seed", "-1"), ("--compression", "lz5")),
        *(("--hashes", "md55"), ("--size-limit", "much"), ("--workers", "0"), ("--tokenizer", "gpt2"), ("--eos", "7")),
    ],
)
def test_options_that_cannot_be_are_refused_before_work(corpus, tmp_path, convert_json, option, value):
    status, told, _ = convert_json(corpus, "--out", tmp_path / "out", option, value)
    assert status == 2
    assert value in told["error"]["message"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["", " "])
def test_an_empty_out_is_not_this_directory(corpus, tmp_path, convert_json, monkeypatch, out):
    """`--out "$UNSET"` wrote into the directory that the command ran in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    status, told, _ = convert_json(corpus, "--out", out, "--seq-len", 64)
    assert (status, told["error"]["message"][:15]) == (2, "--out is empty:")
    assert list((tmp_path / "here").iterdir()) == []
