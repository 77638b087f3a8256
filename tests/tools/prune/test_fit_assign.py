"""`mixstream prune fit` and `assign`: what they write, resuming, parts, and what they refuse."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mixstream.selection import Scores
from mixstream.selection.prototypes import Prototypes, assign
from mixstream_tools.prune import iterations

pytestmark = pytest.mark.usefixtures("warm_spawn")  # the commands have worker processes

WEB, CODE = 800, 200


def embeddings(top: Path, domain: str = "web") -> np.ndarray:
    return Scores.open(top / "emb" / domain).column("embedding")


def test_prototypes_say_how_they_were_made(scored: Path) -> None:
    found = Prototypes.open(scored / "prototypes", domain="web")
    assert found.centroids_KD.shape == (16, 32)
    assert found.embedder == "a model"
    inputs = found.made["inputs"]
    assert inputs["embeddings"] == Scores.open(scored / "emb" / "web").id
    assert [inputs[each] for each in ("k", "iterations", "seed", "engine")] == [16, 20, 0, "torch"]
    assert found.made["mean_cosines"][-1] > found.made["mean_cosines"][0]


def test_scores_equal_the_library(scored: Path) -> None:
    found, prototypes = Scores.open(scored / "scores" / "web"), Prototypes.open(scored / "prototypes" / "web")
    assert list(found.columns) == ["cluster", "proto_dist", "n_tokens"]
    assert [each.dtype for each in found.columns.values()] == ["<i4", "<f4", "<u4"]
    scores = found.scored
    assert np.flatnonzero(~scores).tolist() == [5, 6]
    cluster, distance = assign(embeddings(scored)[scores], prototypes.centroids_KD)
    assert np.array_equal(found.column("cluster")[scores], cluster)
    assert np.array_equal(found.column("proto_dist")[scores], distance)
    assert np.array_equal(found.column("n_tokens"), Scores.open(scored / "emb" / "web").column("n_tokens"))
    assert found.made["inputs"]["prototypes"] == [prototypes.id]


def test_distances_to_prototypes_of_several_seeds_are_averaged(scored: Path, tmp_path: Path, prune) -> None:
    emb = ("--emb", scored / "emb", "--domain", "web")
    places = []
    for seed in range(3):
        assert prune("fit", *emb, "--k", 8, "--niter", 3, "--seed", seed, "--out", tmp_path / f"km{seed}")[0] == 0
        places.append(tmp_path / f"km{seed}")
    assert prune("assign", *emb, "--prototypes", *places, "--out", tmp_path / "scores")[0] == 0
    found = Scores.open(tmp_path / "scores/web")
    each = [assign(embeddings(scored)[7:], Prototypes.open(place / "web").centroids_KD) for place in places]
    assert np.array_equal(found.column("cluster")[7:], each[0][0])
    mean = np.mean([distance for _, distance in each], axis=0, dtype=float)
    assert np.array_equal(found.column("proto_dist")[7:], mean.astype(np.float32))
    assert len(found.made["inputs"]["prototypes"]) == 3


def test_domains_are_fitted_apart(scored: Path) -> None:
    web, code = (Prototypes.open(scored / "prototypes" / name).centroids_KD for name in ("web", "code"))
    assert (web @ code.T).max() < 0.99


@pytest.mark.parametrize("parts", [["--parts", "3", "--workers", "1"], ["--parts", "2", "--workers", "2"]])
def test_parts_change_no_byte(scored: Path, tmp_path: Path, prune, parts: list[str]) -> None:
    common = ("assign", "--emb", scored / "emb", "--prototypes", scored / "prototypes", "--domain", "web")
    assert prune(*common, "--out", tmp_path, *parts)[0] == 0
    for file in ("cluster.npy", "proto_dist.npy", "flags.npy", "n_tokens.npy"):
        assert (tmp_path / "web" / file).read_bytes() == (scored / "scores" / "web" / file).read_bytes()


def test_parts_of_a_job_array(scored: Path, tmp_path: Path, prune) -> None:
    common = ("assign", "--emb", scored / "emb", "--prototypes", scored / "prototypes", "--out", tmp_path)
    for part in ("1/2", "0/2"):
        status, document, told = prune(*common, "--part", part)
        assert status == 0
        assert "give --parts 2 instead of --part" in told
        assert not (tmp_path / "web" / "manifest.json").exists()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*/parts/*/proto_dist.npy")}
    assert len(before) == 4
    status, document, _ = prune(*common, "--parts", 2)
    assert status == 0
    assert [each["scored"] for each in document["domains"]] == [CODE, WEB - 2]
    assert (tmp_path / "web" / "manifest.json").exists()


def test_again_is_no_work_and_other_settings_are_refused(scored: Path, tmp_path: Path, prune) -> None:
    emb = ("--emb", scored / "emb", "--domain", "code")
    fit = ("fit", *emb, "--out", tmp_path / "km", "--k", 4, "--niter", 3)
    assert prune(*fit)[1]["domains"][0]["state"] == "done"
    stamp = (tmp_path / "km/code/centroids.npy").stat().st_mtime_ns
    assert prune(*fit)[1]["domains"][0]["state"] == "was there"
    assert (tmp_path / "km/code/centroids.npy").stat().st_mtime_ns == stamp
    status, document, _ = prune(*fit, "--seed", 1)
    assert status == 2
    assert "made with other seed (0 there, 1 here): give another --out, or --overwrite" in document["error"]["message"]
    assign = ("assign", *emb, "--prototypes", tmp_path / "km", "--out", tmp_path / "scores")
    assert prune(*assign)[0] == prune(*assign)[0] == 0
    assert prune(*fit, "--seed", 1, "--overwrite")[0] == 0
    status, document, _ = prune(*assign)
    assert status == 2
    assert (
        "made with other prototypes: give another --out, or --overwrite to replace it" in document["error"]["message"]
    )
    assert prune(*assign, "--overwrite")[0] == 0
    now = Scores.open(tmp_path / "scores/code").made["inputs"]["prototypes"]
    assert now == [Prototypes.open(tmp_path / "km/code").id]


def test_dry_runs_write_nothing(scored: Path, tmp_path: Path, prune) -> None:
    emb = ("--emb", scored / "emb", "--out", tmp_path / "out", "--dry-run")
    status, document, _ = prune("fit", *emb)
    assert status == 0
    assert document["status"] == "dry run"
    assert [(each["domain"], each["k"], each["sample"]) for each in document["domains"]] == [
        ("code", 64, CODE),
        ("web", 64, WEB - 2),
    ]
    assert prune("assign", *emb, "--prototypes", scored / "prototypes")[0] == 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("spread", ["workers", "by default"])
def test_parts_of_an_iteration_change_no_byte(scored: Path, tmp_path: Path, prune, monkeypatch, spread: str) -> None:
    """Domains of 800 and 200 rows, in parts of 64 rows; the workers are those of this machine."""
    sizes = {"code": CODE, "web": WEB - 2} if spread == "workers" else {"web": WEB - 2}  # two processes for each
    monkeypatch.setattr(iterations, "_ROWS", 64)
    monkeypatch.setattr(iterations, "default_workers", lambda: 2)
    if spread == "by default":
        monkeypatch.setattr(iterations, "_PAYS", 1)
    written = []
    write = iterations.Iterations._write
    monkeypatch.setattr(iterations.Iterations, "_write", lambda *each: written.append(len(each[1])) or write(*each))
    options = ("--workers", 2) if spread == "workers" else ()
    names = [word for name in sizes for word in ("--domain", name)]
    assert prune("fit", "--emb", scored / "emb", *names, "--k", 16, "--out", tmp_path / "km", *options)[0] == 0
    assert written == list(sizes.values())
    for domain in sizes:
        files = {path.name for path in (tmp_path / "km" / domain).iterdir()}
        assert files == {"centroids.npy", "manifest.json"}
        found, known = (Prototypes.open(top / domain) for top in (tmp_path / "km", scored / "prototypes"))
        assert found.id == known.id
        assert found.made["mean_cosines"] == known.made["mean_cosines"]


def test_a_small_sample_is_fitted_in_this_process(scored: Path, tmp_path: Path, prune, monkeypatch) -> None:
    monkeypatch.setattr(iterations.Iterations, "_write", None)  # calling it would fail
    fit = ("fit", "--emb", scored / "emb", "--niter", 1)
    assert prune(*fit, "--out", tmp_path / "a")[0] == 0
    assert prune(*fit, "--out", tmp_path / "b", "--workers", 1)[0] == 0


def test_a_fit_that_fails_leaves_no_sample(scored: Path, tmp_path: Path, prune, monkeypatch) -> None:
    begun = iterations.Iterations._write

    def replaced(self, sample_ND) -> str:
        return begun(self, sample_ND)[::-1]  # as if another run had written it since

    monkeypatch.setattr(iterations.Iterations, "_write", replaced)
    fit = ("fit", "--emb", scored / "emb", "--domain", "code", "--workers", 2, "--out", tmp_path / "km")
    status, document, _ = prune(*fit)
    assert status == 2
    assert "was replaced by another run of the command: give each its own --out" in document["error"]["message"]
    assert not list(tmp_path.rglob("*.npy"))


def test_fit_within_a_selection(scored: Path, tmp_path: Path, prune) -> None:
    keep = ("keep", "--scores", scored / "scores", "--side", "hard", "--fraction", 0.5, "--out", tmp_path / "sel")
    assert prune(*keep)[0] == 0
    fit = (
        "fit",
        "--emb",
        scored / "emb",
        "--k",
        4,
        "--niter",
        2,
        "--within",
        tmp_path / "sel",
        "--out",
        tmp_path / "km",
    )
    assert [each["rows"] for each in prune(*fit)[1]["domains"]] == [CODE // 2, (WEB - 2) // 2]


def test_few_rows_for_each_prototype_get_a_note(scored: Path, tmp_path: Path, prune) -> None:
    fit = ("fit", "--emb", scored / "emb", "--niter", 1, "--domain", "code")
    assert "200 rows for 64 prototypes" in prune(*fit, "--out", tmp_path / "a")[2]
    assert "note:" not in prune(*fit, "--k", 16, "--out", tmp_path / "b")[2]


def test_faiss_is_recorded(scored: Path, tmp_path: Path, prune) -> None:
    pytest.importorskip("faiss")
    fit = ("fit", "--emb", scored / "emb", "--k", 8, "--engine-kmeans", "faiss", "--domain", "code", "--out", tmp_path)
    status, document, _ = prune(*fit)
    assert status == 0
    assert document["domains"][0]["engine"] == "faiss"
    inputs = Prototypes.open(tmp_path / "code").made["inputs"]
    assert inputs["engine"] == "faiss"
    assert inputs["faiss"]


class TestRefusals:
    """Each is refused by name, before anything is written."""

    @pytest.fixture
    def refused(self, prune, tmp_path: Path):
        def check(*arguments: object, status: int, says: str) -> None:
            found, document, _ = prune(*arguments)
            assert found == status, document
            assert says in document["error"]["message"]
            assert not (tmp_path / "out").exists()

        return check

    def test_another_embedder(self, scored: Path, tmp_path: Path, refused, write_scores) -> None:
        old = Scores.open(scored / "emb" / "code")
        write_scores(
            tmp_path / "emb/code", old.table, {"embedding": np.array(old.column("embedding"))}, embedder="other"
        )
        refused(
            *("assign", "--emb", tmp_path / "emb", "--prototypes", scored / "prototypes", "--out", tmp_path / "out"),
            status=1,
            says="was fitted on embeddings of a model",
        )

    def test_another_dimension(self, scored: Path, tmp_path: Path, refused, write_scores) -> None:
        old = Scores.open(scored / "emb" / "code")
        write_scores(tmp_path / "emb/code", old.table, {"embedding": np.eye(CODE, 7, dtype=np.float32)})
        refused(
            *("assign", "--emb", tmp_path / "emb", "--prototypes", scored / "prototypes", "--out", tmp_path / "out"),
            status=1,
            says="16 prototypes of 32 dimensions, the embeddings in",
        )

    def test_vectors_of_other_norms(self, scored: Path, tmp_path: Path, refused, write_scores) -> None:
        old = Scores.open(scored / "emb" / "code")
        write_scores(tmp_path / "emb/code", old.table, {"embedding": 2 * np.array(old.column("embedding"))})
        refused("fit", "--emb", tmp_path / "emb", "--out", tmp_path / "out", status=2, says="has the norm 2, not 1")

    def test_a_vector_is_named_by_its_row(self, scored: Path, tmp_path: Path, refused, prune, write_scores) -> None:
        old = Scores.open(scored / "emb" / "web")
        vectors = np.array(old.column("embedding"))
        vectors[77] *= 2
        emb = tmp_path / "emb"
        write_scores(emb / "web", old.table, {"embedding": vectors}, flags=old.flags)
        refused("fit", "--emb", emb, "--out", tmp_path / "out", status=2, says="the embedding of row 77 has the norm 2")
        arguments = ("assign", "--emb", emb, "--prototypes", scored / "prototypes", "--out", tmp_path / "s")
        status, document, _ = prune(*arguments)
        assert status == 2
        assert "the embedding of row 77 has the norm 2" in document["error"]["message"]
        assert not (tmp_path / "s/web/manifest.json").exists()

    def test_domains_without_prototypes(self, scored: Path, tmp_path: Path, refused) -> None:
        refused(
            *("assign", "--emb", scored / "emb", "--prototypes", scored / "prototypes/web", "--out", tmp_path / "out"),
            status=2,
            says="has the domain 'code'",
        )

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("--domain", "books"), "no scores of domain 'books'; it has ['code', 'web']"),
            (("--column", "n_tokens"), "no column of vectors 'n_tokens'"),
            (("--k", "many"), "--k many: give `sqrt`"),
            (("--k", "9999"), "9,999 prototypes of 200 rows"),
            (("--sample", "0"), "a sample of 0 rows"),
            (("--niter", "0"), "0 iterations"),
            (("--engine-kmeans", "faiss", "--workers", "2"), "faiss fits in this process, with all its threads"),
            (("--workers", "0"), "--workers 0: give 1 or more"),
            (("--ray-address", "auto"), "is for --engine ray"),
        ],
    )
    def test_options(self, scored: Path, tmp_path: Path, refused, arguments: tuple[str, ...], says: str) -> None:
        refused("fit", "--emb", scored / "emb", "--out", tmp_path / "out", *arguments, status=2, says=says)

    def test_scores_are_no_embeddings(self, scored: Path, tmp_path: Path, refused) -> None:
        refused("fit", "--emb", scored / "scores", "--out", tmp_path / "out", status=2, says="has no vectors, only")

    def test_a_store(self, scored: Path, tmp_path: Path, refused) -> None:
        refused("fit", "--emb", scored / "emb", "--out", "s3://b/c", status=2, says="write to a local directory")

    @pytest.mark.parametrize("damage", ["bytes", "norm", "id", "missing"])
    def test_damaged_prototypes(self, scored: Path, tmp_path: Path, refused, prune, damage: str) -> None:
        km = tmp_path / "km"
        prune("fit", "--emb", scored / "emb", "--domain", "code", "--k", 4, "--niter", 1, "--out", km)
        file, manifest = km / "code/centroids.npy", km / "code/manifest.json"
        record = json.loads(manifest.read_bytes())
        if damage == "bytes":
            data = bytearray(file.read_bytes())
            data[-1] ^= 1
            file.write_bytes(data)
        elif damage == "norm":
            record["k"] = 3
        elif damage == "id":
            record["embedder"] = "other"
        else:
            file.unlink()
        manifest.write_text(json.dumps(record))
        refused(
            *("assign", "--emb", scored / "emb", "--domain", "code", "--prototypes", km, "--out", tmp_path / "out"),
            status=1,
            says=str(km / "code"),
        )


def test_scores_do_not_replace_their_embeddings(scored: Path, tmp_path: Path, prune) -> None:
    shutil.copytree(scored / "emb", tmp_path / "emb")
    emb = ("--emb", tmp_path / "emb", "--prototypes", scored / "prototypes")
    status, document, _ = prune("assign", *emb, "--out", tmp_path / "emb", "--overwrite")
    assert status == 2
    assert "holds the embeddings, which scores would replace" in document["error"]["message"]
    assert "embedding" in Scores.open(tmp_path / "emb/web").columns
