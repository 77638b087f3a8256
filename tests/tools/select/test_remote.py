"""`mixstream select` and `plan` with datasets, scores and selections in a store."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from servers import S3

from mixstream.selection import Scores, Selection
from mixstream_tools.cli import main

pytestmark = pytest.mark.usefixtures("warm_spawn")  # the commands have worker processes


@pytest.fixture(autouse=True)
def _own_temp_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()


@pytest.fixture(scope="module")
def stored(s3_server: S3, write_below, tmp_path_factory: pytest.TempPathFactory) -> tuple[S3, Path]:
    """Upload two domains, scores of both, and the best three rows of each; returns where, and the originals.

    Once for all tests, which only read: each dataset that was written a moment ago is waited for.
    """
    top, place = tmp_path_factory.mktemp("stored"), replace(s3_server, prefix=uuid4().hex[:12])
    write_texts, write_scores = write_below(top)
    for name, rows in (("code", 6), ("web", 9)):
        dataset = write_texts(f"corpus/{name}", [f"the {name} number {at}" for at in range(rows)], per_shard=3)
        write_scores(f"scores/{name}", {"score": np.arange(float(rows))}, dataset=dataset, domain=name)
    assert main(["select", "top", str(top / "scores"), "--rows", "3", "--each", "--out", str(top / "sel")]) == 0
    for name in ("corpus", "scores", "sel"):
        place.below(name).upload(top / name)
    return place, top


@pytest.fixture
def url(s3: S3, stored: tuple[S3, Path]) -> str:
    """Return the URL above them; `s3` sets the environment."""
    return stored[0].url


def kept(place: Path) -> dict[str, list[int]]:
    return {name: Selection.open(place / name).ordinals().tolist() for name in ("code", "web")}


def test_selections_are_made_of_scores_in_a_store(select, url, tmp_path) -> None:
    assert select("top", f"{url}/scores", "--rows", 3, "--each", "--out", tmp_path / "a")[0] == 0
    assert kept(tmp_path / "a") == {"code": [3, 4, 5], "web": [6, 7, 8]}
    assert Selection.open(tmp_path / "a" / "web").made["scores"] == f"{url}/scores/web"
    options = ["--within", f"{url}/sel", "--out", tmp_path / "b"]
    assert select("where", f"{url}/scores", "score >= 4", *options)[0] == 0
    assert kept(tmp_path / "b") == {"code": [4, 5], "web": [6, 7, 8]}
    assert select("combine", f"{url}/sel", "--minus", tmp_path / "b", "--out", tmp_path / "c")[0] == 0
    assert kept(tmp_path / "c") == {"code": [3], "web": []}
    assert select("split", f"{url}/scores", "--column", "score", "--buckets", 3, "--out", tmp_path / "d")[0] == 0
    assert Selection.open(tmp_path / "d" / "code").kept == 6


def test_one_domain_in_a_store_is_written_as_one(select, url, tmp_path) -> None:
    assert select("top", f"{url}/scores/web/", "--rows", 2, "--out", tmp_path / "a")[0] == 0
    assert Selection.open(tmp_path / "a").ordinals().tolist() == [7, 8]


@pytest.mark.parametrize("source", ["corpus", "scores", "sel"])
def test_random_rows_of_a_store(select, url, tmp_path, source) -> None:
    options = ["--inverse", f"{url}/sel", "--out", tmp_path / "rest"]
    assert select("random", f"{url}/{source}", *options)[0] == 0
    assert kept(tmp_path / "rest") == {"code": [0, 1, 2], "web": [0, 1, 2, 3, 4, 5]}


def test_random_rows_of_one_dataset_in_a_store(select, url, tmp_path) -> None:
    assert select("random", f"{url}/corpus/web", "--fraction", 0.34, "--out", tmp_path / "r")[0] == 0
    assert Selection.open(tmp_path / "r").kept == 4


def test_selections_in_a_store_are_looked_at(select, url, stored, tmp_path) -> None:
    corpus, sel = f"{url}/corpus", f"{url}/sel"
    status, document = select("stats", sel, "--dataset", corpus, "--scores", f"{url}/scores")
    assert (status, [each["kept_rows"] for each in document["domains"]]) == (0, [3, 3])
    assert select("verify", sel, corpus, "--full")[0] == 0
    _, document = select("diff", sel, stored[1] / "sel")
    assert document["all"]["jaccard"] == 1
    status, document = select("sample", sel, 1, "--dataset", corpus)
    assert [each["kept"][0]["score"] for each in document["domains"]] == [3, 6]
    assert document["domains"][1]["dropped"][0]["text"] == "the web number 5"
    assert select("export", sel, "--to", tmp_path / "t.jsonl")[0] == 0
    assert len((tmp_path / "t.jsonl").read_text().splitlines()) == 6
    (tmp_path / "target.jsonl").write_text(json.dumps({"text": "the web number 7"}))
    options = ["--dataset", corpus, "--target", tmp_path / "target.jsonl", "--ngram", 4, "--out", tmp_path / "clean"]
    assert select("overlap", sel, *options)[0] == 1
    assert kept(tmp_path / "clean") == {"code": [3, 4, 5], "web": [6, 8]}


def test_what_leaves_a_store_finds_its_rows_there(select, url, tmp_path) -> None:
    assert select("export", f"{url}/scores", "--to", tmp_path / "t.parquet")[0] == 0
    options = ["--key", "shard,row", "--out", tmp_path / "back"]
    assert select("import", tmp_path / "t.parquet", "--dataset", f"{url}/corpus", *options)[0] == 0
    assert Scores.open(tmp_path / "back" / "web").column("score").tolist() == list(range(9))
    assert select("key", f"{url}/corpus", "--out", tmp_path / "keys")[0] == 0
    options = ["--keys", tmp_path / "keys", "--out", tmp_path / "moved"]
    assert select("rebase", f"{url}/sel", "--to", f"{url}/corpus", *options)[0] == 0
    assert kept(tmp_path / "moved") == {"code": [3, 4, 5], "web": [6, 7, 8]}


def test_a_plan_by_a_selection_in_a_store(url, capsys) -> None:
    options = ["--data", f"{url}/corpus", "--selection", f"{url}/sel", "--batch-size", "2", "--json"]
    assert main(["plan", *options]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["preview"]["asked_steps"] == 3  # one epoch of 3 + 3 rows


def test_what_a_store_lacks_is_said(select, url, tmp_path) -> None:
    status, document = select("stats", f"{url}/corpus")
    assert status == 1
    assert f"no scores at {url}/corpus" in document["error"]["message"]
    status, document = select("diff", f"{url}/scores", f"{url}/sel")
    assert status == 1
    assert "there are scores" in document["error"]["message"]
    status, document = select("random", f"{url}/nothing", "--rows", 1, "--out", tmp_path / "r")
    assert status == 2
    assert "no dataset is there" in document["error"]["message"]
