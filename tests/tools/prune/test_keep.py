"""`mixstream prune keep` and `run`: sides, budgets, controls, provenance, and what they refuse."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mixstream as ms
from mixstream.selection import Scores, Selection, add_columns, provenance
from mixstream_tools.cli import main

WEB = 798  # rows with a score


@pytest.fixture
def web(scored: Path) -> Scores:
    return Scores.open(scored / "scores" / "web")


def order(scores: Scores) -> np.ndarray:
    """Return the ordinals of scored rows, hardest first."""
    rows = np.flatnonzero(scores.scored)
    return rows[np.argsort(-scores.column("proto_dist")[rows], kind="stable")]


@pytest.mark.parametrize("side", ["hard", "easy"])
def test_sides(scored: Path, tmp_path: Path, prune, web: Scores, side: str) -> None:
    arguments = ("keep", "--scores", scored / "scores", "--side", side, "--fraction", 0.25, "--out", tmp_path)
    status, document, _ = prune(*arguments)
    assert status == 0
    kept = Selection.open(tmp_path / "web")
    ranked = order(web)
    assert kept.ordinals().tolist() == sorted(ranked[:200] if side == "hard" else ranked[-200:])
    assert [each["rows"]["after"] for each in document["selections"]] == [50, 200]
    assert kept.rule["side"] == side
    assert kept.parents == {"scores": web.id}
    assert kept.made["inputs"]["rule"]["fraction"] == 0.25
    assert kept.tokens is not None
    assert kept.tokens.after == web.column("n_tokens")[kept.ordinals()].sum()


def test_tokens_and_controls(scored: Path, tmp_path: Path, prune, web: Scores) -> None:
    arguments = ("keep", "--scores", scored / "scores/web", "--side", "hard", "--tokens", "5k", "--out", tmp_path / "h")
    status, document, _ = prune(*arguments, "--control", "random,inverse")
    assert status == 0
    assert [each["kind"] for each in document["selections"]] == ["hard", "random", "inverse"]
    tokens = web.column("n_tokens")
    kept, random, inverse = (
        Selection.open(tmp_path / name / "web").ordinals() for name in ("h", "h-random", "h-inverse")
    )
    for rows in (kept, random, inverse):
        assert 5000 <= tokens[rows].sum() < 5000 + 2 * 50
        assert web.scored[rows].all()
    assert kept.tolist() == sorted(order(web)[: len(kept)])
    assert not set(kept) & set(inverse)
    assert 0 < len(set(kept) & set(random)) < len(kept)
    assert Selection.open(tmp_path / "h-random/web").rule["control"] == "random"


def test_the_random_control_follows_the_seed(scored: Path, tmp_path: Path, prune) -> None:
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        arguments = ("keep", "--scores", scored / "scores/web", "--side", "hard", "--rows", 100, "--seed", seed)
        prune(*arguments, "--control", "random", "--out", tmp_path / name)
        found.append(Selection.open(tmp_path / f"{name}-random/web"))
    assert found[0].id == found[1].id != found[2].id
    assert [each.kept for each in found] == [100] * 3


def test_outliers_and_within(scored: Path, tmp_path: Path, prune, web: Scores) -> None:
    common = ("keep", "--scores", scored / "scores/web", "--side", "hard")
    assert prune(*common, "--rows", 100, "--outlier-cut", 0.9, "--out", tmp_path / "cut")[0] == 0
    ranked = order(web)
    assert Selection.open(tmp_path / "cut/web").ordinals().tolist() == sorted(ranked[79:179])
    easy = ("--side", "easy", "--fraction", 0.5, "--out", tmp_path / "easy")
    assert prune("keep", "--scores", scored / "scores", *easy)[0] == 0
    inside = (*common, "--fraction", 0.1, "--within", tmp_path / "easy", "--out", tmp_path / "mid")
    assert prune(*inside)[0] == 0
    found = Selection.open(tmp_path / "mid/web")
    assert found.ordinals().tolist() == sorted(ranked[399 : 399 + 40])
    assert found.parents["within"] == Selection.open(tmp_path / "easy/web").id


def test_the_random_control_has_no_outliers_either(scored: Path, tmp_path: Path, prune, web: Scores) -> None:
    cut = ("--fraction", 0.4, "--outlier-cut", 0.5, "--control", "random", "--out", tmp_path / "cut")
    assert prune("keep", "--scores", scored / "scores/web", "--side", "hard", *cut)[0] == 0
    control = Selection.open(tmp_path / "cut-random/web").ordinals()
    assert len(control) == 320
    assert set(control.tolist()) <= set(order(web)[399:].tolist())


def test_all_but_the_outliers(scored: Path, tmp_path: Path, prune, web: Scores) -> None:
    common = ("keep", "--scores", scored / "scores/web", "--side", "hard", "--outlier-cut", 0.9)
    for by in ("rows", "tokens"):
        assert prune(*common, "--fraction", 1, "--by", by, "--out", tmp_path / by)[0] == 0
        assert Selection.open(tmp_path / by / "web").ordinals().tolist() == sorted(order(web)[79:])
    status, document, _ = prune(*common, "--fraction", 0.95, "--out", tmp_path / "more")
    assert status == 2
    assert "--fraction 0.95 is more than --outlier-cut 0.9 leaves: give at most" in document["error"]["message"]


def test_tokens_of_a_fixed_length(scored: Path, tmp_path: Path, prune, web: Scores) -> None:
    common = ("keep", "--scores", scored / "scores/web", "--side", "hard", "--tokens", "10k", "--row-tokens", 100)
    assert prune(*common, "--out", tmp_path / "fixed")[0] == 0
    assert Selection.open(tmp_path / "fixed/web").ordinals().tolist() == sorted(order(web)[:100])


def test_balance_gives_each_cluster_a_floor(scored: Path, tmp_path: Path, prune, web: Scores) -> None:
    cluster, scores = web.column("cluster"), web.scored
    sizes = np.bincount(cluster[scores])
    counts = {}
    for floor in (0, 0.5):
        arguments = ("keep", "--scores", scored / "scores/web", "--side", "hard", "--fraction", 0.3)
        prune(*arguments, "--balance", "cluster", "--floor", floor, "--out", tmp_path / f"{floor}")
        counts[floor] = np.bincount(cluster[Selection.open(tmp_path / f"{floor}/web").ordinals()], minlength=len(sizes))
    assert counts[0].sum() == counts[0.5].sum() == 240
    floors = np.floor(0.5 * 240 / WEB * sizes)
    assert (counts[0.5] >= floors).all()
    assert (counts[0] < floors).any()


def test_another_column(scored: Path, tmp_path: Path, prune) -> None:
    shutil.copytree(scored / "scores/web", tmp_path / "scores/web")
    values = np.arange(800, dtype=np.float32) % 97
    add_columns(tmp_path / "scores/web", {"margin": values}, provenance({}))
    common = ("keep", "--scores", tmp_path / "scores", "--side", "hard", "--rows", 8, "--column", "margin")
    prune(*common, "--hard-is", "low", "--out", tmp_path / "low")
    assert values[Selection.open(tmp_path / "low/web").ordinals()].tolist() == [0] * 8


def test_dry_run_and_again(scored: Path, tmp_path: Path, prune) -> None:
    common = ("keep", "--scores", scored / "scores", "--side", "hard", "--fraction", 0.5, "--out", tmp_path / "s")
    status, document, _ = prune(*common, "--dry-run")
    assert (status, document["status"]) == (0, "dry run")
    assert [each["rows"]["after"] for each in document["selections"]] == [100, 399]
    assert not (tmp_path / "s").exists()
    assert [each["state"] for each in prune(*common)[1]["selections"]] == ["done", "done"]
    assert [each["state"] for each in prune(*common)[1]["selections"]] == ["was there", "was there"]
    status, document, _ = prune(*common[:-4], "--fraction", 0.6, "--out", tmp_path / "s")
    assert status == 2
    assert "made with other fraction (0.5 there, 0.6 here): give another --out" in document["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "no budget is given: give one of --fraction"),
        (("--rows", "5", "--tokens", "5"), "--rows and --tokens are given"),
        (("--rows", "5", "--by", "tokens"), "--by tokens and --rows contradict"),
        (("--rows", "5"), "--rows is a number for one domain"),
        (("--domain", "web", "--rows", "5000"), "only 798 are eligible"),
        (("--fraction", "0"), "share above 0"),
        (("--fraction", "0.5", "--column", "none"), "no column 'none', only"),
        (("--fraction", "0.5", "--balance", "proto_dist"), "an integer for each row"),
        (("--fraction", "0.5", "--outlier-cut", "2"), "--outlier-cut 2: give"),
        (("--fraction", "0.5", "--floor", "0.3"), "--floor 0.3 is for groups"),
    ],
)
def test_refusals(scored: Path, tmp_path: Path, prune, arguments: tuple[str, ...], says: str) -> None:
    status, document, _ = prune(
        *("keep", "--scores", scored / "scores", "--side", "hard", "--out", tmp_path / "out"), *arguments
    )
    assert status == 2
    assert says in document["error"]["message"]
    assert not (tmp_path / "out").exists()


def test_the_side_has_no_default(scored: Path, tmp_path: Path, prune) -> None:
    status, document, _ = prune("keep", "--scores", scored / "scores", "--fraction", "0.5", "--out", tmp_path)
    assert status == 2
    assert "side" in document["error"]["message"]


def test_tokens_need_a_count(scored: Path, tmp_path: Path, prune, write_scores, web: Scores) -> None:
    write_scores(tmp_path / "scores/web", web.table, {"proto_dist": np.ones(800, dtype=np.float32)})
    arguments = (
        "keep",
        "--scores",
        tmp_path / "scores",
        "--side",
        "easy",
        "--fraction",
        0.5,
        "--out",
        tmp_path / "out",
    )
    status, document, _ = prune(*arguments, "--by", "tokens")
    assert status == 2
    assert "no column 'n_tokens', so tokens cannot be counted" in document["error"]["message"]


def test_a_selection_of_other_rows_is_refused(scored: Path, tmp_path: Path, prune, write_dataset, write_scores) -> None:
    table = write_dataset(tmp_path / "shards", {"tokens": np.zeros((800, 5), dtype=np.int32)})
    write_scores(tmp_path / "scores/web", table, {"proto_dist": np.arange(800, dtype=np.float32)})
    arguments = ("keep", "--scores", tmp_path / "scores", "--side", "easy", "--fraction", 0.5)
    assert prune(*arguments, "--out", tmp_path / "sel")[0] == 0
    status, document, _ = prune(
        *("keep", "--scores", scored / "scores/web", "--side", "easy", "--fraction", 0.5),
        *("--within", tmp_path / "sel", "--out", tmp_path / "out"),
    )
    assert status == 2
    message = document["error"]["message"]
    assert str(scored / "scores/web") in message
    assert str(tmp_path / "sel/web") in message
    assert "are not of the same shards" in message


def test_run_gives_what_the_single_commands_give(scored: Path, tmp_path: Path, prune) -> None:
    arguments = ("run", "--emb", scored / "emb", "--side", "hard", "--fraction", 0.5, "--k", 16, "--workers", 1)
    status, document, _ = prune(*arguments, "--control", "random", "--out", tmp_path)
    assert status == 0
    assert Scores.open(tmp_path / "scores/web").id == Scores.open(scored / "scores/web").id
    kept = [Selection.open(tmp_path / name / "web").kept for name in ("selection", "selection-random")]
    assert kept == [399, 399]
    assert [len(document[each]) for each in ("prototypes", "scores", "selections")] == [2, 2, 4]
    assert [len(each["mean_cosine"]) for each in document["prototypes"]] == [2, 2]
    assert [each["state"] for each in prune(*arguments, "--out", tmp_path)[1]["selections"]] == ["was there"] * 2
    other = [0.6 if each == 0.5 else each for each in arguments]
    status, document, _ = prune(*other, "--out", tmp_path)
    assert status == 2
    assert f"mixstream prune keep --scores {tmp_path}/scores --out ...`" in document["error"]["message"]


def test_missing_embeddings_are_called_so(scored: Path, tmp_path: Path, prune) -> None:
    for command in (("fit",), ("run", "--side", "hard", "--fraction", 0.5), ("domains", "--k", 4), ("d4", "--r", 0.5)):
        status, document, _ = prune(*command, "--emb", tmp_path / "emb", "--out", tmp_path / "out")
        assert status != 0
        assert f"no embeddings in {tmp_path / 'emb'}" in document["error"]["message"]
        assert "mixstream embed" in document["error"]["message"]


def test_the_stream_reads_what_was_kept(scored: Path, tmp_path: Path) -> None:
    arguments = ["prune", "keep", "--scores", str(scored / "scores"), "--side", "hard", "--fraction", "0.5"]
    assert main([*arguments, "--out", str(tmp_path), "--json"]) == 0
    streams = [
        ms.Stream(name=name, remote=str(scored / "shards" / name), selection=tmp_path) for name in ("web", "code")
    ]
    dataset = ms.StreamingDataset(streams=streams, batch_size=1, shuffle=True)
    with ms.Loader(dataset) as loader:
        seen = [(int(batch["domain"][0]), int(batch["tokens"][0, 0]) // 4) for batch in loader]
    for number, name in enumerate(("web", "code")):
        rows = sorted(row for domain, row in seen if domain == number)
        assert rows == Selection.open(tmp_path / name).ordinals().tolist()


def test_tables_for_people(scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["prune", "run", "--emb", str(scored / "emb"), "--side", "easy", "--fraction", "0.5", "--k", "8"]
    assert main([*arguments, "--workers", "1", "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    for word in ("mean cosine", "distance 10/50/90 %", "rows after", "399", str(tmp_path)[:20]):
        assert word in told


def test_keep_needs_no_torch(scored: Path, tmp_path: Path) -> None:
    arguments = ["prune", "keep", "--scores", str(scored / "scores"), "--side", "hard", "--fraction", "0.5"]
    code = (
        "import sys; from mixstream_tools.cli import main; "
        f"status = main({[*arguments, '--out', str(tmp_path), '--json']}); sys.exit(status or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
