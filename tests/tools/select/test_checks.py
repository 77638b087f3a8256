"""`select stats`, `sample`, `verify` and `overlap`: what they find, and what they say of it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from mixstream import MDSWriter
from mixstream.selection import Scores, Selection, provenance
from mixstream.selection import write_selection as write
from mixstream_tools.cli import main

pytestmark = pytest.mark.usefixtures("warm_spawn")  # the commands have worker processes

TEXTS = [f"text number {at} says {'very ' * at}little" for at in range(10)]


@pytest.fixture
def web(write_texts):
    return write_texts("web", TEXTS, per_shard=4)


@pytest.fixture
def scores(write_scores, web):
    columns = {"score": np.arange(10, dtype=np.float32), "n_tokens": np.full(10, 5, dtype=np.uint32)}
    return write_scores("scores", columns, dataset=web)


@pytest.fixture
def top(select, scores, tmp_path):
    assert select("top", scores, "--rows", "3", "--out", tmp_path / "top")[0] == 0
    return tmp_path / "top"


# stats


def test_stats_of_a_selection(select, shown, web, scores, top) -> None:
    status, document = select("stats", top, "--dataset", web, "--scores", scores)
    assert status == 0
    (found,) = document["domains"]
    assert (found["kept_rows"], found["kept_tokens"]) == (3, 15)
    assert (found["shards"], found["shards_needed"]) == (3, 2)
    sizes = [shard["bytes"] for shard in found["per_shard"]]
    assert [shard["kept"] for shard in found["per_shard"]] == [0, 1, 2]
    assert found["bytes_needed"] == found["bytes_to_download"] == sizes[1] + sizes[2]
    assert found["bytes_wasted_about"] == int(sizes[1] * 0.75)
    kept = next(each for each in found["columns"] if each["rows"] == "kept" and each["column"] == "score")
    assert (kept["quantiles"]["0.0"], kept["quantiles"]["1.0"]) == (7, 9)
    text = shown("stats", top)
    assert "30.0 %" in text
    assert "part001/shard.00000.mds" in text


def test_stats_leave_out_what_is_there(select, web, top, tmp_path) -> None:
    (tmp_path / "cache" / "part001").mkdir(parents=True)
    shutil.copy(web / "part001" / "shard.00000.mds", tmp_path / "cache" / "part001")
    _, document = select("stats", top, "--local", tmp_path / "cache")
    found = document["domains"][0]
    assert found["bytes_to_download"] == found["per_shard"][2]["bytes"]


def test_stats_of_scores_and_of_buckets(select, shown, scores, tmp_path) -> None:
    _, document = select("stats", scores)
    median = document["domains"][0]["columns"][0]["quantiles"]["0.5"]
    assert median == 4.5
    assert "50 %" in shown("stats", scores)
    select("split", scores, "--column", "score", "--buckets", "2", "--out", tmp_path / "b")
    assert select("stats", tmp_path / "b")[1]["domains"][0]["buckets"] == {"score=q0": 5, "score=q1": 5}


def test_stats_name_texts_and_join_equal_columns(select, shown, write_scores, web, tmp_path) -> None:
    columns = {
        "score": np.arange(10.0),
        "score.code": np.arange(10.0),
        "other": np.arange(10.0) * 2,
        "language": np.array([1, 0, 1, 1, -1, 1, 1, 1, 0, 1], dtype=np.int32),
    }
    place = write_scores("texts", columns, dataset=web, categories={"language": ["de", "en"]})
    select("top", place, "--rows", "3", "--out", tmp_path / "three")
    _, document = select("stats", tmp_path / "three", "--scores", place)
    assert document["domains"][0]["categories"] == {
        "language": {"all": {"en": 7, "de": 2, "": 1}, "kept": {"en": 2, "de": 1}}
    }
    assert {each["column"] for each in document["domains"][0]["columns"]} == {"score", "score.code", "other"}
    text = shown("stats", tmp_path / "three", "--scores", place)
    assert "score, score.code" in text
    assert [line.split()[2:] for line in text.splitlines() if " language " in line] == [
        ["en", "7", "2"],
        ["de", "2", "1"],
        ["none", "1", "0"],
    ]


def test_stats_list_no_shards_that_are_kept_whole(select, shown, scores, tmp_path) -> None:
    select("top", scores, "--rows", "7", "--out", tmp_path / "seven")  # of shards of 4, 4 and 2 rows
    text = shown("stats", tmp_path / "seven")
    assert text.count("shard.00000.mds") == 1
    assert "part000/shard.00000.mds" in text
    select("top", scores, "--rows", "10", "--out", tmp_path / "all")
    assert "of which the least is kept" not in shown("stats", tmp_path / "all")


# sample


def test_samples_lie_around_the_threshold(select, shown, top) -> None:
    status, document = select("sample", top, "2")
    assert status == 0
    (found,) = document["domains"]
    assert [(each["ordinal"], each["score"]) for each in found["kept"]] == [(8, 8.0), (7, 7.0)]
    assert [each["ordinal"] for each in found["dropped"]] == [6, 5]
    assert found["kept"][1]["text"].startswith("text number 7 says very")
    assert found["kept"][1]["shard"] == "part001/shard.00000.mds"
    assert "nearest to the threshold of score" in shown("sample", top, "2")


def test_samples_of_a_low_side_lie_around_its_threshold(select, scores, tmp_path) -> None:
    select("top", scores, "--rows", "3", "--side", "low", "--out", tmp_path / "low")
    select("top", scores, "--rows", "3", "--control", "inverse", "--out", tmp_path / "top")
    for name in ("low", "top-inverse"):
        _, document = select("sample", tmp_path / name, "1")
        assert [document["domains"][0][kind][0]["ordinal"] for kind in ("kept", "dropped")] == [2, 3]


@pytest.mark.parametrize("control", [None, "inverse"])
def test_samples_of_both_ends_of_an_outlier_cut(select, shown, scores, tmp_path, control) -> None:
    side = "easy" if control else "hard"
    options = ["--scores", str(scores), "--column", "score", "--side", side, "--fraction", "0.4"]
    options += ["--outlier-cut", "0.8", "--out", str(tmp_path / "sel")]
    assert main(["prune", "keep", *options, *(["--control", control] if control else [])]) == 0
    place = tmp_path / ("sel-inverse" if control else "sel")
    _, document = select("sample", place, "2")
    (found,) = document["domains"]
    assert [each["ordinal"] for each in found["kept"]] == [5, 4]
    assert [each["ordinal"] for each in found["dropped"]] == [3, 2]
    assert [each["ordinal"] for each in found["dropped as outliers"]] == [8, 9]
    assert "dropped as outliers, nearest to what is kept" in shown("sample", place, "2")
    select("top", scores, "--rows", "2", "--within", tmp_path / "sel", "--out", tmp_path / "top")
    if not control:
        _, document = select("sample", tmp_path / "top", "2")
        assert [each["ordinal"] for each in document["domains"][0]["dropped"]] == [5, 4]


def test_lines_that_are_piped_end_with_their_text(shown, top) -> None:
    lines = shown("sample", top, "2").splitlines()
    assert len(lines) > 8
    assert all(line == line.rstrip() for line in lines)


def test_a_random_control_has_no_threshold(select, scores, tmp_path) -> None:
    select("top", scores, "--rows", "2", "--control", "random", "--out", tmp_path / "r")
    assert select("sample", tmp_path / "r-random", "1")[1]["domains"][0]["by"] is None


def test_samples_at_random(select, web, top, tmp_path) -> None:
    _, document = select("sample", top, "9", "--random", "--characters", "6")
    (found,) = document["domains"]
    assert sorted(each["ordinal"] for each in found["kept"]) == [7, 8, 9]
    assert len(found["dropped"]) == 7
    assert found["kept"][0]["text"] == "text …"
    select("random", web, "--rows", "2", "--out", tmp_path / "random")
    assert select("sample", tmp_path / "random", "1")[1]["domains"][0]["by"] is None


def test_samples_of_tokens_are_decoded(select, write_scores, tmp_path) -> None:
    place = tmp_path / "tokens"
    with MDSWriter(out=str(place), columns={"tokens": "ndarray:uint16:8"}) as writer:
        for text in (b"abcdefgh", b"\x1b[31mred"):
            writer.write({"tokens": np.frombuffer(text, np.uint8).astype(np.uint16)})
    scores = write_scores("t", {"score": np.array([1.0, 0.0])}, dataset=place)
    select("top", scores, "--rows", "1", "--out", tmp_path / "sel")
    status, document = select("sample", tmp_path / "sel")
    assert status == 2
    assert "--tokenizer" in document["error"]["message"]
    _, document = select("sample", tmp_path / "sel", "--tokenizer", "bytes")
    assert document["domains"][0]["kept"][0]["text"] == "abcdefgh"
    status, document = select("sample", tmp_path / "sel", "--dataset", write_other(tmp_path), "--tokenizer", "bytes")
    assert status == 2
    assert "not of the same shards" in document["error"]["message"]


def write_other(tmp_path):
    with MDSWriter(out=str(tmp_path / "other"), columns={"text": "str"}) as writer:
        writer.write({"text": "x"})
    return tmp_path / "other"


def test_text_cannot_reach_the_terminal_unescaped(shown, write_texts, write_scores, select, tmp_path) -> None:
    data = write_texts("web", ["\x1b[31mred\x1b[0m\u202e", "b"])
    scores = write_scores("s", {"score": np.array([1.0, 0.0])}, dataset=data)
    select("top", scores, "--rows", "1", "--out", tmp_path / "sel")
    assert "red" in shown("sample", tmp_path / "sel")


def test_replaced_scores_are_not_used_for_samples(select, scores, top, write_scores, web) -> None:
    shutil.rmtree(scores)
    write_scores("scores", {"score": np.zeros(10, dtype=np.float32)}, dataset=web)
    status, document = select("sample", top)
    assert status == 1
    assert "--scores" in document["error"]["message"]


# verify


@pytest.fixture
def keys(select, web, tmp_path):
    select("key", web, "--out", tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def sel(keys, tmp_path):
    """A selection with fingerprints."""
    write(
        tmp_path / "sel", domain="web", table=Scores.open(keys).table, kept=[4, 9], rule={}, parents={},
        made=provenance({}),
    )  # fmt: skip
    return tmp_path / "sel"


def test_whole_artefacts_have_no_faults(select, web, sel, keys, scores) -> None:
    for arguments in ([sel], [sel, web], [sel, web, "--full"], [keys, web, "--full"], [scores], [scores, web]):
        status, document = select("verify", *arguments)
        assert (status, document["status"]) == (0, "ok"), document
    assert select("verify", sel, web)[1]["domains"][0]["headers"] == 2  # of the shards of which rows are kept
    assert select("verify", keys, web, "--full")[1]["domains"][0]["contents"] == 3


def test_a_damaged_file_is_a_fault(select, shown, sel) -> None:
    data = bytearray((sel / "rows.npy").read_bytes())
    data[-4] ^= 1
    (sel / "rows.npy").write_bytes(data)
    status, document = select("verify", sel)
    assert (status, document["status"]) == (1, "faults")
    assert "rows.npy" in document["domains"][0]["faults"][0]
    assert "rows.npy" in shown("verify", sel)


def test_shards_that_do_not_fit_are_faults(select, web, sel) -> None:
    index = json.loads((web / "index.json").read_text())
    index["shards"][0]["samples"] -= 1
    index["shards"][0]["hashes"], index["shards"][0]["raw_data"]["hashes"] = [], {}
    gone = index["shards"].pop(1)
    gone["raw_data"]["basename"] = "new.mds"
    gone["raw_data"]["hashes"], gone["hashes"] = {}, []
    index["shards"].append(gone)
    (web / "index.json").write_text(json.dumps(index))
    status, document = select("verify", sel, web)
    assert status == 1
    faults = " · ".join(document["domains"][0]["faults"])
    assert "shard 0 of the dataset is 'part000/shard.00000.mds' (3 rows" in faults
    assert "lacks the shard 'part001/shard.00000.mds'" in faults
    assert "was not known: 'new.mds'" in faults


def test_a_rewritten_shard_is_a_fault(select, web, sel, keys) -> None:
    path = web / "part001" / "shard.00000.mds"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # a text of the same length
    path.write_bytes(data)
    assert select("verify", sel, web)[0] == 0
    status, document = select("verify", sel, web, "--full")
    assert status == 1
    assert "xxh3_64" in document["domains"][0]["faults"][0]
    _, document = select("verify", keys, web, "--full")
    assert any("row 3" in fault and "another content" in fault for fault in document["domains"][0]["faults"])


def test_full_needs_a_dataset(select, sel) -> None:
    status, document = select("verify", sel, "--full")
    assert status == 2
    assert "URL" in document["error"]["message"]


# overlap


TARGET = "The quick brown fox jumps over the lazy dog and then it sleeps for a very long time"


@pytest.fixture
def dirty(write_texts):
    texts = [
        "nothing in common here",
        "prefix THE QUICK, brown fox jumps over the lazy dog and then it sleeps; suffix",
        "the quick brown fox jumps over a fence",
        "hello world",
        TARGET,
    ]
    return write_texts("dirty", texts, per_shard=2)


@pytest.fixture
def target(tmp_path):
    (tmp_path / "target.jsonl").write_text(json.dumps({"text": TARGET}) + "\n" + json.dumps({"text": "Hello, world!"}))
    return tmp_path / "target.jsonl"


def test_candidates_that_contain_targets_are_found(select, shown, dirty, target) -> None:
    status, document = select("overlap", dirty, "--target", target)
    assert status == 1
    (found,) = document["domains"]
    assert [(row["ordinal"], row["target"], row["equal"]) for row in found["rows"]] == [
        (1, 0, False),
        (3, 1, True),
        (4, 0, True),
    ]
    assert found["rows"][0]["shared"] == "the quick brown fox jumps over the lazy dog and then it sleeps"
    assert (document["targets"], document["unit"], document["ngram"]) == (2, "words", 13)
    assert "lazy dog" in shown("overlap", dirty, "--target", target)
    status, document = select("overlap", dirty, "--target", target, "--ngram", "5")
    assert document["domains"][0]["overlapping"] == 4


def test_a_selection_without_the_overlap(select, dirty, target, tmp_path) -> None:
    status, document = select("overlap", dirty, "--target", target, "--out", tmp_path / "clean")
    assert status == 1
    clean = Selection.open(tmp_path / "clean")
    assert clean.ordinals().tolist() == [0, 2]
    status, document = select("overlap", tmp_path / "clean", "--target", target)
    assert (status, document["domains"][0]["candidates"]) == (0, 2)
    status, document = select(
        "overlap", tmp_path / "clean", "--target", target, "--ngram", "5", "--out", tmp_path / "c5"
    )
    assert status == 1
    assert Selection.open(tmp_path / "c5").ordinals().tolist() == [0]
    assert Selection.open(tmp_path / "c5").parents == {"of": clean.id}


def test_tokens_are_compared_with_tokens(select, tmp_path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 1000, (6, 64)).astype(np.uint16)
    held_out = rng.integers(0, 1000, (3, 64)).astype(np.uint16)
    rows[2, 30:50] = held_out[1, 5:25]
    rows[4] = held_out[0]
    for name, array in (("web", rows), ("target", held_out)):
        with MDSWriter(out=str(tmp_path / name), columns={"tokens": "ndarray:uint16:64"}) as writer:
            for row in array:
                writer.write({"tokens": row})
    status, document = select("overlap", tmp_path / "web", "--target", tmp_path / "target")
    assert (status, document["unit"]) == (1, "tokens")
    assert [(row["row"], row["target"], row["equal"]) for row in document["domains"][0]["rows"]] == [
        (2, 1, False),
        (4, 0, True),
    ]
    status, document = select("overlap", tmp_path / "web", "--target", tmp_path / "target", "--ngram", "21")
    assert document["domains"][0]["overlapping"] == 1
    (tmp_path / "t.jsonl").write_text('{"text": "words"}\n')
    status, document = select("overlap", tmp_path / "web", "--target", tmp_path / "t.jsonl")
    assert status == 2
    assert "--tokenizer" in document["error"]["message"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--ngram", "0"], "ngram 0"),
        (["--unit", "tokens"], "--unit tokens"),
        (["--text-key", "body"], "'body'"),
        (["--dataset", "x"], "leave it out"),
    ],
)
def test_overlap_refuses_by_name(select, dirty, target, options, expected) -> None:
    status, document = select("overlap", dirty, "--target", target, *options)
    assert status == 2
    assert expected in document["error"]["message"]
