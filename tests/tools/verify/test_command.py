"""`mixstream verify`: every kind of damage is found and named, nothing stops it, and all is well where all is well."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from faults import corrupt, refuse_with, stall  # pyright: ignore[reportMissingImports] - conftest.py sets the path

import mixstream as ms
from mixstream.formats import decompress, dump_index, hash_hex, parse_index
from mixstream_tools.cli import main
from mixstream_tools.verify.shard import Depth

GOLDEN = Path(__file__).parents[2] / "data" / "mosaic"
OPTIONS = {
    *("--shard", "--samples", "--quick", "--workers", "--memory", "--allow-unsafe-types"),
    *("--download-retry", "--download-timeout", "--json", "--seq-len", "--overlap", "--dtype", "--token-column"),
}
ROWS = 40


@pytest.fixture
def verify(capsys):
    """Run `mixstream verify … --json`; returns status, document, stderr."""

    def run(*arguments):
        capsys.readouterr()
        retry = () if "--download-retry" in arguments else ("--download-retry", "1")
        status = main(["verify", *map(str, arguments), *retry, "--json"])
        told = capsys.readouterr()
        return status, json.loads(told.out), told.err

    return run


def write(out: Path, rows: int = ROWS, **kw) -> Path:
    """Write `rows` samples of text and tokens, some ten to a shard."""
    columns = {"text": "str", "tokens": "ndarray:uint16"}
    with ms.MDSWriter(columns=columns, out=str(out), **{"size_limit": 600, **kw}) as writer:
        for row in range(rows):
            writer.write({"text": f"row {row} {'x' * (row % 7)}", "tokens": np.full(8, row, np.uint16)})
    return out


def shards_of(directory: Path) -> list[str]:
    index = parse_index((directory / "index.json").read_bytes(), where="test")
    return [(info.zip or info.raw).basename for info in index.shards]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def told(document) -> set[tuple[str, str]]:
    return {(fault["file"], fault["kind"]) for fault in document["faults"]}


def test_options_of_verify_are_frozen(capsys, monkeypatch):
    """A new option is a promise: add it here, and to docs/ where its page lists options, on purpose."""
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["verify", "--help"]) == 0
    told = capsys.readouterr().out
    assert set(re.findall(r"(?<![\w-])--[a-z-]+(?= )", told[told.index("Parameters") :])) == OPTIONS
    assert "mixstream verify s3://bucket/shards --quick" in told


def test_what_mosaicml_wrote_is_well(verify):
    """All encodings, all compressions, all hashes."""
    status, document, err = verify(GOLDEN)
    assert (status, document["status"], document["faults"]) == (0, "ok", [])
    for each in document["datasets"]:
        index = parse_index((GOLDEN / each["name"] / "index.json").read_bytes(), where=each["name"])
        assert each["shards"] == each["checked"] == len(index.shards)
        assert each["samples"] == each["decoded"] == sum(info.samples for info in index.shards)
        assert each["bytes"] == sum((info.zip or info.raw).bytes for info in index.shards)
    assert "pickled columns were not decoded" in err


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "options", "kind", "text"),
    [
        (lambda path: path.unlink(), {}, "missing", "not there"),
        (lambda path: path.unlink(), {"compression": "zstd"}, "missing", "not there"),
        (lambda path: os.truncate(path, 100), {}, "size", "it has 100 bytes, the index says"),
        (lambda path: path.write_bytes(path.read_bytes() + b"?"), {}, "size", "the index says"),
        (lambda path: flip(path, -1), {"hashes": ["sha1"]}, "hash", "sha1 is"),
        (lambda path: flip(path, -1), {"hashes": ["sha1"], "compression": "gz"}, "hash", "sha1 is"),
        (lambda path: flip(path, -1), {"hashes": ["md5", "xxh3_64"]}, "hash", "md5 is"),
        (lambda path: flip(path, -1), {"compression": "gz"}, "damaged", "not a whole gz stream"),
        (lambda path: flip(path, 0), {}, "damaged", "samples, its index says"),
        (lambda path: flip(path, 8), {}, "damaged", "spans"),
    ],
)
def test_damage_is_found_and_named(verify, tmp_path, damage, options, kind, text):
    directory = write(tmp_path / "data", **options)
    bad = shards_of(directory)[1]
    damage(directory / bad)
    status, document, _ = verify(directory)
    assert (status, document["status"]) == (1, "faults")
    (fault,) = document["faults"]
    assert (fault["file"], fault["kind"]) == (bad, kind)
    assert text in fault["what"]
    assert fault["todo"] == "copy it again, or rebuild it"
    assert document["make_again"] == {str(directory): [bad]}
    assert document["datasets"][0]["checked"] == len(shards_of(directory))


def test_samples_that_do_not_decode_are_counted(verify, tmp_path):
    directory = write(tmp_path / "data", hashes=["md5"])
    index = parse_index((directory / "index.json").read_bytes(), where="test")
    path = directory / index.shards[0].raw.basename
    data = path.read_bytes().replace(b"row 1 ", b"row\xff1 ").replace(b"row 3 ", b"row\xff3 ")
    path.write_bytes(data)
    rehash(directory)
    _, document, _ = verify(directory)
    (fault,) = document["faults"]
    assert fault["kind"] == "samples"
    assert fault["what"].startswith(
        f"2 of {index.shards[0].samples} samples do not decode; the first: sample 1: column"
    )
    assert fault["todo"].startswith("rebuild it")  # the hash is right: a copy would be as bad
    assert document["datasets"][0]["decoded"] == ROWS - 2
    assert verify(directory, "--samples", "0")[0] == 0
    assert verify(directory, "--samples", "1")[1]["datasets"][0]["decoded"] == len(index.shards)


def rehash(directory: Path) -> None:
    """Let the index agree with what the shards hold."""
    index = parse_index((directory / "index.json").read_bytes(), where="test")
    shards = []
    for info in index.shards:
        data = (directory / info.raw.basename).read_bytes()
        hashes = {name: hash_hex(name, data) for name in info.hashes}
        shards.append(replace(info, raw=replace(info.raw, bytes=len(data), hashes=hashes)))
    (directory / "index.json").write_bytes(dump_index(replace(index, shards=tuple(shards))))


def test_no_fault_stops_it_and_all_are_listed(verify, tmp_path, capsys):
    root = tmp_path / "data"
    web, code = write(root / "web", hashes=["md5"]), write(root / "code" / "train")
    write(root / "law")
    (root / "law" / "index.json").write_text("{")
    names = shards_of(web)
    flip(web / names[0], -1)
    (web / names[2]).unlink()
    os.truncate(code / shards_of(code)[3], 9)
    status, document, _ = verify(root)
    assert status == 1
    faults = {(fault["dataset"], fault["file"], fault["kind"]) for fault in document["faults"]}
    assert faults == {
        ("web", names[0], "hash"),
        ("web", names[2], "missing"),
        ("code/train", shards_of(code)[3], "size"),
        ("law", "index.json", "index"),
    }
    assert main(["verify", str(root), "--download-retry", "1"]) == 1
    shown = capsys.readouterr().out
    for _, file, _ in faults:
        assert file in shown
    assert "4 faults; in " in shown
    assert str(web) in shown[shown.index("to rebuild:") :]


def test_quick_looks_at_sizes_alone(verify, tmp_path):
    directory = write(tmp_path / "data", hashes=["md5"])
    names = shards_of(directory)
    flip(directory / names[0], -1)
    status, document, _ = verify(directory, "--quick")
    assert (status, document["datasets"][0]["bytes"], document["checked"]) == (0, 0, "sizes")
    os.truncate(directory / names[1], 9)
    (directory / names[2]).unlink()
    status, document, _ = verify(directory, "--quick")
    assert status == 1
    assert told(document) == {(names[1], "size"), (names[2], "missing")}


def test_shards_can_be_chosen(verify, tmp_path):
    directory = write(tmp_path / "data", hashes=["md5"])
    names = shards_of(directory)
    for name in names[1:3]:
        flip(directory / name, -1)
    assert verify(directory, "--shard", "0")[0] == 0
    status, document, _ = verify(directory, "--shard", "1", names[2])
    assert (status, told(document)) == (1, {(names[1], "hash"), (names[2], "hash")})
    assert document["datasets"][0]["checked"] == 2
    status, document, _ = verify(directory, "--shard", "99")
    assert status == 2
    assert "--shard 99" in document["error"]["message"]


def test_what_a_shard_decompresses_to_is_compared_with_its_own_hash(verify, tmp_path):
    directory = write(tmp_path / "web", compression="zstd", hashes=["sha1", "xxh3_64"])
    index = parse_index((directory / "index.json").read_bytes(), where="test")
    assert len(index.shards) > 2
    info = index.shards[1]
    raw = replace(info.raw, hashes={**info.raw.hashes, "xxh3_64": "0" * 16})
    shards = (index.shards[0], replace(info, raw=raw), *index.shards[2:])
    (directory / "index.json").write_bytes(dump_index(replace(index, shards=shards)))
    status, document, _ = verify(directory)
    assert (status, told(document)) == (1, {(info.zip.basename, "hash")})
    (fault,) = document["faults"]
    assert re.match(r"decompressed: xxh3_64 is .*, the index says 0{16}", fault["what"])


def test_a_raw_file_beside_its_packed_one_is_checked_too(verify, tmp_path):
    """As in a cache directory that keeps both."""
    directory = write(tmp_path / "data", compression="zstd", hashes=["md5"])
    info = parse_index((directory / "index.json").read_bytes(), where="test").shards[0]
    assert info.zip is not None
    packed = directory / info.zip.basename
    raw = decompress("zstd", packed.read_bytes(), raw_bytes=info.raw.bytes, where="test")
    (directory / info.raw.basename).write_bytes(raw)
    assert verify(directory)[0] == 0
    flip(directory / info.raw.basename, -1)
    status, document, _ = verify(directory)
    assert (status, told(document)) == (1, {(info.raw.basename, "hash")})
    flip(directory / info.raw.basename, -1)
    packed.unlink()
    assert verify(directory)[0] == 0
    flip(directory / info.raw.basename, -1)
    status, document, _ = verify(directory)
    assert (status, told(document)) == (1, {(info.raw.basename, "hash")})


# --- what is no fault, and what is not checked ------------------------------------------------------------------------


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_pickles_are_not_decoded_unless_allowed(verify, tmp_path):
    directory, trace = tmp_path / "data", tmp_path / "trace"
    with ms.MDSWriter(columns={"o": "pkl", "t": "str"}, out=str(directory)) as writer:
        writer.write({"o": pickle.dumps(Bomb(trace)), "t": "text"})
    status, document, err = verify(directory)
    assert (status, document["datasets"][0]["decoded"]) == (0, 1)
    assert "--allow-unsafe-types" in err
    assert not trace.exists()
    assert verify(directory, "--allow-unsafe-types")[0] == 0
    assert trace.exists()


def test_files_that_no_index_names_are_noted(verify, tmp_path, capsys):
    directory = write(tmp_path / "data")
    for name in ("shard.00099.mds", "index.json.tmp", "notes.txt"):
        (directory / name).write_bytes(b"?")
    status, document, _ = verify(directory)
    assert (status, document["datasets"][0]["orphans"]) == (0, ["index.json.tmp", "shard.00099.mds"])
    main(["verify", str(directory)])
    assert "index.json.tmp, shard.00099.mds" in capsys.readouterr().out


def test_a_dataset_that_domains_json_names_is_missed(verify, tmp_path):
    write(tmp_path / "web" / "train")
    counts = {"rows": ROWS}
    domains = {"web": {"train": counts, "val": {"rows": 0}}, "code": {"train": counts}, "../..": {"x": counts}}
    (tmp_path / "domains.json").write_text(json.dumps({"domains": domains}))
    status, document, _ = verify(tmp_path)
    assert status == 1
    fault, below = sorted(document["faults"], key=lambda fault: fault["dataset"], reverse=True)
    assert (fault["dataset"], fault["file"], fault["kind"]) == ("code/train", "index.json", "missing")
    assert below["dataset"] == "../../x"  # a domain can have this name; its directory is ~2E~2E~2F~2E~2E


def test_an_index_with_another_hash_of_itself_is_a_fault(verify, tmp_path):
    directory = write(tmp_path / "data")
    path = directory / "index.json"
    path.write_bytes(dump_index(parse_index(path.read_bytes(), where="test"), hashes=["xxh3_64"]))
    assert verify(directory)[0] == 0
    document = json.loads(path.read_bytes())
    document["tokens"] = 12
    path.write_text(json.dumps(document))
    status, document, _ = verify(directory)
    assert (status, told(document)) == (1, {("index.json", "index")})


@pytest.mark.parametrize("arguments", [(), ("--samples", "-1"), ("--quick", "--samples", "2"), ("--workers", "0")])
def test_wrong_use(verify, tmp_path, arguments):
    status, document, _ = verify(tmp_path, *arguments)  # where no dataset is
    assert (status, document["status"]) == (2, "error")


def test_shards_without_an_index_are_said_to_be_unfinished(verify, tmp_path, s3):
    s3.put("web/train/shard.00000.mds.zstd", b"x")
    for place in (s3.url, f"{s3.url}/web/train"):
        status, document, _ = verify(place)
        assert (status, document["status"]) == (1, "faults")
        (fault,) = document["faults"]
        assert "there is 1 shard but no index.json: the writing was not finished" in fault["what"]
        assert fault["kind"] == "unfinished"


def test_what_the_index_says_cannot_reach_the_terminal(verify, tmp_path, capsys):
    """Neither direction marks, nor markup of the library that draws our tables."""
    directory = write(tmp_path / "data", rows=5, size_limit=None)
    index = parse_index((directory / "index.json").read_bytes(), where="test")
    name = "\u202e[red]\u200b[/nothing]:smile:.mds"
    info = replace(index.shards[0], raw=replace(index.shards[0].raw, basename=name))
    (directory / "index.json").write_bytes(dump_index(replace(index, shards=(info,))))
    assert main(["verify", str(directory)]) == 1
    shown = capsys.readouterr()
    assert r"\u202e[red]\u200b[/nothing]:smile:.mds" in shown.out
    assert (shown.out + shown.err).replace("\n", "").isprintable()


def test_no_file_is_left_out_of_two_datasets_that_are_shown_alike(verify, tmp_path):
    """What stands before an @ may be a password, and is not shown."""
    places = [write(tmp_path / f"me:{name}@web") for name in "ab"]
    names = [shards_of(place)[number] for number, place in enumerate(places)]
    for place, name in zip(places, names):
        (place / name).unlink()
    status, document, _ = verify(*places)
    assert (status, list(document["make_again"].values())) == (1, [names])


def test_what_convert_has_to_make_again_it_makes_again(verify, tmp_path, capsys):
    """The remedy, as it is told."""
    for name in ("web", "code"):
        (tmp_path / "src" / name).mkdir(parents=True)
        (tmp_path / "src" / name / "a.txt").write_text(f"{name} text " * 2000)
    out = tmp_path / "out"
    command = ["convert", str(tmp_path / "src"), "--out", str(out), "--seq-len", "64", "--size-limit", "4kb"]
    assert main([*command, "--workers", "1"]) == 0
    directory = out / "web" / "train"
    before = {name: (directory / name).read_bytes() for name in shards_of(directory)}
    flip(directory / shards_of(directory)[1], -1)
    flip(directory / shards_of(directory)[-1], -1)
    status, document, _ = verify(out)
    assert (status, len(document["make_again"][str(directory)])) == (1, 2)
    for name in document["make_again"][str(directory)]:
        (directory / name).unlink()
    assert main([*command, "--workers", "1"]) == 0
    assert verify(out)[0] == 0
    assert {name: (directory / name).read_bytes() for name in shards_of(directory)} == before


# --- stores -----------------------------------------------------------------------------------------------------------


def test_a_store_is_told_apart_from_its_shards(verify, tmp_path, s3, proxy):
    """Bytes that are wrong are a fault of the shard; requests that fail say nothing about it. No secret is told."""
    directory = write(tmp_path / "data" / "web" / "train", hashes=["md5"], compression="zstd")
    s3.upload(tmp_path / "data")
    status, document, err = verify(s3.url)
    (dataset,) = document["datasets"]
    assert (status, dataset["name"], dataset["decoded"]) == (0, "web/train", ROWS)
    names = shards_of(directory)
    proxy.when(refuse_with(500, "InternalError"), path=f"*{names[0]}")
    proxy.when(corrupt(), path=f"*{names[1]}")
    proxy.when(refuse_with(403, "AccessDenied"), path=f"*{names[2]}")
    s3.remove(f"web/train/{names[3]}")
    status, document, err = verify(s3.url)
    assert (status, document["status"]) == (1, "faults")
    kinds = {(names[0], "unreachable"), (names[1], "hash"), (names[2], "refused"), (names[3], "missing")}
    assert told(document) == kinds
    assert document["make_again"] == {f"{s3.url}/web/train": [names[1], names[3]]}
    assert not any(secret in f"{document}{err}" for secret in ("SKtest", "AKtest", "Signature"))
    status, document, _ = verify(s3.url, "--shard", "0")
    assert (status, document["status"], document["make_again"]) == (1, "unreachable", {})


def test_a_store_that_gives_nothing_is_not_asked_for_ever(verify, tmp_path, s3, proxy):
    directory = write(tmp_path / "data", rows=100, size_limit=100)
    s3.upload(directory)
    proxy.when(refuse_with(500, "InternalError"), path="*.mds")
    status, document, _ = verify(s3.url, "--workers", "2")
    assert (status, document["status"]) == (1, "unreachable")
    assert "more shards were not asked for" in document["faults"][-1]["what"]
    assert len(document["faults"]) < len(shards_of(directory)) / 2


def test_an_endpoint_that_refuses_is_a_failure_not_wrong_use(verify, s3, proxy):
    proxy.refuse()
    status, document, _ = verify(s3.url)
    assert (status, document["status"]) == (1, "unreachable")


def test_an_interrupt_ends_it_at_once(tmp_path, s3, proxy):
    directory, place = write(tmp_path / "data"), replace(s3, bucket="public")
    place.upload(directory)
    proxy.when(stall(seconds=60), path=f"*{shards_of(directory)[1]}")
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # jobs in the background do not
    program = f"{heeding}; from mixstream_tools.cli import run; run()"
    command = [sys.executable, "-c", program, "verify", place.http_url.replace(s3.endpoint, proxy.endpoint)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 30
    while not proxy.count(f"*{shards_of(directory)[-1]}") and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - began < 10
    assert "shards were checked, with 0 faults" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("row", [0, 25, 50, 75])
def test_samples_that_are_checked_are_spread_over_the_shard(row):
    """Four of a hundred: not the first four."""
    depth = Depth(samples=4)
    assert row in list(depth.rows(100))
    assert list(Depth(samples=200).rows(3)) == [0, 1, 2]
