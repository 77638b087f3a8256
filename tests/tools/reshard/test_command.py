"""`mixstream reshard`: the same rows in other shards; kills, refusals, stores, and documents that follow their rows."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import mixstream as ms
from mixstream.documents import Documents
from mixstream.errors import UnfinishedError
from mixstream.formats import decode_sample, parse_index, read_offsets
from mixstream_tools.cli import main
from mixstream_tools.reshard.shuffled import keys_of


@pytest.fixture
def convert(write_tree, tmp_path):
    """A conversion of two domains: rows of 32 tokens, a split `val` in each."""

    def run(*options, out="old"):
        lines = "".join(json.dumps({"text": f"{at} " * (at % 60 + 1), "id": f"d{at}"}) + "\n" for at in range(300))
        source = write_tree({"web.jsonl": lines, "code/a.py": "x = 1\n" * 500})
        command = ["convert", source / "web.jsonl", source / "code", "--out", tmp_path / out, "--seq-len", 32]
        assert main([*map(str, command), "--workers", "1", *map(str, options)]) == 0
        return tmp_path / out

    return run


@pytest.fixture
def reshard(capsys):
    def run(*arguments):
        capsys.readouterr()
        workers = () if {"--workers", "--part"} & {*arguments} else ("--workers", "1")
        status = main(["reshard", *map(str, arguments), "--json", *workers])
        told = capsys.readouterr()
        return status, json.loads(told.out), told.err

    return run


def samples(directory: Path) -> list[dict]:
    """All samples, every shard checked against its index and decompressed."""
    from mixstream.formats import decompress

    found = []
    for info in parse_index((directory / "index.json").read_bytes(), where="").shards:
        data = (directory / (info.zip or info.raw).basename).read_bytes()
        data = decompress(info.compression, data, raw_bytes=info.raw.bytes, where="") if info.zip else data
        offsets = read_offsets(data, info, where="")
        found += [decode_sample(data[a:b], info, where="") for a, b in pairwise(offsets)]
    return found


def rows(directory: Path) -> list[list[int]]:
    return [sample["tokens"].tolist() for sample in samples(directory)]


def test_the_rows_are_the_same_and_the_bytes_are_those_of_a_writer(convert, reshard, tmp_path, read_meta):
    old = convert("--val-fraction", 0.2)
    status, told, _ = reshard(old, "--out", tmp_path / "new", "--size-limit", "3kb", "--hashes", "sha1")
    assert status == 0
    assert [each["name"] for each in told["datasets"]] == ["code/train", "web/train", "web/val"]
    for each in told["datasets"]:
        name = each["name"]
        assert rows(tmp_path / "new" / name) == rows(old / name)
        with ms.MDSWriter(
            out=str(tmp_path / "written" / name),
            columns={"tokens": "ndarray:uint16:32"},
            size_limit="3kb",
            hashes=["sha1"],
        ) as writer:
            for row in rows(old / name):
                writer.write({"tokens": np.array(row, np.uint16)})
        shards = sorted((tmp_path / "written" / name).glob("shard.*"))
        assert len(shards) == each["shards"] > 2
        assert [path.read_bytes() for path in shards] == [
            (tmp_path / "new" / name / path.name).read_bytes() for path in shards
        ]
        before, after = read_meta(old / name), read_meta(tmp_path / "new" / name)
        assert after.pop("shards") == each["shards"]
        before.pop("shards")
        assert after == before
    assert [stream.name for stream in ms.streams(str(tmp_path / "new"))] == ["code", "web"]
    assert main(["verify", str(tmp_path / "new")]) == 0
    assert not (tmp_path / "new/.reshard").exists()
    assert reshard(old, "--out", tmp_path / "new", "--size-limit", "3kb", "--hashes", "sha1")[1]["status"] == (
        "nothing to do"
    )


def test_workers_parts_and_a_store_change_no_byte(convert, reshard, tmp_path, snapshot):
    old, options = convert(), ("--size-limit", "2kb", "--compression", "zstd")
    reshard(old, "--out", tmp_path / "one", *options)
    reshard(old, "--out", tmp_path / "two", *options, "--workers", 2)
    for part in (2, 0, 1):
        status, told, _ = reshard(old, "--out", tmp_path / "array", *options, "--part", f"{part}/3")
        assert (status, told["part"]) == (0, f"{part}/3")
        with pytest.raises(UnfinishedError):
            ms.streams(str(tmp_path / "array"))
    told = reshard(old, "--out", tmp_path / "array", *options, "--parts", 3)[1]
    assert told["written_bytes"] == 0
    reshard(f"file://{old}", "--out", f"file://{tmp_path}/store", *options)
    whole = snapshot(tmp_path / "one")
    assert any(name.endswith(".mds.zstd") for name in whole)
    for name in ("two", "array", "store"):
        assert snapshot(tmp_path / name) == whole


def test_killed_between_any_two_writes_it_goes_on_to_the_same_bytes(convert, reshard, tmp_path, snapshot, monkeypatch):
    from mixstream_tools.reshard.records import Records

    class Killed(BaseException):
        pass

    old = convert()
    options = ("--size-limit", "24kb", "--shuffle-seed", 1)
    reshard(old, "--out", tmp_path / "whole", *options)
    whole = snapshot(tmp_path / "whole")
    real = {name: getattr(Records, name) for name in ("write", "remove")}
    for at in range(0, 100, 3):
        out, left = tmp_path / "out", [at]

        def act(self, name, *data, act, left=left):
            if not left[0]:
                raise Killed
            left[0] -= 1
            return real[act](self, name, *data)

        for name in real:
            monkeypatch.setattr(Records, name, lambda self, *rest, name=name, act=act: act(self, *rest, act=name))
        try:
            reshard(old, "--out", out, *options)
        except Killed:
            for name, function in real.items():
                monkeypatch.setattr(Records, name, function)
            indexes = sorted(path.parent for path in out.glob("*/*/index.json"))
            assert all(rows(path) for path in indexes), "what has an index is whole"
            if len(indexes) < 2 and list(out.glob("*/*/shard.*")):
                with pytest.raises(UnfinishedError):
                    ms.streams(str(out))
            reshard(old, "--out", out, *options)
            assert snapshot(out) == whole
            shutil.rmtree(out)
        else:
            break
    assert at > 5
    assert snapshot(tmp_path / "out") == whole


def test_shuffled_rows_are_all_there_in_an_order_of_the_seed(convert, reshard, tmp_path, monkeypatch):
    old = convert()
    reshard(old / "web/train", "--out", tmp_path / "seven", "--shuffle-seed", 7)
    before, after = rows(old / "web/train"), rows(tmp_path / "seven")
    assert after != before
    assert sorted(after) == sorted(before)
    order = np.argsort(keys_of(np.arange(len(before)), 7))
    assert after == [before[at] for at in order]
    from mixstream_tools.reshard import dataset, job

    for place in (dataset, job):  # many scatterings, in a memory of two rows or so
        monkeypatch.setattr(place, "SCATTER_BYTES", 4000)
    reshard(old / "web/train", "--out", tmp_path / "small", "--shuffle-seed", 7)
    assert rows(tmp_path / "small") == after
    reshard(old / "web/train", "--out", tmp_path / "eight", "--shuffle-seed", 8)
    assert rows(tmp_path / "eight") not in (after, before)


@pytest.mark.parametrize("kind", ["packed", "documents"])
def test_documents_follow_their_rows(convert, reshard, tmp_path, kind):
    """Each token of each document is found where the new sidecar says."""
    old = convert("--rows", kind)
    reshard(old, "--out", tmp_path / "same", "--size-limit", "2kb")
    reshard(old, "--out", tmp_path / "shuffled", "--size-limit", "2kb", "--shuffle-seed", 5)
    texts = {}
    for name in ("old", "same", "shuffled"):
        place = tmp_path / name / "web/train"
        stored = rows(place)
        found: dict[str, dict[int, int]] = {}
        documents = Documents.open(str(place))
        assert documents.rows == len(stored)
        last = (-1, -1)
        for block in documents.blocks():
            for line in block.to_pylist():
                if line["row"] is None:
                    continue
                assert (line["row"], line["token"]) > last
                last = line["row"], line["token"]
                stream = (
                    [token for row in stored[line["row"] :] for token in row]
                    if kind == "packed"
                    else stored[line["row"]]
                )
                tokens = stream[line["token"] : line["token"] + line["tokens"]]
                if name == "shuffled":
                    assert line["token"] + line["tokens"] <= len(stored[line["row"]])
                found.setdefault(line["id"], {}).update(enumerate(tokens, line["begin"]))
        texts[name] = {key: [tokens[at] for at in sorted(tokens)] for key, tokens in found.items()}
    assert texts["old"] == texts["same"] == texts["shuffled"]
    assert len(texts["old"]) > 290
    same, old_files = (tmp_path / name / "web/train/documents" for name in ("same", "old"))
    assert {p.name: p.read_bytes() for p in same.iterdir()} == {p.name: p.read_bytes() for p in old_files.iterdir()}
    middle = Documents.open(str(tmp_path / "shuffled/web/train")).borders(3, 6)
    assert {*middle.row_N.tolist()} == {3, 4, 5}


def test_dtype_changes_there_and_back_and_refuses_what_does_not_fit(convert, reshard, tmp_path):
    old = convert()
    reshard(old / "web/train", "--out", tmp_path / "wide", "--dtype", "uint32")
    assert samples(tmp_path / "wide")[0]["tokens"].dtype == np.uint32
    assert rows(tmp_path / "wide") == rows(old / "web/train")
    reshard(tmp_path / "wide", "--out", tmp_path / "back", "--dtype", "uint16")
    assert (
        (tmp_path / "back/shard.00000.mds")
        .read_bytes()
        .endswith((old / "web/train/part-00000/shard.00000.mds").read_bytes()[-640:])
    )
    with ms.MDSWriter(out=str(tmp_path / "large"), columns={"tokens": "ndarray:int64", "x": "pkl"}) as writer:
        for at in range(9):
            writer.write({"tokens": np.array([1, 70000 if at == 5 else 2] * (at + 1), np.int64), "x": {at}})
    status, told, _ = reshard(tmp_path / "large", "--out", tmp_path / "narrow", "--dtype", "uint16")
    assert status == 1
    assert "sample 5: column 'tokens' holds 70000, and uint16 goes from 0 to 65535" in told["error"]["message"]
    assert reshard(tmp_path / "large", "--out", tmp_path / "narrow", "--dtype", "uint32", "--overwrite")[0] == 0
    found = samples(tmp_path / "narrow")
    assert [sample["tokens"].tolist() for sample in found] == [
        [1, 70000 if at == 5 else 2] * (at + 1) for at in range(9)
    ]
    assert [sample["x"] for sample in found] == [{at} for at in range(9)]
    status, told, _ = reshard(tmp_path / "large", "--out", tmp_path / "no", "--dtype", "uint32", "--column", "x")
    assert (status, "is of 'pkl'" in told["error"]["message"]) == (2, True)


def test_rows_of_any_size_and_kind_are_copied_as_they_are(reshard, tmp_path):
    """As of mosaicml-streaming: no entry of ours in the index, several columns, compressed shards, a pickled one."""
    values = [{"n": at, "text": "é" * (at * 37 % 400), "x": {"a": at}} for at in range(60)]
    columns = {"n": "int", "text": "str", "x": "pkl"}
    with ms.MDSWriter(
        out=str(tmp_path / "old"), columns=columns, compression="gz", size_limit=3000, metadata={"by": "us"}
    ) as writer:
        for value in values:
            writer.write(value)
    status, told, log = reshard(
        tmp_path / "old", "--out", tmp_path / "new", "--compression", "none", "--size-limit", 5000
    )
    assert (status, told["datasets"][0]["rows"]) == (0, 60)
    assert "rows of different sizes" in log
    assert samples(tmp_path / "new") == values
    index = parse_index((tmp_path / "new/index.json").read_bytes(), where="")
    assert index.extra["by"] == "us"
    with ms.MDSWriter(out=str(tmp_path / "want"), columns=columns, size_limit=5000) as writer:
        for value in values:
            writer.write(value)
    for path in (tmp_path / "want").glob("shard.*"):
        assert path.read_bytes() == (tmp_path / "new" / path.name).read_bytes()
    reshard(tmp_path / "new", "--out", tmp_path / "mixed", "--shuffle-seed", 3, "--size-limit", 3000)
    found = samples(tmp_path / "mixed")
    assert sorted(found, key=lambda sample: sample["n"]) == values
    assert found != values


def test_what_is_there_or_damaged_is_refused(convert, reshard, tmp_path):
    old = convert()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years of work")
    for arguments, told in [
        ((old, "--out", tmp_path / "mine"), "holds 'thesis.tex'"),
        ((old, "--out", old / "new"), "lie in each other"),
        ((old, "--out", tmp_path), "lie in each other"),
        ((old / "web", "--out", tmp_path / "x", "--shuffle-seed", 1, "--part", "0/2"), "Use --workers"),
        ((old / "web", "--out", tmp_path / "x", "--work", tmp_path / "y"), "--work"),
        ((old / "web", "--out", tmp_path / "x", "--compression", "lz5"), "lz5"),
        ((tmp_path / "mine", "--out", tmp_path / "x"), "no dataset is there"),
    ]:
        status, found, _ = reshard(*arguments)
        assert (status, told in found["error"]["message"]) == (2, True), found
    assert not (tmp_path / "x").exists()
    reshard(old / "web", "--out", tmp_path / "new", "--part", "0/2")
    status, found, _ = reshard(old / "web", "--out", tmp_path / "new", "--part", "1/2", "--size-limit", "1kb")
    assert (status, "a reshard of size_limit 67108864 has begun there" in found["error"]["message"]) == (1, True)
    shard = old / "web/train/part-00000/shard.00000.mds"
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)
    status, found, _ = reshard(old, "--out", tmp_path / "damaged")
    assert (status, found["error"]["type"]) == (1, "ShardCorruptError")
    assert "the index says" in found["error"]["message"]
    assert not list((tmp_path / "damaged").glob("**/index.json"))


def test_a_straggler_of_another_job_does_not_mix_its_shards_in(convert, reshard, tmp_path, monkeypatch):
    from mixstream_tools.reshard.records import Records

    old, real, begun = convert(), Records.record, []

    def record(self, *rest):
        if not begun:
            begun.append(True)
            reshard(old, "--out", tmp_path / "new", "--size-limit", "2kb", "--overwrite", "--part", "0/2")
        real(self, *rest)

    monkeypatch.setattr(Records, "record", record)
    status, told, _ = reshard(old, "--out", tmp_path / "new", "--size-limit", "4kb", "--part", "1/2")
    assert (status, "another `mixstream reshard` has begun" in told["error"]["message"]) == (1, True)


def test_overwrite_replaces_and_leaves_nothing_of_before(convert, reshard, tmp_path, snapshot):
    old = convert()
    reshard(old, "--out", tmp_path / "new", "--size-limit", "1kb")
    reshard(old, "--out", tmp_path / "new", "--overwrite", "--compression", "zstd")
    reshard(old, "--out", tmp_path / "whole", "--compression", "zstd")
    assert snapshot(tmp_path / "new") == snapshot(tmp_path / "whole")
