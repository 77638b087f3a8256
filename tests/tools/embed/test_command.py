"""`mixstream embed` from end to end: its columns, its parts, its resumption, and what it refuses."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mixstream as ms
from mixstream.errors import SelectionError
from mixstream.selection import Scores, provenance, write_selection
from mixstream.selection.embedders import EmbedderSpec
from mixstream_tools.cli import main
from mixstream_tools.embed.job import EmbedSettings, plan_job
from mixstream_tools.shared.domains import find_domains
from mixstream_tools.shared.options import Reading
from mixstream_tools.shared.outputs import Output
from mixstream_tools.shared.parts import PartOptions

pytestmark = pytest.mark.usefixtures("warm_spawn")  # the commands have worker processes

TEXTS = {
    "web": [f"the {colour} cat sat on mat {at}" for at in range(30) for colour in ("red", "blue")],
    "code": [f"def f{at}(x): return x + {at}" for at in range(25)],
}
# What the tests use as a model: quick, and it notes every call.
MODEL = """
import hashlib, os, time
import numpy as np

def hashed(texts):
    with open("calls.log", "a") as log:
        log.write(f"{os.getpid()} {len(texts)}\\n")
    time.sleep(float(os.environ.get("SLOW", "0")))
    rows = [np.frombuffer(hashlib.blake2b(str(text).encode()).digest(), np.uint8)[:12] for text in texts]
    return np.array(rows, dtype=np.float64) - 127.5

def zero_for_red(texts):
    return [[0.0, 0.0] if "red" in text else [1.0, 2.0] for text in texts]

def tokens(arrays):
    return np.array([[float(np.sum(array)), len(array)] for array in arrays])
