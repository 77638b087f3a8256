"""`select export`, `key` and `rebase`: tables that come back, and rows that are found again in new shards."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import xxhash
import zstandard

from mixstream import MDSWriter
from mixstream.selection import (
    DomainRows,
    Scores,
    Selection,
    provenance,
    write_buckets,
    write_selection,
)

pytestmark = pytest.mark.usefixtures("warm_spawn")  # the commands have worker processes

TEXTS = ["red", "green", "blue", "red", "pink", "teal", "red"]


@pytest.fixture
def web(write_texts):
    return write_texts("web", TEXTS, ids=["x"] * 7, per_shard=3)


@pytest.fixture
def scores(write_scores, web):
    return write_scores(
        "scores",
        {
            "score": np.arange(7, dtype=np.float32),
            "language": np.array([0, 1, -1, 1, 0, 0, 0], dtype=np.int32),
            "vector": np.arange(14, dtype=np.float32).reshape(7, 2),
        },
        dataset=web,
        flags=[1, 1, 1, 1, 1, 1, 4],
        categories={"language": ["de", "en"]},
    )


@pytest.fixture
def keep(tmp_path, scores):
    def write(name: str, rows: list[int]) -> Path:
        place = tmp_path / name
        write_selection(
            place, domain="web", table=Scores.open(scores).table, kept=rows, rule={"kind": "test"}, parents={},
            made=provenance({}),
        )  # fmt: skip
        return place

    return write


def texts_of(dataset: Path, selection: Selection, bucket: int = 0) -> list[str]:
    rows = DomainRows.open(str(dataset), name="web")
    texts = [text for block in rows.blocks(column="text") for text in block.values]
    return [texts[at] for at in selection.ordinals(bucket).tolist()]


def test_scores_go_out_and_come_back(select, web, scores, tmp_path) -> None:
    status, document = select("export", scores, "--to", tmp_path / "t.parquet")
    assert (status, document["rows"]) == (0, 6)
    found = pq.read_table(tmp_path / "t.parquet").to_pydict()
    assert found["shard"][:4] == ["part000/shard.00000.mds"] * 3 + ["part001/shard.00000.mds"]
    assert found["row"] == [0, 1, 2, 0, 1, 2]
    assert found["language"] == ["de", "en", None, "en", "de", "de"]
    assert found["vector"][1] == [2.0, 3.0]
    options = ["--columns", "score,language", "--out", tmp_path / "back"]
    select("import", tmp_path / "t.parquet", "--dataset", web, "--key", "shard,row", *options)
    back, before = Scores.open(tmp_path / "back"), Scores.open(scores)
    for name in ("score", "language"):
        assert back.column(name)[:6].tolist() == before.column(name)[:6].tolist()
    assert back.scored.tolist() == before.scored.tolist()
    assert back.columns["score"].dtype == "<f4"


@pytest.fixture
def corpus(write_texts, write_scores, tmp_path) -> Path:
    """Two domains whose shards have equal names, and scores of both."""
    for name, rows in (("code", 6), ("web", 9)):
        dataset = write_texts(f"corpus/{name}", [f"{name} {at}" for at in range(rows)], per_shard=3)
        values = {"score": np.arange(rows) / 7 + (name == "web"), "n_tokens": np.arange(rows, dtype=np.uint32)}
        write_scores(
            f"scores/{name}", values, dataset=dataset, domain=name, flags=(np.arange(rows) % 4 < 3).astype(int)
        )
    return tmp_path / "corpus"


@pytest.mark.parametrize("key", ["shard,row", "ordinal"])
@pytest.mark.parametrize("name", ["t.parquet", "t.jsonl"])
def test_several_domains_go_out_and_come_back(select, corpus, tmp_path, key, name) -> None:
    select("export", tmp_path / "scores", "--to", tmp_path / name)
    options = ["--key", key, "--side", "high", "--out", tmp_path / "back"]
    status, document = select("import", tmp_path / name, "--dataset", corpus, *options)
    assert (status, document["unmatched_lines"]) == (0, 0)
    for domain in ("code", "web"):
        back, before = Scores.open(tmp_path / "back" / domain), Scores.open(tmp_path / "scores" / domain)
        assert set(back.columns) == {"score", "n_tokens"}
        assert back.scored.tolist() == before.scored.tolist()
        for column in back.columns:
            there = before.scored
            assert back.column(column)[there].tolist() == before.column(column)[there].tolist()


def test_several_domains_of_a_selection_come_back(select, corpus, tmp_path) -> None:
    select("random", tmp_path / "scores", "--rows", 2, "--each", "--out", tmp_path / "sel")
    select("export", tmp_path / "sel", "--to", tmp_path / "t.jsonl")
    options = ["--key", "shard,row", "--keep-listed", "--selection", tmp_path / "back"]
    assert select("import", tmp_path / "t.jsonl", "--dataset", corpus, *options)[0] == 0
    for domain in ("code", "web"):
        back, before = Selection.open(tmp_path / "back" / domain), Selection.open(tmp_path / "sel" / domain)
        assert back.ordinals().tolist() == before.ordinals().tolist()


@pytest.mark.parametrize("key", ["shard,row", "ordinal"])
def test_lines_of_another_domain_are_about_no_row(select, corpus, tmp_path, key) -> None:
    select("export", tmp_path / "scores", "--to", tmp_path / "t.parquet")
    options = ["--key", key, "--keep-listed", "--selection", tmp_path / "kept"]
    status, document = select("import", tmp_path / "t.parquet", "--dataset", f"code={corpus / 'code'}", *options)
    assert (status, document["unmatched_lines"]) == (0, 7)
    assert document["unmatched_examples"][0].startswith("domain web, ")
    assert Selection.open(tmp_path / "kept").ordinals().tolist() == [0, 1, 2, 4, 5]


def test_a_table_of_another_domain_is_refused(select, corpus, tmp_path) -> None:
    select("export", tmp_path / "scores" / "code", "--to", tmp_path / "t.parquet")
    options = ["--key", "shard,row", "--out", tmp_path / "wrong"]
    status, document = select("import", tmp_path / "t.parquet", "--dataset", corpus / "web", *options)
    assert status == 1
    assert "'domain code, shard part000/shard.00000.mds, row 0'" in document["error"]["message"]
    assert "--dataset NAME=URL" in document["error"]["message"]
    assert not (tmp_path / "wrong").exists()
    status, _ = select("import", tmp_path / "t.parquet", "--dataset", f"code={corpus / 'code'}", *options)
    assert status == 0


def test_positions_without_a_domain_are_of_one_domain(select, corpus, tmp_path) -> None:
    (tmp_path / "t.jsonl").write_text('{"shard": 0, "row": 1, "s": 2}\n' * 2)
    options = ["--key", "shard,row", "--out", tmp_path / "s"]
    status, document = select("import", tmp_path / "t.jsonl", "--dataset", corpus, *options)
    assert status == 2
    assert "a column with the name of the domain" in document["error"]["message"]
    _, document = select("import", tmp_path / "t.jsonl", "--dataset", corpus / "web", *options)
    assert "shard 0, row 1 comes again in line 2" in document["error"]["message"]


def test_a_column_that_hides_a_place_does_not_go_out(select, write_scores, web, tmp_path) -> None:
    place = write_scores("odd", {"row": np.arange(7.0), "score": np.arange(7.0)}, dataset=web)
    status, document = select("export", place, "--to", tmp_path / "t.jsonl")
    assert status == 2
    assert "a column 'row'" in document["error"]["message"]
    assert select("export", place, "--columns", "score", "--to", tmp_path / "t.jsonl")[0] == 0


@pytest.mark.parametrize(
    ("name", "unpack"), [("a.jsonl", bytes), ("a.jsonl.gz", gzip.decompress), ("a.jsonl.zst", None)]
)
def test_lines_with_and_without_a_score(select, scores, tmp_path, name, unpack) -> None:
    select("export", scores, "--columns", "score", "--unscored", "--to", tmp_path / name)
    data = (tmp_path / name).read_bytes()
    text = unpack(data) if unpack else zstandard.ZstdDecompressor().stream_reader(data).read()
    records = [json.loads(line) for line in text.splitlines()]
    assert [record["score"] for record in records] == [0, 1, 2, 3, 4, 5, None]
    assert records[6] == {
        "domain": "web",
        "shard": "part002/shard.00000.mds",
        "row": 0,
        "ordinal": 6,
        "score": None,
    }
    select("export", scores, "--unscored", "--to", tmp_path / "u.parquet")
    assert pq.read_table(tmp_path / "u.parquet").to_pydict()["vector"][6] is None


def test_a_selection_goes_out(select, scores, keep, tmp_path) -> None:
    select("export", keep("sel", [1, 3, 6]), "--to", tmp_path / "s.jsonl")
    records = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [(record["shard"][:7], record["row"]) for record in records] == [
        ("part000", 1),
        ("part001", 0),
        ("part002", 0),
    ]
    select("split", scores, "--column", "language", "--out", tmp_path / "split")
    select("export", tmp_path / "split", "--within", keep("in", [1, 2]), "--to", tmp_path / "b.parquet")
    assert pq.read_table(tmp_path / "b.parquet").to_pydict()["bucket"] == ["language=-1", "language=en"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--to", "x.csv"], ".parquet"),
        (["--to", "there.jsonl"], "exists"),
        (["--to", "x.jsonl", "--columns", "absent"], "no column absent"),
    ],
)
def test_export_refuses_by_name(select, scores, tmp_path, monkeypatch, options, expected) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.jsonl").write_text("mine")
    status, document = select("export", scores, *options)
    assert status == 2
    assert expected in document["error"]["message"]
    assert (tmp_path / "there.jsonl").read_text() == "mine"
    assert not list(tmp_path.glob(".*partial"))


def test_keys_are_hashes_of_contents(select, web, tmp_path) -> None:
    status, _ = select("key", web, "--out", tmp_path / "k", "--parts", "2", "--workers", "1")
    assert status == 0
    keys = Scores.open(tmp_path / "k").column("key")
    rows = DomainRows.open(str(web), name="web")
    record = rows.domain.record(0, 1, rows.domain.map(0)).tobytes()
    assert int(keys[1]) == xxhash.xxh3_64_intdigest(record)
    assert keys[0] == keys[3] == keys[6] != keys[1]
    assert all(shard.fingerprint for shard in Scores.open(tmp_path / "k").table.shards)
    select("key", web, "--of", "text", "--out", tmp_path / "t")
    assert int(Scores.open(tmp_path / "t").column("key")[2]) == xxhash.xxh3_64_intdigest(b"blue")


def test_parts_of_keys_do_not_change_them(select, web, tmp_path) -> None:
    for part in range(2):
        status, document = select("key", web, "--out", tmp_path / "a", "--part", f"{part}/2")
        assert document["domains"][0]["path"] is None
    assert select("merge", tmp_path / "a")[0] == 0
    select("key", web, "--out", tmp_path / "b")
    assert Scores.open(tmp_path / "a").id == Scores.open(tmp_path / "b").id
    status, _ = select("key", web, "--out", tmp_path / "b")  # nothing is left to do
    assert status == 0


def test_a_selection_follows_its_texts_into_new_shards(select, write_texts, web, keep, tmp_path) -> None:
    select("key", web, "--out", tmp_path / "k")
    new = write_texts(
        "new", ["teal", "red", "blue", "red", "pink", "red", "other", "green"], ids=["x"] * 8, per_shard=5
    )
    old = Selection.open(keep("sel", [1, 3, 5, 6]))
    assert texts_of(web, old) == ["green", "red", "teal", "red"]
    options = ["--to", new, "--keys", tmp_path / "k", "--out", tmp_path / "moved"]
    status, document = select("rebase", tmp_path / "sel", *options)
    assert status == 0
    assert (document["domains"][0]["found"], document["domains"][0]["missing"]) == (4, 0)
    moved = Selection.open(tmp_path / "moved")
    moved.verify()
    assert sorted(texts_of(new, moved)) == ["green", "red", "red", "teal"]
    assert moved.parents == {"rebased": old.id}
    assert moved.made["dataset"] == str(new)
    assert moved.ordinals().tolist() == [0, 3, 5, 7]  # the second and third "red"


def test_scores_follow_their_texts(select, write_texts, web, scores, tmp_path) -> None:
    select("key", web, "--out", tmp_path / "k")
    new = write_texts("new", ["teal", "red", "other", "blue"], ids=["x"] * 4)
    options = ["--to", new, "--keys", tmp_path / "k", "--out", tmp_path / "moved"]
    status, document = select("rebase", scores, *options)
    assert status == 1
    assert "3 of 6 rows" in document["error"]["message"]
    assert "part000/shard.00000.mds row 1" in document["error"]["message"]
    assert not (tmp_path / "moved").exists()
    assert select("rebase", scores, *options, "--drop-missing")[0] == 0
    moved = Scores.open(tmp_path / "moved")
    assert moved.column("score").tolist() == [5, 0, 0, 2]
    assert moved.scored.tolist() == [True, True, False, True]
    assert moved.column("vector")[3].tolist() == [4, 5]
    assert moved.made["categories"] == {"language": ["de", "en"]}


def test_packed_rows_do_not_survive_an_edit(select, tmp_path) -> None:
    def pack(name: str, tokens: np.ndarray) -> Path:
        with MDSWriter(out=str(tmp_path / name), columns={"tokens": "ndarray:uint16:8"}) as writer:
            for row in tokens[: len(tokens) // 8 * 8].reshape(-1, 8):
                writer.write({"tokens": row.astype(np.uint16)})
        return tmp_path / name

    tokens = np.arange(160)
    old, new = pack("old", tokens), pack("new", np.delete(tokens, 30))
    select("key", old, "--out", tmp_path / "k")
    select("random", old, "--fraction", 1, "--out", tmp_path / "sel")
    options = ["--to", new, "--keys", tmp_path / "k", "--out", tmp_path / "moved"]
    for more in ([], ["--drop-missing"]):
        status, document = select("rebase", tmp_path / "sel", *options, *more)
        assert status == 1
        assert "17 of 20 rows" in document["error"]["message"]
        assert "packed rows after an edit" in document["error"]["message"]
        assert not (tmp_path / "moved").exists()
    status, document = select("rebase", tmp_path / "sel", *options, "--drop-missing", "--min-found", 0.15)
    assert (status, document["domains"][0]["found"]) == (0, 3)
    assert select("rebase", tmp_path / "sel", *options, "--min-found", 2)[0] == 2


def test_renamed_shards_need_no_keys(select, web, keep, tmp_path) -> None:
    new = tmp_path / "renamed"
    shutil.copytree(web, new)
    index = json.loads((new / "index.json").read_text())
    index["shards"] = index["shards"][::-1][:2]
    (new / "part001").rename(new / "other")
    index["shards"][1]["raw_data"]["basename"] = "other/shard.00000.mds"
    (new / "index.json").write_text(json.dumps(index))
    status, document = select("rebase", keep("sel", [3, 5, 6]), "--to", new, "--out", tmp_path / "moved")
    assert status == 0
    assert document["domains"][0]["by"] == "shard"
    assert texts_of(new, Selection.open(tmp_path / "moved")) == ["red", "red", "teal"]
    status, document = select("rebase", keep("gone", [0, 3]), "--to", new, "--out", tmp_path / "x")
    assert status == 1
    assert "--keys" in document["error"]["message"]


def test_buckets_are_moved_as_they_are(select, web, scores, tmp_path) -> None:
    table = Scores.open(scores).table
    write_buckets(
        tmp_path / "b", domain="web", table=table, bucket=np.array([1, 0, -1, 1, 0, 0, 1]), names=["p", "q"], rule={},
        parents={}, made=provenance({}),
    )  # fmt: skip
    assert select("rebase", tmp_path / "b", "--to", web, "--out", tmp_path / "moved")[0] == 0
    moved = Selection.open(tmp_path / "moved")
    assert moved.buckets == ("p", "q")
    assert moved.id == Selection.open(tmp_path / "b").id
