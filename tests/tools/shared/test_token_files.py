"""Commands on token files: what they show and check, how rows are scored, and which commands read none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from token_files import (  # pyright: ignore[reportMissingImports] - conftest.py sets the path
    datatrove_files,
    megatron_idx,
    megatron_pair,
    write_files,
)

import mixstream as ms
from mixstream.selection import Scores
from mixstream_tools.cli import main

DOCUMENTS = [list(range(i, i + 5)) for i in range(0, 500, 5)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return write_files(tmp_path / "web", megatron_pair(DOCUMENTS))


@pytest.fixture
def run(capsys):
    """Run a command with --json; returns status, document and what it says on stderr."""

    def call(*arguments: object) -> tuple[int, dict, str]:
        capsys.readouterr()
        status = main([*map(str, arguments), "--json"])
        shown = capsys.readouterr()
        return status, json.loads(shown.out) if shown.out else {}, shown.err

    return call


def test_inspect_shows_documents_and_rows(place, run):
    status, document, _ = run("inspect", place, "--samples", 2)
    (found,) = document["datasets"]
    assert (status, found["samples"], found["tokens"], found["formats"]) == (0, 100, 500, ["megatron"])
    assert [each["columns"]["tokens"]["first"] for each in found["samples_shown"]] == [DOCUMENTS[0], DOCUMENTS[50]]
    status, document, _ = run("inspect", place / "web.bin", "--seq-len", 64, "--overlap", 1, "--samples", 1)
    (found,) = document["datasets"]
    assert (found["samples"], found["columns"]) == (7, [{"tokens": "ndarray:uint16:65"}])
    assert (found["tokens"], found["dropped_tokens"]) == (449, 51)


def test_inspect_fetches_the_tokens_that_it_shows(s3, run):
    for name, data in datatrove_files([list(range(50000))]).items():
        s3.put(name, data)
    status, document, _ = run("inspect", f"{s3.url}/web.ds", "--seq-len", 8, "--samples", 1)
    (found,) = document["datasets"]
    assert (status, found["samples"], found["tokens"]) == (0, 6250, 50000)
    assert found["samples_shown"][0]["columns"]["tokens"]["first"] == list(range(8))


def test_verify_checks_sizes_and_borders(place, run):
    status, document, err = run("verify", place)
    assert (status, document["datasets"][0]["checked"], document["datasets"][0]["samples"]) == (0, 1, 100)
    assert "not each token" in err
    (place / "web.idx").write_bytes(megatron_idx([5] * 100, documents=[0, 100, 99]))
    status, document, _ = run("verify", place, "--seq-len", 8)
    assert (status, document["faults"][0]["file"]) == (1, "web.idx")
    assert "document_indices" in document["faults"][0]["what"]
    (place / "web.bin").write_bytes(bytes(999))
    status, document, _ = run("verify", place)
    assert status == 1
    assert "truncated: 999 bytes" in document["faults"][0]["what"]


def test_rows_of_token_files_are_scored_and_selected(place, run, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"ordinal": {row}, "score": {row % 7}}}\n' for row in range(50)))
    options = ("--seq-len", 10)
    status, _, err = run(
        "select", "import", rows, "--dataset", f"web={place}", "--key", "ordinal", "--side", "high",
        "--out", tmp_path / "scores", *options,
    )  # fmt: skip
    assert status == 0, err
    status, _, err = run(
        "select", "top", tmp_path / "scores", "--column", "score", "--rows", 20, "--out", tmp_path / "best"
    )
    assert status == 0, err
    stream = ms.Stream(remote=str(place), seq_len=10, selection=tmp_path / "best", name="web")
    dataset = ms.StreamingDataset(streams=[stream], batch_size=1)
    with ms.Loader(dataset) as loader:
        kept = [int(batch["tokens"][0, 0]) // 10 for batch in loader]
    assert len(kept) == 20
    assert min(row % 7 for row in kept) >= 4


def test_rows_are_drawn_at_random_and_counted(place, run, tmp_path):
    options = ("--seq-len", 10)
    status, _, err = run("select", "random", place, "--tokens", 150, "--out", tmp_path / "random", *options)
    assert status == 0, err
    status, document, err = run("select", "stats", tmp_path / "random", "--dataset", place, *options)
    assert status == 0, err
    assert document["domains"][0]["kept_rows"] == 15


def test_keys_of_rows_tell_their_tokens(place, run, tmp_path):
    assert run("select", "key", f"web={place}", "--out", tmp_path / "keys", "--seq-len", 10)[0] == 0
    keys = Scores.open(tmp_path / "keys", domain="web")
    assert keys.rows == 50
    assert len(np.unique(keys.column("key"))) == 50


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (("merge",), "does not read"),
        (("reshard",), "does not read"),
        (("inspect", "--seq-len", "0"), "--seq-len 0"),
        (("inspect", "--dtype", "half"), "--dtype half"),
    ],
)
def test_what_does_not_work_on_token_files_is_refused_by_name(place, capsys, tmp_path, command, text):
    out = () if command[0] == "inspect" else ("--out", str(tmp_path / "out"))
    assert main([command[0], str(place), *command[1:], *out]) == 2
    assert text in capsys.readouterr().err


def test_a_file_that_does_not_say_its_dtype_asks_for_the_option(tmp_path, capsys):
    write_files(tmp_path, {"train.bin": bytes(64)})
    assert main(["inspect", str(tmp_path / "train.bin"), "--seq-len", "8"]) == 2
    assert "--dtype" in capsys.readouterr().err


def test_directories_above_token_files_say_where_they_are(place, capsys):
    for command in ("inspect", "plan"):
        given = ("--data", str(place.parent)) if command == "plan" else (str(place.parent),)
        assert main([command, *given]) == 2
        assert "sub-directories ['web']" in capsys.readouterr().err