"""
Run = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Two domains of texts, in shards of about 10 rows; the model lies in the current directory."""
    for name, texts in TEXTS.items():
        with ms.MDSWriter(
            out=str(tmp_path / "shards" / name), columns={"text": "str", "id": "int"}, size_limit=500
        ) as out:
            for at, text in enumerate(texts):
                out.write({"text": text, "id": at})
    (tmp_path / "toy_model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    sys.modules.pop("toy_model", None)
    return tmp_path


@pytest.fixture
def embed(capsys) -> Run:
    """Run `mixstream embed … --json`, in this process unless `--workers` says otherwise."""

    def run(*arguments: object) -> tuple[int, dict[str, Any], str]:
        capsys.readouterr()
        workers = () if {"--workers", "--part"} & {*map(str, arguments)} else ("--workers", "1")
        status = main(["embed", *map(str, arguments), "--json", *workers])
        told = capsys.readouterr()
        return status, json.loads(told.out), told.err

    return run


def columns(out: Path) -> dict[str, bytes]:
    """The bytes of an artefact but for its manifest, and its id."""
    found = {path.name: path.read_bytes() for path in sorted(out.glob("*.npy"))}
    return {**found, "id": Scores.open(out).id.encode()}


def test_the_default_model_on_texts(place, embed) -> None:
    status, document, _ = embed("shards", "--out", "emb", "--dtype", "f4")
    assert status == 0
    assert [(each["name"], each["rows"], each["embedded"]) for each in document["domains"]] == [
        ("code", 25, 25),
        ("web", 60, 60),
    ]
    scores = Scores.open(place / "emb", domain="web")
    expected = EmbedderSpec.parse("static").load().embed(TEXTS["web"])
    assert scores.column("embedding").tobytes() == expected.unit_ND.tobytes()
    assert scores.column("n_tokens").tolist() == expected.tokens_N.tolist()
    assert scores.scored.all()
    assert all(shard.fingerprint for shard in scores.table.shards)
    inputs = scores.made["inputs"]
    assert inputs["embedder"]["files"].keys() == {"config.json", "model.safetensors", "tokenizer.json"}
    assert inputs["column"] == "text"
    scores.verify()


@pytest.mark.parametrize("more", [("--parts", 3), ("--parts", 3, "--workers", 2), ("--parts", 50)])
def test_parts_do_not_show_in_the_result(place, embed, more) -> None:
    embed("shards", "--out", "one", "--model", "toy_model:hashed")
    status, _, _ = embed("shards", "--out", "other", "--model", "toy_model:hashed", *more)
    assert status == 0
    for name in TEXTS:
        assert columns(place / "one" / name) == columns(place / "other" / name)
    assert sorted(path.name for path in (place / "other" / "web").iterdir()) == [
        "embedding.npy",
        "flags.npy",
        "manifest.json",
    ]


def test_a_job_array_and_its_merge(place, embed) -> None:
    embed("shards", "--out", "one", "--model", "toy_model:hashed")
    for part in (2, 0, 1):
        status, document, _ = embed("shards", "--out", "emb", "--model", "toy_model:hashed", "--part", f"{part}/3")
        assert status == 0
        assert document["part"] == f"{part}/3"
    assert not (place / "emb" / "web" / "manifest.json").exists()
    calls = (place / "calls.log").read_text()
    status, document, told = embed("shards", "--out", "emb", "--model", "toy_model:hashed", "--parts", 3)
    assert status == 0
    assert "going on: 85 of 85 rows are done" in told
    assert len((place / "calls.log").read_text()) - len(calls) < 20  # one call, to ask for the dimensions
    assert columns(place / "one" / "web") == columns(place / "emb" / "web")
    assert embed("shards", "--out", "emb", "--model", "toy_model:hashed")[1]["status"] == "nothing to do"


def test_a_missing_part_is_named(place, embed) -> None:
    embed("shards", "--out", "emb", "--model", "toy_model:hashed", "--part", "1/3")
    with pytest.raises(SelectionError, match=r"parts 0/3, 2/3 are missing"):
        Scores.open(place / "emb" / "web")


def test_killed_in_mid_run_it_resumes_to_the_same_bytes(place, embed, warm_programs) -> None:
    embed("shards", "--out", "one", "--model", "toy_model:hashed")
    arguments = ["embed", "shards", "--out", "emb", "--model", "toy_model:hashed", "--parts", "4"]
    command = [warm_programs / "mixstream", *arguments, "--workers", "1"]
    running = subprocess.Popen(
        command, env={**os.environ, "SLOW": "0.25"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        until = time.monotonic() + 60
        while len(list(place.glob("emb/*/parts/*/manifest.json"))) < 2:
            assert running.poll() is None, running.stderr.read() if running.stderr else ""
            assert time.monotonic() < until
            time.sleep(0.01)
    finally:
        running.send_signal(signal.SIGKILL)
        running.communicate()
    done = {path: path.stat().st_mtime_ns for path in place.glob("emb/*/parts/*/manifest.json")}
    assert 2 <= len(done) < 8
    calls = (place / "calls.log").read_text().splitlines()
    status, _, told = embed(*arguments[1:])
    assert status == 0
    assert re.search(r"going on: \d+ of 85 rows are done", told)
    for name in TEXTS:
        assert columns(place / "one" / name) == columns(place / "emb" / name)
    again = (place / "calls.log").read_text().splitlines()[len(calls) :]
    assert 0 < sum(int(line.split()[1]) for line in again) < 85  # what was done is not done again


def test_other_inputs_are_refused_and_overwritten(place, embed) -> None:
    embed("shards", "--out", "emb", "--model", "toy_model:hashed")
    before = columns(place / "emb" / "web")
    status, document, _ = embed("shards", "--out", "emb", "--model", "static")
    assert status == 2
    assert "made with other embedder, tokens_by: give another --out, or --overwrite" in document["error"]["message"]
    assert "--overwrite" in document["error"]["message"]
    assert columns(place / "emb" / "web") == before
    assert embed("shards", "--out", "emb", "--model", "static", "--overwrite", "--dry-run")[0] == 0
    assert columns(place / "emb" / "web") == before, "a dry run removes nothing"
    assert embed("shards", "--out", "emb", "--model", "static", "--overwrite")[0] == 0
    assert columns(place / "emb" / "web") != before
    for part in ("0/2", "1/2"):
        assert embed("shards", "--out", "emb", "--model", "toy_model:hashed", "--part", part, "--overwrite")[0] == 0
    assert embed("shards", "--out", "emb", "--model", "toy_model:hashed", "--parts", 2)[0] == 0
    assert columns(place / "emb" / "web") == before


def test_another_number_of_parts_is_refused(place, embed) -> None:
    embed("shards", "--out", "emb", "--model", "toy_model:hashed", "--part", "1/3")
    status, document, _ = embed("shards", "--out", "emb", "--model", "toy_model:hashed", "--parts", 2)
    assert status == 2
    assert "was begun in 3 parts, and this run has 2" in document["error"]["message"]
    status, document, _ = embed("shards", "--out", "emb", "--model", "static", "--parts", 3)
    assert status == 2
    assert "part 1/3 in emb/code was made of other inputs" in document["error"]["message"]
    assert embed("shards", "--out", "emb", "--model", "static", "--parts", 2, "--overwrite")[0] == 0


def test_a_dry_run_says_the_size_and_writes_nothing(place, embed) -> None:
    status, document, _ = embed("shards", "--out", "emb", "--dry-run")
    assert status == 0
    assert not (place / "emb").exists()
    embed("shards", "--out", "emb")
    stored = sum(path.stat().st_size - 128 for path in (place / "emb").glob("*/*.npy"))
    assert document["bytes"] == stored
    assert document["domains"][1] == {
        "name": "web", "rows": 60, "embed": 60, "parts": 1, "dimensions": 64, "bytes": 60 * 133, "complete": False,
    }  # fmt: skip


def test_rows_without_a_direction_are_flagged(place, embed) -> None:
    status, document, told = embed("web=shards/web", "--out", "emb", "--model", "toy_model:zero_for_red")
    assert status == 0
    assert document["domains"][0]["failed"] == 30
    assert "web: 30 rows have no embedding" in told
    scores = Scores.open(place / "emb" / "web")
    red = np.array(["red" in text for text in TEXTS["web"]])
    assert (scores.flags == np.where(red, 4, 1)).all()
    assert not scores.column("embedding")[red].any()
    assert "n_tokens" not in scores.columns  # nothing could count


def test_within_a_selection(place, embed) -> None:
    embed("shards", "--out", "whole", "--model", "toy_model:hashed")
    table = Scores.open(place / "whole" / "web").table
    kept = np.array([0, 1, 17, 40, 41, 59])
    made = provenance({"by": "hand"})
    write_selection(place / "sel" / "web", domain="web", table=table, kept=kept, rule={}, parents={}, made=made)
    status, document, _ = embed(
        "web=shards/web", "--out", "emb", "--model", "toy_model:hashed", "--within", "sel", "--parts", 2
    )
    assert status == 0
    assert document["domains"][0]["left_out"] == 54
    scores, whole = Scores.open(place / "emb" / "web"), Scores.open(place / "whole" / "web")
    assert np.flatnonzero(scores.flags).tolist() == kept.tolist()
    assert scores.column("embedding")[kept].tobytes() == whole.column("embedding")[kept].tobytes()
    assert scores.made["inputs"]["within"]
    status, document, _ = embed("web=shards/code", "--out", "emb2", "--model", "toy_model:hashed", "--within", "sel")
    assert status == 1
    assert "is not the one that the selection was made for" in document["error"]["message"]


def test_rows_of_tokens_are_decoded_first(place, embed) -> None:
    Path("book.txt").write_text("The red cat sat. " * 40 + "é" * 30)
    assert main(["convert", "book.txt", "--out", "tokens", "--seq-len", "32", "--workers", "1"]) == 0
    status, document, _ = embed("tokens", "--out", "emb", "--dtype", "f4")
    assert status == 0
    scores = Scores.open(place / "emb" / "book")
    assert scores.column("n_tokens").tolist() == [32] * scores.rows
    expected = EmbedderSpec.parse("static").load().embed([("The red cat sat. " * 40)[:32]])
    assert scores.column("embedding")[0].tobytes() == expected.unit_ND[0].tobytes()
    assert embed("tokens", "--out", "fed", "--model", "toy_model:tokens", "--feed", "tokens")[0] == 0
    status, document, _ = embed("shards", "--out", "emb3", "--model", "toy_model:tokens", "--feed", "tokens")
    assert status == 2
    assert "column 'text' of domain 'code' holds texts" in document["error"]["message"]
    status, document, _ = embed("tokens", "--out", "emb2", "--tokenizer", "missing.json")
    assert status == 2
    assert "--tokenizer missing.json" in document["error"]["message"]


def test_a_tokenizer_counts_the_tokens_of_texts(place, embed) -> None:
    embed("web=shards/web", "--out", "emb", "--model", "toy_model:hashed", "--tokenizer", "bytes")
    assert Scores.open(place / "emb" / "web").column("n_tokens").tolist() == [len(text) + 1 for text in TEXTS["web"]]


def test_vectors_that_exist(place, embed) -> None:
    embed("shards", "--out", "emb", "--model", "toy_model:hashed", "--dtype", "f4")
    expected = {name: Scores.open(place / "emb" / name).column("embedding") for name in TEXTS}
    for name, vectors in expected.items():
        np.save(f"{name}.npy", vectors * 3)
        order = np.random.default_rng(0).permutation(len(vectors))[:-1]
        lists = pa.array([each.tolist() for each in vectors[order]])
        pq.write_table(pa.table({"embedding": lists, "id": order}), f"{name}.parquet", row_group_size=7)
    (place / "calls.log").unlink()
    assert embed("shards", "--out", "npy", "--model", "npy:{domain}.npy", "--dtype", "f4", "--parts", 3)[0] == 0
    assert (
        embed(
            "shards", "--out", "pq", "--model", "parquet:{domain}.parquet", "--key", "id", "--dtype", "f4", "--parts", 3
        )[0]
        == 0
    )
    assert not (place / "calls.log").exists()
    for name, vectors in expected.items():
        assert np.allclose(Scores.open(place / "npy" / name).column("embedding"), vectors, atol=1e-6)
        scores = Scores.open(place / "pq" / name)
        assert int((scores.flags == 0).sum()) == 1
        assert np.allclose(scores.column("embedding")[scores.scored], vectors[scores.scored], atol=1e-6)
    status, document, _ = embed("shards", "--out", "bad", "--model", "npy:web.npy")
    assert status == 2
    assert "60 vectors, the dataset has 25 rows" in document["error"]["message"]


def test_a_dataset_in_a_store(place, embed, s3) -> None:
    embed("web=shards/web", "--out", "emb")
    s3.upload(place / "shards" / "web")
    status, _, _ = embed(f"web={s3.url}", "--out", "far", "--local", "cache", "--cache-limit", "8kb", "--parts", 2)
    assert status == 0
    assert columns(place / "far" / "web") == columns(place / "emb" / "web")
    status, document, _ = embed("shards", "--out", "s3://bucket/emb")
    assert status == 2
    assert "write to a local directory" in document["error"]["message"]


def test_workers_elsewhere_find_everything(place) -> None:
    Path("model").mkdir()
    spec = EmbedderSpec.parse("static")
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        Path("model", name).symlink_to(Path(spec.path, name))
    reading, output = Reading(local="cache"), Output(out="emb")
    settings = EmbedSettings(output=output, spec=EmbedderSpec.parse("model"), reading=reading)
    (job,) = plan_job(find_domains(["shards/web"]), settings, PartOptions(parts=2))
    for task in job.tasks:
        assert task.reading.local is not None
        assert all(Path(path).is_absolute() for path in (task.out, task.url, task.reading.local, task.spec.path))
    assert pickle.loads(pickle.dumps(job.tasks[1])) == job.tasks[1]


def test_an_empty_domain(place, embed) -> None:
    with ms.MDSWriter(out="empty", columns={"text": "str"}):
        pass
    status, document, _ = embed("empty", "--out", "emb", "--model", "static")
    assert status == 0
    assert document["domains"][0]["rows"] == 0


def test_only_failures_are_a_fault(place, embed) -> None:
    with ms.MDSWriter(out="blank", columns={"text": "str"}) as out:
        out.write({"text": " "})
    assert embed("blank", "--out", "emb", "--model", "static")[0] == 1


def test_the_table_for_people(place, capsys) -> None:
    assert main(["embed", "shards", "--out", "emb", "--workers", "1"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"web +60 +60 +0 +0 +64 +\d+", told)
    assert re.search(r"emb: 85 rows in \d+ s, [\d,]+ rows/s", told)


def test_changed_shards_are_other_inputs(place, embed) -> None:
    embed("web=shards/web", "--out", "emb", "--model", "toy_model:hashed")
    status, document, _ = embed("web=shards/code", "--out", "emb", "--model", "toy_model:hashed")
    assert status == 2
    assert "made with other shards" in document["error"]["message"]


def test_a_transformer_gives_equal_bytes_for_any_parts(place, embed) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    import torch

    words = sorted({word for text in TEXTS["web"] for word in text.split()} | {"[UNK]"})
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: at for at, w in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    transformers.BertModel(config).save_pretrained("bert")
    made.save("bert/tokenizer.json")
    for out, parts in (("one", 1), ("three", 3)):
        model = ("--model", "bert", "--device", "cpu", "--batch-tokens", 64)
        assert embed("web=shards/web", "--out", out, *model, "--parts", parts)[0] == 0
    assert columns(place / "one" / "web") == columns(place / "three" / "web")
    scores = Scores.open(place / "one" / "web")
    assert scores.column("embedding").shape == (60, 16)
    assert scores.column("n_tokens").tolist() == [7] * 60
    assert scores.made["packages"]["transformers"]
