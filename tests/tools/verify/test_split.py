"""`mixstream verify` and `mixstream inspect` on JSON, CSV, TSV and XSV shards, which have two files each."""

from __future__ import annotations

import json

import pytest

import mixstream as ms
from mixstream_tools.cli import main

ROWS = 40


@pytest.fixture
def run(capsys):
    """Run a command with `--json`; returns status and document."""

    def run(command, *arguments):
        capsys.readouterr()
        status = main([command, *map(str, arguments), "--json"])
        return status, json.loads(capsys.readouterr().out)

    return run


def write(out, writer=ms.JSONWriter, **options):
    with writer(columns={"text": "str", "id": "int"}, out=out, size_limit=300, **options) as writing:
        for row in range(ROWS):
            writing.write({"text": f"row {row}", "id": row})
    return out


def faults(document):
    return {(fault["file"], fault["kind"]) for fault in document["faults"]}


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_what_is_whole_is_good_and_shown(run, compression, tmp_path):
    write(tmp_path, ms.CSVWriter, compression=compression, hashes=["xxh3_64"])
    status, document = run("verify", tmp_path)
    assert (status, document["datasets"][0]["decoded"], document["datasets"][0]["orphans"]) == (0, ROWS, [])
    assert document["datasets"][0]["bytes"] == sum(path.stat().st_size for path in tmp_path.glob("shard*"))
    assert run("verify", tmp_path, "--quick")[0] == 0
    status, document = run("inspect", tmp_path, "--samples", "2")
    (found,) = document["datasets"]
    assert found["formats"] == ["csv"]
    assert found["columns"] == [{"id": "int", "text": "str"}]
    shown = [each["columns"] for each in found["samples_shown"]]
    assert [each["id"]["value"] for each in shown] == [0, shown[1]["id"]["value"]]
    assert shown[1]["id"]["value"] > 0
    assert shown[1]["text"]["value"] == f"row {shown[1]['id']['value']}"


@pytest.mark.parametrize(
    ("file", "damage", "kind"),
    [
        ("shard.00001.json", lambda data: data.replace(b'"id"', b'"ie"', 1), "hash"),
        ("shard.00001.json.meta", lambda data: data[:-1] + b"]", "hash"),
        ("shard.00001.json", lambda data: data[:-1], "size"),
        ("shard.00001.json.meta", lambda data: data + b"x", "size"),
        ("shard.00001.json", None, "missing"),
        ("shard.00001.json.meta", None, "missing"),
    ],
)
def test_damage_of_either_file_is_named(run, file, damage, kind, tmp_path):
    path = write(tmp_path, hashes=["sha1"]) / file
    data = path.read_bytes()
    path.unlink() if damage is None else path.write_bytes(damage(data))
    status, document = run("verify", tmp_path)
    assert status == 1
    assert faults(document) == {(file, kind)}


@pytest.mark.parametrize(
    ("file", "damage", "kind"),
    [
        ("shard.00001.json", lambda data: data.replace(b'"id"', b'"ie"', 1), "samples"),
        ("shard.00001.json.meta", lambda data: b"\x05" + data[1:], "damaged"),
    ],
)
def test_without_hashes_the_content_shows_it(run, file, damage, kind, tmp_path):
    path = write(tmp_path) / file
    path.write_bytes(damage(path.read_bytes()))
    status, document = run("verify", tmp_path)
    assert status == 1
    assert faults(document) == {("shard.00001.json", kind)}


def test_files_that_the_index_does_not_name_are_listed(run, tmp_path):
    write(tmp_path)
    for name in ("shard.00099.json", "shard.00099.json.meta", "notes.json"):
        (tmp_path / name).write_bytes(b"{}")
    _, document = run("verify", tmp_path)
    assert document["datasets"][0]["orphans"] == ["shard.00099.json", "shard.00099.json.meta"]


def test_shards_without_an_index_are_unfinished(run, tmp_path):
    (write(tmp_path) / "index.json").unlink()
    status, document = run("verify", tmp_path)
    assert status == 1
    assert "unfinished" in json.dumps(document["faults"])
    with pytest.raises(FileNotFoundError, match="unfinished"):
        ms.StreamingDataset(remote=str(tmp_path), batch_size=1)
