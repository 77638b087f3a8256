"""`mixstream prune dedup`, `d4` and `domains`: what they keep, what they store, and what they refuse."""

import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import mixstream as ms
from mixstream.selection import Column, Scores, ScoresWriter, Selection, ShardIdentity, ShardTable, provenance
from mixstream.selection.prototypes import Clusters, duplicate_of
from mixstream_tools.prune import comparison

pytestmark = pytest.mark.usefixtures("warm_spawn")  # the commands have worker processes

WEB = 798
VARIANTS = ("greedy", "official", "components")


@pytest.fixture
def top(scored: Path, tmp_path: Path) -> Path:
    """Return a copy of the artefacts: `dedup` adds columns to the scores."""
    for name in ("emb", "scores"):
        shutil.copytree(scored / name, tmp_path / name)
    shutil.copy(scored / "web.group.npy", tmp_path)
    return tmp_path


def common(top: Path) -> tuple[object, ...]:
    return ("dedup", "--scores", top / "scores", "--emb", top / "emb")


def reference(top: Path, threshold: float, variant) -> list[int]:
    scores, vectors = Scores.open(top / "scores/web"), Scores.open(top / "emb/web").column("embedding")
    rows = np.flatnonzero(scores.scored)
    groups = Clusters.of(scores.column("cluster"), scores.column("proto_dist"), count=16, rows_E=rows)
    kept = []
    for cluster in range(16):
        members = groups.members(cluster)
        kept += members[duplicate_of(vectors[members], threshold=threshold, variant=variant) < 0].tolist()
    return sorted(kept)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(top: Path, prune, variant: str) -> None:
    status, document, _ = prune(*common(top), "--eps", 0.05, "--variant", variant, "--out", top / "dd")
    assert status == 0
    kept = Selection.open(top / "dd/web")
    assert kept.ordinals().tolist() == reference(top, 0.95, variant)
    groups = np.load(top / "web.group.npy")
    assert len(set(groups[kept.ordinals()])) == kept.kept < WEB
    assert kept.rule["variant"] == variant
    assert document["selections"][1]["rows"] == {"before": WEB, "after": kept.kept}
    assert document["selections"][0]["rows"]["after"] == 199  # two originals of `code` are near
    assert document["selections"][1]["unscored"] == 2
    assert ("nn_sim" in Scores.open(top / "scores/web").columns) == (variant == "official")


def test_the_official_variant_compares_once(top: Path, prune, monkeypatch: pytest.MonkeyPatch) -> None:
    official = (*common(top), "--variant", "official")
    assert prune(*official, "--eps", 0.05, "--out", top / "a")[0] == 0
    monkeypatch.setattr("mixstream_tools.prune.comparison.nearest_earlier", None)  # calling it would fail
    assert prune(*official, "--eps", 0.001, "--out", top / "b")[0] == 0
    assert Selection.open(top / "b/web").kept > Selection.open(top / "a/web").kept
    assert Selection.open(top / "b/web").ordinals().tolist() == reference(top, 0.999, "official")
    assert prune(*official, "--eps", 0.05, "--out", top / "a")[1]["selections"][1]["state"] == "was there"


@pytest.mark.parametrize("variant", VARIANTS)
def test_keep_frac(top: Path, prune, variant: str) -> None:
    status, document, _ = prune(
        *common(top), "--domain", "web", "--keep-frac", 0.78, "--variant", variant, "--out", top / "dd"
    )
    assert status == 0
    (found,) = document["selections"]
    assert found["rows"]["after"] == pytest.approx(0.78 * WEB, abs=2)
    assert 0 < found["eps"] < 1
    assert Selection.open(top / "dd/web").rule["eps"] == found["eps"]


OPTIONS = {
    "greedy": ("--eps", 0.05),
    "official": ("--keep-frac", 0.78, "--variant", "official"),
    "components": ("--keep-frac", 0.78, "--variant", "components"),
}


