"""`select where`, `combine`, `random`, `split`, `diff` and `merge`: which rows, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mixstream.errors import ConfigError
from mixstream.selection import (
    Column,
    Scores,
    ScoresWriter,
    Selection,
    ShardIdentity,
    ShardTable,
    difference,
    provenance,
    write_selection,
)
from mixstream_tools.cli import main

TABLE = ShardTable(shards=tuple(ShardIdentity(name=f"{at}.mds", samples=n, raw_bytes=9) for at, n in enumerate([3, 5])))


def ordinals(path: Path) -> list[int]:
    selection = Selection.open(path)
    selection.verify()
    return selection.ordinals().tolist()


@pytest.fixture
def keep(tmp_path):
    def write(name: str, rows, *, table=TABLE, domain="web", **facts) -> Path:
        place = tmp_path / name
        write_selection(
            place, domain=domain, table=table, kept=np.asarray(rows, dtype=np.int64), rule={"kind": name}, parents={},
            made=provenance({"rows": list(rows)}, **facts),
        )  # fmt: skip
        return place

    return write


@pytest.fixture
def edu(write_scores):
    """int_score, a language as categories (-1: none), and a score, of 6 rows, of which the last has no score."""
    return write_scores(
        "edu",
        {
            "int_score": np.array([1, 3, 5, 4, 0, 9], dtype=np.int8),
            "language": np.array([0, 1, 1, -1, 0, 1], dtype=np.int32),
            "score": np.array([0.1, 0.3, 0.5, 0.4, 0.0, 0.9], dtype=np.float32),
            "vector": np.zeros((6, 3), dtype=np.float32),
        },
        samples=[2, 4],
        flags=[1, 1, 1, 1, 1, 2],
        categories={"language": ["de", "en"]},
    )


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("int_score >= 3", [1, 2, 3]),
        ("int_score >= 3 and language == 'en'", [1, 2]),
        ("language != 'en'", [0, 3, 4]),
        ("not language in ['en', 'de']", [3]),
        ("score * 10 < int_score or ordinal == 0", [0]),
    ],
)
def test_where_keeps_the_rows_for_which_it_holds(select, edu, tmp_path, condition, expected) -> None:
    status, document = select("where", edu, condition, "--out", tmp_path / "out")
    assert status == 0
    assert ordinals(tmp_path / "out") == expected
    assert document["domains"][0]["rule"] == {"kind": "where", "condition": condition}
    assert Selection.open(tmp_path / "out").made["categories"] == {"language": ["de", "en"]}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("quality > 1", "no column 'quality'"),
        ("vector > 1", "no column 'vector'"),
        ("language == 1", "texts"),
        ("exit()", "not allowed"),
    ],
)
def test_where_refuses_by_name(select, edu, tmp_path, condition, expected) -> None:
    status, document = select("where", edu, condition, "--out", tmp_path / "out")
    assert status == 2
    assert expected in document["error"]["message"]


def test_where_within_a_selection(select, edu, keep, tmp_path) -> None:
    table = Scores.open(edu).table
    select("where", edu, "int_score > 0", "--within", keep("in", [0, 2], table=table), "--out", tmp_path / "out")
    assert ordinals(tmp_path / "out") == [0, 2]


def test_combine_from_the_command_line(select, keep, tmp_path) -> None:
    one, other = keep("one", [1, 3, 5]), keep("other", [3, 4, 5])
    status, document = select("combine", one, "--and", other, "--out", tmp_path / "out")
    assert status == 0
    assert ordinals(tmp_path / "out") == [3, 5]
    assert document["domains"][0]["kept_rows"] == 2
    status, document = select("combine", one, "--or", other, "--dry-run", "--out", tmp_path / "dry")
    assert document["domains"][0]["kept_rows"] == 4
    assert not (tmp_path / "dry").exists()
    assert Selection.open(tmp_path / "out").parents.keys() == {"one", "other"}


def test_selections_of_other_shards_are_refused(select, keep, tmp_path) -> None:
    other = ShardTable(shards=(ShardIdentity(name="0.mds", samples=8, raw_bytes=9),))
    status, document = select(
        "combine", keep("one", [1]), "--minus", keep("other", [1], table=other), "--out", tmp_path / "out"
    )
    assert status == 2
    assert "rebase" in document["error"]["message"]
    assert "'0.mds'" in document["error"]["message"]
    with pytest.raises(ConfigError):
        difference(Selection.open(tmp_path / "one"), Selection.open(tmp_path / "other"))


def test_domains_that_one_side_lacks_are_refused(select, keep, tmp_path) -> None:
    keep("a/web", [1])
    keep("b/web", [1])
    keep("b/code", [2], domain="code")
    for pair in (("a", "b"), ("b", "a")):
        status, document = select("combine", tmp_path / pair[0], "--or", tmp_path / pair[1], "--out", tmp_path / "out")
        assert status == 2
        assert "code" in document["error"]["message"]
        assert select("diff", tmp_path / pair[0], tmp_path / pair[1])[0] == 2


@pytest.mark.parametrize("operations", [[], ["--and", "x", "--or", "y"]])
def test_combine_needs_one_operation(select, keep, tmp_path, operations) -> None:
    status, document = select("combine", keep("one", [1]), *operations, "--out", tmp_path / "out")
    assert status == 2
    assert "--minus" in document["error"]["message"]


def test_diff_reports_the_shared_rows(select, shown, keep) -> None:
    one, other = keep("one", [1, 3, 5]), keep("other", [3, 4, 5])
    status, document = select("diff", one, other)
    assert status == 0
    assert document["all"] == {"both": 2, "only_a": 1, "only_b": 1, "jaccard": 0.5}
    assert "0.500" in shown("diff", one, other)


def test_random_rows_of_a_dataset(select, write_texts, tmp_path) -> None:
    data = write_texts("web", [str(at) for at in range(10)])
    status, _ = select("random", data, "--fraction", "0.3", "--out", tmp_path / "a")
    assert status == 0
    assert len(ordinals(tmp_path / "a")) == 3
    select("random", data, "--rows", "3", "--out", tmp_path / "b")
    assert ordinals(tmp_path / "a") == ordinals(tmp_path / "b")
    select("random", data, "--like", tmp_path / "a", "--seed", "7", "--out", tmp_path / "c")
    assert len(ordinals(tmp_path / "c")) == 3
    assert ordinals(tmp_path / "c") != ordinals(tmp_path / "a")
    select("random", data, "--inverse", tmp_path / "a", "--out", tmp_path / "d")
    assert sorted(ordinals(tmp_path / "d") + ordinals(tmp_path / "a")) == list(range(10))
    select("random", data, "--inverse", tmp_path / "a", "--like", tmp_path / "a", "--out", tmp_path / "e")
    assert len(ordinals(tmp_path / "e")) == 3
    assert set(ordinals(tmp_path / "e")) <= set(ordinals(tmp_path / "d"))
    assert Selection.open(tmp_path / "a").made["dataset"] == str(data)


@pytest.mark.parametrize(
    ("options", "expected"),
    [([], "--like SEL"), (["--rows", "3", "--like", "x"], "gives the budget"), (["--tokens", "5"], "--row-tokens")],
)
def test_random_refuses_by_name(select, write_texts, tmp_path, options, expected) -> None:
    status, document = select("random", write_texts("web", ["a", "b"]), *options, "--out", tmp_path / "out")
    assert status == 2
    assert expected in document["error"]["message"]


@pytest.fixture
def two(write_scores, tmp_path):
    for name, rows in (("code", 6), ("web", 30)):
        columns = {"score": np.zeros(rows), "n_tokens": np.full(rows, 10, dtype=np.uint32)}
        write_scores(f"two/{name}", columns, domain=name)
    return tmp_path / "two"


@pytest.mark.parametrize(
    ("options", "code", "all_rows"),
    [
        (["--rows", 4, "--each"], 4, 8),
        (["--fraction", 0.5, "--each"], 3, 18),
        (["--per-domain", "code=.5", "web=7rows"], 3, 10),
        (["--rows", 12, "--overall"], None, 12),
        (["--tokens", 120, "--overall"], None, 12),
        (["--fraction", 0.5, "--by", "tokens", "--overall"], None, 18),
    ],
)
def test_random_rows_of_several_domains(select, two, tmp_path, options, code, all_rows) -> None:
    status, document = select("random", two, *options, "--out", tmp_path / "out")
    assert status == 0
    kept = {each["domain"]: each["kept_rows"] for each in document["domains"]}
    assert sum(kept.values()) == all_rows
    assert code is None or kept["code"] == code
    for name, count in kept.items():
        assert len(ordinals(tmp_path / "out" / name)) == count


def test_overall_every_row_may_be_drawn(select, two, tmp_path) -> None:
    select("random", two, "--per-domain", "code=2rows", "web=4rows", "--out", tmp_path / "not")
    select("random", two, "--rows", 30, "--overall", "--inverse", tmp_path / "not", "--out", tmp_path / "o")
    assert len(ordinals(tmp_path / "o" / "code")) == 4
    assert len(ordinals(tmp_path / "o" / "web")) == 26


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--rows", 4], "there are 2 domains (code, web): give --overall"),
        (["--rows", 20, "--each"], "domain 'code': 20 rows are to be drawn, but only 6 are allowed"),
        (["--rows", 40, "--overall"], "all domains: 40 rows are to be drawn, but only 36 are allowed"),
        (["--per-domain", "code=1"], "no budget for web"),
        (["--rows", 4, "--each", "--overall"], "exclude each other"),
        (["--like", "x", "--each"], "gives the budget"),
        (["--inverse", "x", "--each"], "how much"),
    ],
)
def test_random_rows_of_several_domains_are_refused_by_name(select, two, tmp_path, options, expected) -> None:
    status, document = select("random", two, *options, "--out", tmp_path / "out")
    assert status == 2
    assert expected in document["error"]["message"]
    assert not (tmp_path / "out").exists()


def test_random_by_tokens(select, write_scores, tmp_path) -> None:
    path = write_scores("s", {"score": np.zeros(20), "n_tokens": np.arange(20, dtype=np.uint32)})
    status, document = select("random", path, "--tokens", "50", "--out", tmp_path / "out")
    assert status == 0
    assert 50 <= document["domains"][0]["kept_tokens"] < 50 + 20


def test_split_makes_buckets(select, shown, edu, tmp_path) -> None:
    status, document = select("split", edu, "--column", "score", "--buckets", "2", "--out", tmp_path / "q")
    assert status == 0
    assert document["domains"][0]["buckets"] == {"score=q0": 3, "score=q1": 2}
    select("split", edu, "--column", "language", "--out", tmp_path / "l")
    assert Selection.open(tmp_path / "l").buckets == ("language=-1", "language=de", "language=en")
    assert "language=de" in shown("split", edu, "--column", "language", "--out", tmp_path / "l2")
    status, document = select("split", edu, "--column", "score", "--out", tmp_path / "x")
    assert status == 2


def test_merge_joins_the_parts(select, tmp_path) -> None:
    made = provenance({})
    for part in range(2):
        columns = [Column(name="score", dtype="f4")]
        with ScoresWriter(
            tmp_path / "s", domain="web", table=TABLE, columns=columns, made=made, part=(part, 2)
        ) as writer:
            writer.write(writer.begin, {"score": np.arange(writer.begin, writer.end)})
        if not part:
            status, document = select("merge", tmp_path / "s")
            assert status == 1
            assert "1/2" in document["error"]["message"]
    status, document = select("merge", tmp_path / "s", "--dry-run")
    assert status == 0
    assert not Scores.open(tmp_path / "s").merged
    status, document = select("merge", tmp_path / "s")
    assert status == 0
    assert document["domains"][0]["rows"] == 8
    assert Scores.open(tmp_path / "s").column("score").tolist() == list(range(8))


def test_split_writes_nothing_before_all_domains_can_be_split(tmp_path, write_scores):
    write_scores("both/a", {"score": np.arange(8.0)}, samples=[3, 5], domain="a")
    write_scores("both/b", {"score": np.arange(2.0)}, samples=[2], domain="b")
    words = ("select", "split", tmp_path / "both", "--column", "score", "--out", tmp_path / "out", "--buckets")
    for dry in ([], ["--dry-run"]):
        assert main([*map(str, words), "4", *dry]) == 2
        assert not (tmp_path / "out").exists()
    assert main([*map(str, words), "2", "--dry-run"]) == 0
    assert not (tmp_path / "out").exists()


def test_a_dry_run_of_split_shows_the_buckets(tmp_path, write_scores, capsys):
    write_scores("web", {"score": np.arange(7.0)}, samples=[7])
    words = ("select", "split", tmp_path / "web", "--column", "score", "--buckets", 2, "--out", tmp_path / "out")
    assert main([*map(str, words), "--dry-run", "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)["domains"]
    assert document["buckets"] == {"score=q0": 4, "score=q1": 3}


@pytest.mark.parametrize(
    "words",
    [
        ("top", "{plain}", "--side", "high", "--rows", "2", "--within", "{bound}"),
        ("where", "{plain}", "score >= 0", "--within", "{bound}"),
        ("split", "{plain}", "--column", "score", "--buckets", "2", "--within", "{bound}"),
    ],
)
def test_rows_within_a_selection_are_bound_to_its_headers(tmp_path, write_scores, keep, words):
    plain = write_scores("plain", {"score": np.arange(8.0)}, samples=[3, 5])
    table = Scores.open(plain).table
    bound = keep("bound", range(6), table=table.with_fingerprint(1, "bb"))
    given = [word.format(plain=plain, bound=bound) for word in words]
    assert main(["select", *given, "--out", str(tmp_path / "out")]) == 0
    assert Selection.open(tmp_path / "out").table.shards[1].fingerprint == "bb"
