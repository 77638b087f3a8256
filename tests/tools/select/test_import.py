"""`mixstream select import`: kinds of tables, kinds of keys, and what does not meet."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import xxhash
import zstandard

from mixstream.selection import FAILED, Scores, Selection

TEXTS = ["red", "green", "blue", "grey", "pink", "teal"]
IDS = [f"doc-{at}" for at in range(6)]


@pytest.fixture
def web(write_texts):
    return write_texts("web", TEXTS, ids=IDS)


@pytest.fixture
def lines(tmp_path):
    """Write dicts as JSONL; returns the path."""

    def write(records, name="table.jsonl"):
        data = b"".join(json.dumps(record).encode() + b"\n" for record in records)
        if name.endswith(".gz"):
            data = gzip.compress(data)
        if name.endswith(".zst"):
            data = zstandard.compress(data)
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


@pytest.fixture
def edu(lines):
    """Three documents, in another order than the dataset, and one that the dataset lacks."""
    return lines(
        [
            {"id": "doc-4", "score": 2.5, "int_score": 3, "language": "en"},
            {"id": "doc-0", "score": 1.0, "int_score": 1, "language": "de"},
            {"id": "gone", "score": 9.0, "int_score": 5, "language": "en"},
            {"id": "doc-2", "score": 4.25, "int_score": 4, "language": None},
        ]
    )


def kept(path: Path) -> list[int]:
    found = Selection.open(path)
    found.verify()
    return found.ordinals().tolist()


def test_scores_meet_documents_by_id(select, web, edu, tmp_path) -> None:
    status, document = select("import", edu, "--dataset", web, "--key", "id", "--out", tmp_path / "s", "--side", "high")
    assert status == 0
    scores = Scores.open(tmp_path / "s")
    scores.verify()
    assert scores.columns["score"].higher_is_better is True
    assert scores.columns["int_score"].dtype == "|i1"
    assert scores.column("score").tolist() == [1.0, 0, 4.25, 0, 2.5, 0]
    assert scores.column("int_score").tolist() == [1, 0, 4, 0, 3, 0]
    assert scores.scored.tolist() == [True, False, True, False, True, False]
    assert (document["lines"], document["unmatched_lines"], document["rows_without_a_line"]) == (4, 1, 3)
    assert document["unmatched_examples"] == ["gone"]
    assert all(shard.fingerprint for shard in scores.table.shards)
    assert scores.made["dataset"] == str(web)


def test_a_condition_and_a_selection_at_once(select, web, edu, tmp_path) -> None:
    options = ["--columns", "int_score,language", "--where", "int_score >= 3 and language == 'en'"]
    status, document = select(
        "import",
        edu,
        "--dataset",
        web,
        "--key",
        "id",
        *options,
        "--selection",
        tmp_path / "out",
        "--out",
        tmp_path / "s",
    )
    assert status == 0
    assert kept(tmp_path / "out") == [4]
    assert document["domains"][0]["kept_rows"] == 1
    assert Scores.open(tmp_path / "s").made["categories"] == {"language": ["de", "en"]}
    assert select("where", tmp_path / "s", "language == 'de'", "--out", tmp_path / "de")[0] == 0
    assert kept(tmp_path / "de") == [0]


def test_a_condition_brings_its_columns(select, web, edu, tmp_path) -> None:
    options = ["--dataset", web, "--key", "id", "--selection", tmp_path / "out"]
    assert select("import", edu, *options, "--where", "int_score >= 1 and language == 'en'")[0] == 0
    assert kept(tmp_path / "out") == [4]
    options += ["--columns", "grade=int_score", "--overwrite"]
    assert select("import", edu, *options, "--where", "grade >= 1 and language == 'de'")[0] == 0
    assert kept(tmp_path / "out") == [0]
    status, document = select("import", edu, *options, "--where", "tongue == 'de'")
    assert status == 2
    assert "no column 'tongue' in the columns of" in document["error"]["message"]
    assert "--columns" in document["error"]["message"]


def test_scores_need_not_be_kept(select, web, edu, tmp_path) -> None:
    status, _ = select(
        "import", edu, "--dataset", web, "--key", "id", "--where", "score > 2", "--selection", tmp_path / "out"
    )
    assert status == 0
    found = Selection.open(tmp_path / "out")
    assert found.ordinals().tolist() == [2, 4]
    assert "scores" not in found.made
    assert found.made["imported"]["key"] == "id"


@pytest.mark.parametrize("name", ["t.jsonl.gz", "t.jsonl.zst", "t.ndjson"])
def test_compressed_lines(select, web, lines, tmp_path, name) -> None:
    table = lines([{"id": "doc-1", "s": 1}, {"id": "doc-2", "s": 2.5}], name)
    assert select("import", table, "--dataset", web, "--key", "id", "--out", tmp_path / "s")[0] == 0
    assert Scores.open(tmp_path / "s").column("s").tolist()[:3] == [0, 1, 2.5]


def test_parquet_with_nested_fields_and_nulls(select, web, tmp_path) -> None:
    table = pa.table(
        {
            "url": ["doc-3", "doc-1", "doc-5"],
            "metadata": pa.array([{"q": 1.5, "lang": "en"}, None, {"q": None, "lang": "de"}]),
            "f": pa.array([0.5, 0.25, 0.75], pa.float32()),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    columns = ["--columns", "metadata.q", "lang=metadata.lang", "f"]
    status, document = select(
        "import", tmp_path / "t.parquet", "--dataset", web, "--key", "url=id", *columns, "--out", tmp_path / "s"
    )
    assert status == 0
    scores = Scores.open(tmp_path / "s")
    assert scores.scored.tolist() == [False, False, False, True, False, False]
    assert scores.columns["f"].dtype == "<f4"
    assert document["nulls"] == {"q": 2, "lang": 1}
    assert scores.flags.tolist()[1] == FAILED


def test_dolma_attributes(select, web, lines, tmp_path) -> None:
    table = lines(
        [
            {"id": "doc-0", "attributes": {"tagger__toxic": [[0, 10, 0.5]], "x__y": [[0, 1, 1.0], [1, 4, 0.0]]}},
            {"id": "doc-1", "attributes": {"tagger__toxic": [], "x__y": []}},
        ]
    )
    options = ["--columns", "attributes.tagger__toxic,attributes.x__y"]
    assert select("import", table, "--dataset", web, "--key", "id", *options, "--out", tmp_path / "s")[0] == 0
    scores = Scores.open(tmp_path / "s")
    assert scores.column("x__y").tolist()[:1] == [0.25]
    assert scores.scored.tolist()[:2] == [True, False]
    select("import", table, "--dataset", web, "--key", "id", *options, "--spans", "sum", "--out", tmp_path / "t")
    assert Scores.open(tmp_path / "t").column("x__y").tolist()[:2] == [1.0, 0.0]
    assert Scores.open(tmp_path / "t").scored.tolist()[:2] == [True, True]


def test_dsdm_tensors(select, web, tmp_path) -> None:
    torch.save(torch.arange(6, dtype=torch.float32), tmp_path / "metrics.pt")
    options = ["--key", "ordinal", "--side", "high", "--out", tmp_path / "s"]
    assert select("import", tmp_path / "metrics.pt", "--dataset", web, *options)[0] == 0
    assert Scores.open(tmp_path / "s").column("score").tolist() == [0, 1, 2, 3, 4, 5]


def test_tensors_are_never_unpickled(select, web, tmp_path) -> None:
    torch.save({"score": Path("/")}, tmp_path / "bad.pt")
    status, document = select(
        "import", tmp_path / "bad.pt", "--dataset", web, "--key", "ordinal", "--out", tmp_path / "s"
    )
    assert status == 1
    assert "weights_only" in document["error"]["message"]


def test_lists_of_ids(select, web, lines, tmp_path) -> None:
    table = lines([{"id": "doc-1"}, {"id": "doc-3"}])
    for option, expected in (("--drop-listed", [0, 2, 4, 5]), ("--keep-listed", [1, 3])):
        place = tmp_path / option
        assert select("import", table, "--dataset", web, "--key", "id", option, "--selection", place)[0] == 0
        assert kept(place) == expected


def test_other_keys(select, web, lines, tmp_path) -> None:
    hashes = [xxhash.xxh3_64_hexdigest(text.encode()) for text in ("pink", "red")]
    tables = {
        "content:text": [{"key": hashes[0], "s": 4}, {"key": hashes[1], "s": 1}],
        "text": [{"text": "pink", "s": 4}, {"text": "red", "s": 1}],
        "ordinal": [{"ordinal": 4, "s": 4}, {"ordinal": 0, "s": 1}, {"ordinal": 6, "s": 9}, {"ordinal": -1, "s": 9}],
        "shard,row": [
            {"shard": "part001/shard.00000.mds", "row": 0, "s": 4},
            {"shard": "part000/shard.00000.mds", "row": 0, "s": 1},
            {"shard": "part001/shard.00000.mds", "row": 2, "s": 9},
            {"shard": "absent", "row": 0, "s": 9},
        ],
    }
    for key, records in tables.items():
        place = tmp_path / key.replace(",", "").replace(":", "")
        options = ["--key", key, "--columns", "s", "--out", place]
        status, document = select("import", lines(records), "--dataset", web, *options)
        assert status == 0, document
        assert Scores.open(place).column("s").tolist() == [1, 0, 0, 0, 4, 0], key
        assert document["unmatched_lines"] == len(records) - 2


def test_shards_by_number(select, web, lines, tmp_path) -> None:
    table = lines([{"shard": 1, "row": 1, "s": 5}, {"shard": 7, "row": 0, "s": 5}])
    status, document = select("import", table, "--dataset", web, "--key", "shard,row", "--out", tmp_path / "s")
    assert status == 0
    assert Scores.open(tmp_path / "s").column("s").tolist() == [0, 0, 0, 0, 0, 5]
    assert document["unmatched_lines"] == 1


def test_integer_ids_meet_their_digits(select, write_texts, lines, tmp_path) -> None:
    web = write_texts("web", ["a", "b"], ids=["17", "18"])
    select("import", lines([{"id": 18, "s": 1}]), "--dataset", web, "--key", "id", "--out", tmp_path / "s")
    assert Scores.open(tmp_path / "s").scored.tolist() == [False, True]


def test_rows_with_one_key_meet_one_line(select, write_texts, lines, tmp_path) -> None:
    web = write_texts("web", ["a1", "a2", "b1"], ids=["a", "a", "b"])
    select("import", lines([{"id": "a", "s": 0.5}]), "--dataset", web, "--key", "id", "--out", tmp_path / "s")
    assert Scores.open(tmp_path / "s").column("s").tolist() == [0.5, 0.5, 0]


def test_lines_about_one_row(select, web, lines, tmp_path) -> None:
    table = lines([{"id": "doc-1", "s": 1}, {"id": "doc-2", "s": 5}, {"id": "doc-1", "s": 2}])
    options = ["--dataset", web, "--key", "id", "--out", tmp_path / "s"]
    status, document = select("import", table, *options)
    assert status == 1
    assert "'doc-1' comes again in line 3" in document["error"]["message"]
    assert "--duplicates" in document["error"]["message"]
    assert not (tmp_path / "s").exists()
    for which, expected in (("first", 1), ("last", 2)):
        select("import", table, *options, "--duplicates", which, "--overwrite")
        assert Scores.open(tmp_path / "s").column("s").tolist()[1] == expected


def test_several_domains_share_a_table(select, write_texts, edu, tmp_path) -> None:
    write_texts("all/web", ["x"], ids=["doc-4"])
    write_texts("all/code", ["y", "z"], ids=["q", "doc-0"])
    options = ["--dataset", tmp_path / "all", "--key", "id", "--columns", "score", "--out", tmp_path / "s"]
    status, document = select("import", edu, *options)
    assert status == 0
    assert document["unmatched_lines"] == 2
    assert Scores.open(tmp_path / "s" / "web").column("score").tolist() == [2.5]
    assert Scores.open(tmp_path / "s" / "code").column("score").tolist() == [0, 1.0]


def test_a_directory_of_tables(select, web, lines, tmp_path) -> None:
    (tmp_path / "d").mkdir()
    lines([{"id": "doc-1", "s": 1}], "d/a.jsonl")
    lines([{"id": "doc-2", "s": 2}], "d/b.jsonl.gz")
    (tmp_path / "d" / "readme.txt").write_text("no table")
    assert select("import", tmp_path / "d", "--dataset", web, "--key", "id", "--out", tmp_path / "s")[0] == 0
    assert Scores.open(tmp_path / "s").column("s").tolist()[:3] == [0, 1, 2]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"id": "doc-1", "s": 1}\n{"id": ', "line 2"),
        (b"[1, 2]\n", "line 1 is no object"),
        (b'{"id": "doc-1", "s": NaN}\n', "line 1"),
        (b'{"id": "doc-1", "s": 1}\n{"s": 1}\n', "line 2 has no 'id'"),
        (b'{"id": 1.5, "s": 1}\n', "a key is 1.5"),
        (b'{"id": "doc-1", "s": 1}\n{"id": "doc-2", "s": "x"}\n', "'x'"),
        (b'{"id": "doc-1", "s": {}}\n', "'s'"),
        (b'{"id": "nobody", "s": 1}\n', "none of 1 lines"),
        (b'{"id": "doc-1", "s": 9007199254740993}\n{"id": "doc-2", "s": 0.5}\n', "2\\*\\*53"),
        (b'{"id": "doc-1", "s": 99999999999999999999999}\n', "'s'|99999999|64 bits"),
        (b'{"id": "doc-1", "s": null}\n', "no line has|no value"),
    ],
)
def test_damaged_tables_are_refused_by_name(select, web, tmp_path, content, expected) -> None:
    import re

    (tmp_path / "t.jsonl").write_bytes(content)
    options = ["--dataset", web, "--key", "id", "--columns", "s", "--out", tmp_path / "s"]
    status, document = select("import", tmp_path / "t.jsonl", *options)
    assert status in {1, 2}
    assert re.search(expected, document["error"]["message"] + " ".join(document["error"]["notes"])), document
    assert not (tmp_path / "s" / "manifest.json").exists()


def test_damaged_files_are_refused_by_name(select, web, tmp_path) -> None:
    for name in ("t.parquet", "t.jsonl.gz", "t.jsonl.zst"):
        (tmp_path / name).write_bytes(b"nonsense nonsense nonsense")
        status, document = select(
            "import", tmp_path / name, "--dataset", web, "--key", "id", "--columns", "s", "--out", tmp_path / "s"
        )
        assert status == 1
        assert name in document["error"]["message"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--key", "id"], "--out"),
        (["--key", "a,b", "--out", "s"], "--key a,b"),
        (["--key", "id=", "--out", "s"], "--key id="),
        (["--key", "name", "--out", "s"], "no column 'name'"),
        (["--key", "id", "--where", "score > 1", "--out", "s"], "--selection"),
        (["--key", "id", "--where", "quality > 1", "--selection", "s"], "no column 'quality'"),
        (["--key", "id", "--keep-listed", "--drop-listed", "--selection", "s"], "exclude"),
        (["--key", "id", "--keep-listed", "--out", "s", "--selection", "t"], "no columns"),
        (["--key", "id", "--columns", "absent", "--out", "s"], "'absent'"),
        (["--key", "id", "--columns", "a=score,a=int_score", "--out", "s"], "both be called 'a'"),
    ],
)
def test_wrong_use_is_named(select, web, edu, tmp_path, monkeypatch, options, expected) -> None:
    monkeypatch.chdir(tmp_path)
    status, document = select("import", edu, "--dataset", web, *options)
    assert status == 2
    assert expected in document["error"]["message"]
    assert not (tmp_path / "s" / "manifest.json").exists()


def test_a_dry_run_reports_and_writes_nothing(select, web, edu, tmp_path) -> None:
    options = ["--where", "int_score >= 3", "--selection", tmp_path / "o", "--out", tmp_path / "s", "--dry-run"]
    status, document = select("import", edu, "--dataset", web, "--key", "id", *options)
    assert status == 0
    assert document["domains"][0]["kept_rows"] == 2
    assert not (tmp_path / "o").exists()
    assert not (tmp_path / "s").exists()


def test_people_are_told_what_did_not_meet(shown, web, edu, tmp_path) -> None:
    text = shown("import", edu, "--dataset", web, "--key", "id", "--out", tmp_path / "s")
    assert "1 of 4 lines are about no row of the dataset, such as 'gone'" in text
    assert "3 rows have no line" in text


def test_a_list_leaves_out_rows_without_a_note(shown, web, lines, tmp_path) -> None:
    options = ["--dataset", web, "--key", "id", "--selection", tmp_path / "s", "--overwrite"]
    for which in ("--drop-listed", "--keep-listed"):
        assert "note:" not in shown("import", lines([{"id": "doc-1"}]), *options, which)


def test_memory_does_not_grow_with_the_table(select, write_texts, tmp_path) -> None:
    rows = 200_000
    web = write_texts("web", ["x"])
    index = json.loads((web / "index.json").read_text())
    index["shards"][0] |= {"samples": rows, "hashes": []}
    index["shards"][0]["raw_data"] |= {"bytes": 100 * rows, "hashes": {}}
    (web / "index.json").write_text(json.dumps(index))  # of a shard that is never read, since ordinals are enough
    order = np.random.default_rng(0).permutation(rows)
    pq.write_table(pa.table({"ordinal": order, "score": order.astype(np.float32)}), tmp_path / "t.parquet")
    tracemalloc.start()
    try:
        status, _ = select(
            "import", tmp_path / "t.parquet", "--dataset", web, "--key", "ordinal", "--out", tmp_path / "s"
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert status == 0
    assert Scores.open(tmp_path / "s").column("score")[[0, 17, rows - 1]].tolist() == [0, 17, rows - 1]
    assert peak < 25 * rows + (8 << 20)  # bytes; blocks of a fixed size come on top