def contents(place: Path) -> dict[str, bytes]:
    """Return the arrays of an artefact; nothing else but its manifest lies beside them."""
    assert all(path.is_file() for path in place.iterdir())
    return {path.name: path.read_bytes() for path in place.iterdir() if path.suffix == ".npy"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_parts_of_a_job_array_change_no_byte(top: Path, scored: Path, prune, monkeypatch, variant: str) -> None:
    options = (*common(top), *OPTIONS[variant])
    with monkeypatch.context() as patch:
        patch.setattr("mixstream_tools.prune.comparison.ROWS_AT_ONCE", 100)
        for part in ("2/3", "0/3", "1/3", "0/3"):
            status, document, told = prune(*options, "--out", top / "array", "--part", part)
            assert status == 0
            assert [each["state"] for each in document["selections"]] == [f"part {part}"] * 2
            assert "give --parts 3 instead of --part" in told
        assert not (top / "array/web/manifest.json").exists()
        assert "nn_sim" not in Scores.open(top / "scores/web").columns
        assert len(list((top / "array/web/comparison/parts").iterdir())) == 3
        patch.setattr("mixstream_tools.prune.comparison._found", None)  # calling it would fail
        assert prune(*options, "--out", top / "array", "--parts", 3)[0] == 0
    shutil.copytree(scored / "scores", top / "again")
    fresh = ("dedup", "--scores", top / "again", "--emb", top / "emb", *OPTIONS[variant])
    assert prune(*fresh, "--out", top / "whole")[0] == 0
    for domain in ("web", "code"):
        assert contents(top / "array" / domain) == contents(top / "whole" / domain)
        assert contents(top / "scores" / domain) == contents(top / "again" / domain)
    assert Selection.open(top / "array/web").id == Selection.open(top / "whole/web").id


def test_processes_change_no_byte(top: Path, prune) -> None:
    for name, options in (("one", ("--workers", 1)), ("two", ("--parts", 5, "--workers", 2))):
        out = (*OPTIONS["greedy"], "--domain", "web", "--out", top / name)
        assert prune(*common(top), *out, *options)[0] == 0
    assert contents(top / "one/web") == contents(top / "two/web")
    assert Selection.open(top / "one/web").ordinals().tolist() == reference(top, 0.95, "greedy")


def test_a_killed_run_goes_on(top: Path, prune, monkeypatch: pytest.MonkeyPatch) -> None:
    options = (*common(top), "--eps", 0.05, "--domain", "web", "--parts", 8, "--workers", 1, "--out", top / "dd")
    compared = []

    def stop(vectors: np.ndarray, task: object) -> np.ndarray:
        compared.append(len(vectors))
        if len(compared) == 9:
            raise KeyboardInterrupt
        return found(vectors, task)

    found = comparison._found
    with monkeypatch.context() as patch:
        patch.setattr(comparison, "_found", stop)
        assert prune(*options)[0] == 130
    done = len(list(top.rglob("comparison/parts/*/manifest.json")))
    assert 0 < done < 8
    monkeypatch.setattr(comparison, "_found", lambda *each: compared.append(len(each[0])) or found(*each))
    assert prune(*options)[0] == 0
    assert WEB <= sum(compared) < WEB + WEB / 2, "parts that were done are not compared again"
    assert Selection.open(top / "dd/web").ordinals().tolist() == reference(top, 0.95, "greedy")
    assert not (top / "dd/web/comparison").exists()


def test_parts_of_other_settings_are_refused(top: Path, prune) -> None:
    options = (*common(top), "--domain", "web", "--out", top / "dd")
    assert prune(*options, "--eps", 0.05, "--part", "0/2")[0] == 0
    status, document, _ = prune(*options, "--eps", 0.1, "--part", "0/2")
    assert status == 2
    assert "--overwrite" in document["error"]["message"]
    status, document, _ = prune(*options, "--eps", 0.05, "--parts", 3)
    assert status == 2
    assert "was begun in 2 parts, and this run has 3" in document["error"]["message"]
    assert prune(*options, "--eps", 0.05, "--parts", 3, "--overwrite")[0] == 0
    assert Selection.open(top / "dd/web").ordinals().tolist() == reference(top, 0.95, "greedy")


def test_scores_of_other_embeddings_are_refused(top: Path, prune, write_scores) -> None:
    old = Scores.open(top / "emb/web")
    moved = np.roll(old.column("embedding"), 1, axis=0)
    write_scores(top / "other/web", old.table, {"embedding": moved})
    arguments = ("--domain", "web", "--eps", 0.05, "--out", top / "out")
    status, document, _ = prune("dedup", "--scores", top / "scores", "--emb", top / "other", *arguments)
    assert status == 1
    assert "were assigned from embeddings" in document["error"]["message"]
    assert not (top / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "either --eps, such as 0.05, or --keep-frac"),
        (("--eps", "0.1", "--keep-frac", "0.5"), "either --eps"),
        (("--eps", "0"), "--eps 0: give a number above 0"),
        (("--keep-frac", "1.5"), "--keep-frac 1.5"),
        (("--eps", "0.1", "--part", "2/2"), "parts are counted from 0"),
    ],
)
def test_refusals(top: Path, prune, arguments: tuple[str, ...], says: str) -> None:
    status, document, _ = prune(*common(top), "--out", top / "out", *arguments)
    assert status == 2
    assert says in document["error"]["message"]


def test_dry_run(top: Path, prune) -> None:
    status, document, _ = prune(*common(top), "--eps", 0.05, "--out", top / "out", "--dry-run")
    assert (status, document["status"]) == (0, "dry run")
    assert document["selections"][1]["clusters"] <= 16
    assert not (top / "out").exists()


