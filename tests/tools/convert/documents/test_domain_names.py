"""Domains whose names cannot be directories: converted, and known by their own names wherever they are read."""

import json

import pytest

import mixstream as ms
from mixstream_tools.cli import main

NAMES = ["C#", "PL/SQL", "..", "F#/.NET", "50%", "naïve e\u0301", "CON", "web", "x" * 400]


@pytest.fixture
def converted(write_tree, tmp_path, convert_json):
    lines = [json.dumps({"text": f"{name[:3]} {at} " * 9, "lang": name}) for at in range(20) for name in NAMES]
    source = write_tree({"mix.jsonl": "\n".join(lines)})
    run = [source / "mix.jsonl", "--out", tmp_path / "out", "--domain-key", "lang", "--seq-len", 32]
    return *convert_json(*run), run


def test_every_name_is_a_domain(converted, tmp_path, read_rows, read_meta, expected_rows, convert_json):
    status, told, _, run = converted
    assert status == 0
    assert set(told["domains"]) == set(NAMES)
    places = {
        read_meta(index.parent)["domain"]: index.parent for index in (tmp_path / "out").glob("*/train/index.json")
    }
    assert set(places) == set(NAMES)
    for name, place in places.items():
        assert (read_rows(place) == expected_rows([f"{name[:3]} {at} " * 9 for at in range(20)], 32)).all()
    assert places["C#"] == tmp_path / "out/C~23/train"
    assert convert_json(*run)[1]["status"] == "nothing to do"
    (places["PL/SQL"] / "part-00000/shard.00000.mds").unlink()
    assert convert_json(*run)[1]["status"] == "converted"
    assert (places["PL/SQL"] / "part-00000/shard.00000.mds").exists()


def test_commands_and_streams_know_them_by_name(converted, tmp_path, capsys):
    *_, run = converted
    out = run[2]
    short = [name for name in NAMES if len(name) < 100]
    for command in ("inspect", "verify"):
        capsys.readouterr()
        assert main([command, str(out), "--json"]) == 0
        assert {f"{name}/train" for name in short} < {
            each["name"] for each in json.loads(capsys.readouterr().out)["datasets"]
        }
    assert main(["plan", "--data", str(out), "--mixer", "natural", "--batch-size", "8", "--steps", "2", "--json"]) == 0
    assert "PL/SQL" in capsys.readouterr().out
    streams = [ms.Stream(remote=str(out / place), split="train") for place in ("C~23", "PL~2FSQL", "web")]
    assert ms.StreamingDataset(streams=streams, batch_size=4).domain_names == ["C#", "PL/SQL", "web"]


def test_a_name_on_the_command_line(write_tree, tmp_path, convert_json):
    source = write_tree({"a.txt": "text " * 50})
    status, told, _ = convert_json(f"C#={source}/a.txt", "--out", tmp_path / "out", "--seq-len", 8)
    assert (status, list(told["domains"])) == (0, ["C#"])
    assert (tmp_path / "out/C~23/train/index.json").exists()
    assert convert_json(f"C#={source}/a.txt", "--out", tmp_path / "out", "--seq-len", 8)[1]["status"] == "nothing to do"


def test_names_that_differ_in_case_only_are_said(write_tree, tmp_path, convert_json):
    lines = [json.dumps({"text": "x" * 40, "lang": lang}) for lang in ("Go", "go", "web")]
    source = write_tree({"mix.jsonl": "\n".join(lines)})
    run = [source / "mix.jsonl", "--out", tmp_path / "out", "--domain-key", "lang", "--seq-len", 8]
    assert "'Go' and 'go' differ in case only" in convert_json(*run)[1]["warnings"][0]
