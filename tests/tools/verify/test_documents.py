"""`mixstream verify` of the documents that convert keeps: their files, and whether they agree with the shards."""

import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from mixstream_tools.cli import main
from mixstream_tools.convert import Fields, Recipe, describe_tokenizer, run_conversion

PART = "documents/part-00001.parquet"


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """`packed` and `documents` of one text, and `other` of another one with as many tokens."""
    top = tmp_path_factory.mktemp("verify")
    for name, rows, step in (("packed", "packed", 1), ("documents", "documents", 1), ("other", "packed", -1)):
        (top / "src" / name).mkdir(parents=True)
        lines = [json.dumps({"text": "x" * (at * 7 % 77 + 1)}) for at in range(150)[::step]]
        (top / "src" / name / "web.jsonl").write_text("\n".join(lines) + "\n")
        made = Recipe(
            tokenizer=describe_tokenizer("bytes"), rows=rows, seq_len=16, fields=Fields(text="text"), part_bytes=2000
        )
        run_conversion([str(top / "src" / name / "web.jsonl")], out=top / name, recipe=made)
    return top


@pytest.fixture
def verify(capsys):
    def run(*arguments):
        capsys.readouterr()
        status = main(["verify", *map(str, arguments), "--download-retry", "1", "--json"])
        return status, json.loads(capsys.readouterr().out)

    return run


def rewritten(dataset, change):
    """Change the lines of a file of documents, so that its size and hash are right."""
    path = dataset / PART
    table = pq.read_table(path)
    pq.write_table(change(table), path, store_schema=False)
    index = json.loads((dataset / "index.json").read_bytes())
    (entry,) = (file for file in index["mixstream"]["documents_files"] if file["basename"] == PART)
    entry["bytes"] = path.stat().st_size
    entry["hashes"]["xxh3_64"] = xxhash.xxh3_64_hexdigest(path.read_bytes())
    entry["lines"] = pq.read_metadata(path).num_rows
    index.pop("hashes", None)
    (dataset / "index.json").write_text(json.dumps({k: v for k, v in index.items() if "hash" not in k}))


def shifted(table):
    rows = table["row"].to_numpy().copy()
    rows[3] += 1
    return table.set_column(table.schema.get_field_index("row"), "row", pa.array(rows))


def renumbered(table):
    return table.set_column(0, "document", pa.array(table["document"].to_numpy() + 1))


@pytest.mark.parametrize("rows", ["packed", "documents"])
def test_what_convert_wrote_is_well(verify, corpora, rows):
    for options in ([], ["--quick"]):
        status, told = verify(corpora / rows, *options)
        assert (status, told["faults"]) == (0, [])
    assert told["datasets"][0]["shards"] > 2


@pytest.mark.parametrize(
    ("damage", "kind", "text"),
    [
        (lambda dataset: (dataset / PART).unlink(), "missing", "not there"),
        (lambda dataset: os.truncate(dataset / PART, 50), "size", "it has 50 bytes"),
        (lambda dataset: rewritten(dataset, shifted), "documents", "does not begin where the one before it ends"),
        (lambda dataset: rewritten(dataset, renumbered), "documents", "its numbers of documents come to"),
        (lambda dataset: rewritten(dataset, lambda t: t.drop_columns(["id"])), "documents", "'id' is missing"),
        (lambda dataset: rewritten(dataset, lambda t: t.slice(0, t.num_rows - 1)), "documents", "does not begin"),
    ],
)
@pytest.mark.parametrize("rows", ["packed", "documents"])
def test_damage_is_found_and_named(verify, corpora, tmp_path, rows, damage, kind, text):
    shutil.copytree(corpora / rows / "web/train", tmp_path / "data")
    damage(tmp_path / "data")
    status, told = verify(tmp_path / "data")
    assert status == 1
    (fault,) = told["faults"]
    assert fault["kind"] == kind
    assert text in fault["what"]


def test_documents_of_other_shards_are_found(verify, corpora, tmp_path):
    """Counts and files are right; only the tokens say that they are of another text."""
    shutil.copytree(corpora / "packed/web/train", tmp_path / "data")
    other = corpora / "other/web/train"
    mine, theirs = (json.loads((each / "index.json").read_bytes()) for each in (tmp_path / "data", other))
    for key in ("documents", "rows", "tokens", "dropped_tokens"):
        assert mine["mixstream"][key] == theirs["mixstream"][key]
    shutil.rmtree(tmp_path / "data/documents")
    shutil.copytree(other / "documents", tmp_path / "data/documents")
    mine["mixstream"] = theirs["mixstream"]
    content = {key: value for key, value in mine.items() if "hash" not in key}
    (tmp_path / "data/index.json").write_text(json.dumps(content))
    status, told = verify(tmp_path / "data")
    assert status == 1
    assert {fault["kind"] for fault in told["faults"]} == {"samples"}
    assert "a document ends where the token is not 256" in told["faults"][0]["what"]
    assert np.all([fault["file"].endswith(".mds") for fault in told["faults"]])
    assert verify(tmp_path / "data", "--samples", 0)[0] == 0