def test_d4(top: Path, prune) -> None:
    arguments = ("d4", "--emb", top / "emb", "--domain", "web", "--k", 16, "--r-dedup", 0.75, "--r", 0.5)
    status, document, _ = prune(*arguments, "--out", top / "d4")
    assert status == 0
    kept = Selection.open(top / "d4/web")
    groups = np.load(top / "web.group.npy")
    assert kept.kept == 399
    assert len(set(groups[kept.ordinals()].tolist())) == 399
    assert document["selections"][0]["rows"]["without_duplicates"] == pytest.approx(0.75 * WEB, abs=1)
    assert Scores.open(top / "emb/web").scored[kept.ordinals()].all()
    assert prune(*arguments, "--out", top / "d4")[1]["selections"][0]["state"] == "was there"
    status, document, _ = prune(*arguments[:-1], 0.9, "--out", top / "other")
    assert status == 2
    assert "0 < r <= r-dedup" in document["error"]["message"]


def test_d4_in_processes(top: Path, prune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixstream_tools.prune.iterations._ROWS", 64)
    d4 = ("d4", "--emb", top / "emb", "--domain", "web", "--k", 16, "--niter", 4, "--r-dedup", 0.75, "--r", 0.5)
    for workers in (1, 2):
        assert prune(*d4, "--workers", workers, "--out", top / f"d4-{workers}")[0] == 0
    assert contents(top / "d4-1/web") == contents(top / "d4-2/web")


def test_the_steps_of_d4_one_by_one(top: Path, prune) -> None:
    common = ("--emb", top / "emb", "--domain", "web")
    d4 = ("d4", *common, "--k", 16, "--r-dedup", 0.75, "--r", 0.5, "--out", top / "d4")
    _, document, _ = prune(*d4)
    left = document["selections"][0]["rows"]["without_duplicates"]
    assigned = ("--scores", top / "scores2", "--domain", "web", "--within", top / "dd", "--side", "hard")
    for step in (
        (
            "dedup",
            *common,
            "--scores",
            top / "scores",
            "--variant",
            "official",
            "--keep-frac",
            0.75,
            "--out",
            top / "dd",
        ),
        ("fit", *common, "--k", 16, "--within", top / "dd", "--out", top / "km2"),
        ("assign", *common, "--prototypes", top / "km2", "--out", top / "scores2"),
        ("keep", *assigned, "--fraction", 398.9 / left, "--out", top / "kept"),
    ):
        assert prune(*step)[0] == 0
    assert Selection.open(top / "kept/web").ordinals().tolist() == Selection.open(top / "d4/web").ordinals().tolist()


def test_domains_are_read_as_domains(top: Path, scored: Path, prune) -> None:
    arguments = ("domains", "--emb", top / "emb", "--domain", "web", "--k", 4, "--out", top / "topics")
    status, document, _ = prune(*arguments)
    assert status == 0
    (found,) = document["domains"]
    assert found["left_out"] == 2
    assert list(found["sizes"]) == ["cluster=0", "cluster=1", "cluster=2", "cluster=3"]
    assert sum(found["sizes"].values()) == WEB
    stream = ms.Stream(name="web", remote=str(scored / "shards/web"), split_by=top / "topics")
    dataset = ms.StreamingDataset(streams=[stream], batch_size=8)
    assert [each.name for each in dataset.streams] == [f"web/{name}" for name in found["sizes"]]
    assert prune(*arguments)[1]["domains"][0]["state"] == "was there"
    assert prune(*arguments[:-4], "--k", 1, "--out", top / "x")[0] == 2


def test_memory_follows_the_rows_at_once_and_not_the_domain(tmp_path: Path, prune, write_scores, monkeypatch) -> None:
    rows, d = 120_000, 64
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((rows, d), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    table = ShardTable(shards=(ShardIdentity(name="a.mds", samples=rows, raw_bytes=1 << 30),))
    emb = write_scores(tmp_path / "emb/web", table, {"embedding": vectors})
    columns = [Column(name="cluster", dtype="i4"), Column(name="proto_dist", dtype="f4")]
    made = provenance({"embeddings": emb.id})
    with ScoresWriter(tmp_path / "scores/web", domain="web", table=table, columns=columns, made=made) as writer:
        writer.write(0, {"cluster": np.arange(rows) % 600, "proto_dist": rng.random(rows, dtype=np.float32)})
    monkeypatch.setattr("mixstream_tools.prune.comparison.ROWS_AT_ONCE", 6000)
    tracemalloc.start()
    status, document, _ = prune(*common(tmp_path), "--eps", 0.5, "--workers", 1, "--out", tmp_path / "dd")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert status == 0
    assert document["selections"][0]["largest_cluster"] == 200
    assert peak < 40 * rows + 3 * 6000 * d * 4 + (2 << 20) < vectors.nbytes  # numpy only; torch has one cluster
