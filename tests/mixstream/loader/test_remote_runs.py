"""Runs over datasets in an object store: the same rows as from local disk, in every process, under every fault."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import corrupt, refuse_with, reset, truncate
from harness import FIRST, SIZES, Tilt, joined, losses, make_dataset, row_ids, write_tokens
from remote_reader import read_epoch
from torch.utils.data import DataLoader

import mixstream as ms
from mixstream.errors import (
    ConfigError,
    IndexCorruptError,
    IndexNotFoundError,
    ShardCorruptError,
    ShardNotFoundError,
    StoreAccessError,
    StoreFaultError,
)
from mixstream.formats import dump_index, parse_index
from mixstream_tools.cli import main


@pytest.fixture
def remote(s3: Any, library: Path) -> Any:
    """The library of three domains, on the server."""
    s3.upload(library)
    return s3


def remote_dataset(s3: Any, local: Path | None = None, **kw: Any) -> ms.StreamingDataset:
    names = kw.pop("names", tuple(SIZES))
    each = [ms.Stream(remote=f"{s3.url}/{name}", local=None if local is None else str(local / name)) for name in names]
    return ms.StreamingDataset(**{"streams": each, "batch_size": 8, "shuffle": True, **kw})


def rows(source: Any) -> list[list[int]]:
    return [row_ids(batch) for batch in source]


@pytest.fixture
def expected(library: Path) -> list[list[int]]:
    """The batches of an epoch, from local disk."""
    return rows(ms.Loader(make_dataset(library)))


def test_convert_upload_stream_and_resume(s3, tmp_path):
    for name, word in (("law", "whereas "), ("code", "return ")):
        (tmp_path / "text" / name).mkdir(parents=True)
        for number in range(20):
            (tmp_path / "text" / name / f"{number}.txt").write_text(f"{number}: " + word * 40)
    for out in (s3.url, str(tmp_path / "here")):
        options = ["--out", out, "--seq-len", "32", "--size-limit", "2kb", "--workers", "1", "--json"]
        assert main(["convert", str(tmp_path / "text"), *options]) == 0

    def loader(root: str) -> ms.Loader:
        each = [ms.Stream(remote=f"{root}/{name}", split="train", name=name) for name in ("law", "code")]
        mixing = {"shuffle": True, "mixer": Tilt(), "lag": 4}
        return ms.Loader(ms.StreamingDataset(streams=each, batch_size=8, **mixing))

    def train(loader: ms.Loader, steps: int) -> list[list[int]]:
        seen = []
        for batch in loader:
            ids = batch["tokens"].sum(dim=1).tolist()
            seen.append(ids)
            loader.report(batch, torch.from_numpy(losses(ids)))
            if len(seen) == steps:
                break
        return seen

    here = train(loader(str(tmp_path / "here")), 14)
    first = loader(s3.url)
    begun = train(first, 6)
    state = json.loads(json.dumps(first.state_dict()))
    first.close()
    again = loader(s3.url)
    again.load_state_dict(state)
    assert begun + train(again, 8) == here


@pytest.mark.parametrize("local", [True, False])
def test_a_store_gives_the_rows_of_local_disk(remote, tmp_path, expected, local):
    with ms.Loader(remote_dataset(remote, tmp_path if local else None)) as loader:
        assert rows(loader) == expected


@pytest.mark.parametrize("compression", ["zstd", None])
@pytest.mark.parametrize("keep", [False, True])
def test_packed_shards_are_unpacked_into_the_cache(s3, tmp_path, compression, keep):
    s3.upload(write_tokens(tmp_path / "origin", range(60), compression=compression, hashes=["xxh3_64"]))
    local = tmp_path / "cache"
    dataset = ms.StreamingDataset(remote=s3.url, local=str(local), batch_size=4, keep_zip=keep, validate_hash="xxh3_64")
    assert sorted(joined(rows(ms.Loader(dataset)))) == list(range(60))
    assert len(list(local.glob("*.mds"))) == len(dataset.shards)
    assert len(list(local.glob("*.zstd"))) == (len(dataset.shards) if keep and compression else 0)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_dataloader_workers_of_every_kind(remote, tmp_path, expected, method, warm_spawn):
    """The parent has used its client: a forked child must not touch it, nor hang."""
    dataset = remote_dataset(remote, tmp_path)
    assert row_ids({"tokens": torch.as_tensor(dataset[0]["tokens"].astype(int))[None]}) == [FIRST["web"]]
    workers: dict[str, Any] = {"num_workers": 2 if method == "fork" else 1, "multiprocessing_context": method}
    if method != "forkserver":
        assert rows(ms.StreamingDataLoader(dataset, batch_size=8, timeout=60, **workers)) == expected
    if method != "spawn":
        plain = DataLoader(remote_dataset(remote), batch_size=8, timeout=60, **workers)
        assert [batch["tokens"][:, 0].long().tolist() for batch in plain] == expected


def test_a_dataset_of_fsspec(library, expected, tmp_path, monkeypatch):
    import fsspec

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # a cache of an earlier process is of another `memory://`
    memory = fsspec.filesystem("memory")
    corpus = f"corpus-{library.parent.name}-{time.time_ns()}"  # caches of other processes' memory are on this machine
    memory.put(str(library), f"/{corpus}", recursive=True)
    each = [ms.Stream(remote=f"memory://{corpus}/{name}") for name in SIZES]
    assert rows(ms.Loader(ms.StreamingDataset(streams=each, batch_size=8, shuffle=True))) == expected


# --- several readers ------------------------------------------------------------------------------------------------


def together(each: list[dict[str, Any]]) -> list[list[list[int]]]:
    """Run a reader per entry, each in a process of its own; return their batches, in the order of their ranks."""
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    processes = [context.Process(target=read_epoch, args=(settings, found)) for settings in each]
    for process in processes:
        process.start()
    told = [found.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    return [batches for _, batches in sorted(told)]


def test_two_jobs_that_start_on_an_empty_cache_download_each_shard_once(warm_spawn, remote, proxy, tmp_path, expected):
    places = [(f"{remote.url}/{name}", str(tmp_path / name)) for name in SIZES]
    assert together([{"places": places}, {"places": places}]) == [expected, expected]
    shards = [name for name in remote.names() if name.endswith(".mds")]
    assert [proxy.count(f"*/{name}") for name in shards] == [1] * len(shards)


def test_each_node_fetches_the_shards_of_its_own_lanes(warm_spawn, s3, proxy, tmp_path):
    """Egress: over all nodes, every shard is fetched once in an epoch."""
    root = write_tokens(tmp_path / "origin", range(15 * 16))
    s3.upload(root)
    samples = {shard["samples"] for shard in json.loads((root / "index.json").read_text())["shards"]}
    assert len(samples) == 1, "lanes must end where shards do"
    nodes = [
        {
            "places": [(s3.url, str(tmp_path / f"node{rank}"))],
            "environment": {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"},
        }
        for rank in range(2)
    ]
    batches = together(nodes)
    assert sorted(joined(joined(batches))) == list(range(15 * 16))
    shards = [name for name in s3.names() if name.endswith(".mds")]
    assert [proxy.count(f"*/{name}") for name in shards] == [1] * len(shards)


# --- faults in mid-run ----------------------------------------------------------------------------------------------


def test_a_run_comes_through_faults_that_pass(remote, proxy, tmp_path, expected):
    proxy.when(reset(after=100), path="*.mds", chance=0.15, seed=1)
    proxy.when(truncate(after=50), path="*.mds", chance=0.15, seed=2)
    proxy.when(refuse_with(503, "SlowDown", retry_after=1), path="*.mds", chance=0.1, seed=3)
    proxy.when(refuse_with(500, "InternalError"), path="*.mds", chance=0.1, seed=4)
    with ms.Loader(remote_dataset(remote, tmp_path, names=["law"], download_retry=10)) as loader:
        assert rows(loader) == rows(ms.Loader(remote_dataset(remote, names=["law"])))


@pytest.mark.parametrize(
    ("action", "kind", "words"),
    [
        (refuse_with(403, "AccessDenied"), StoreAccessError, "AccessDenied"),
        (refuse_with(404, "NoSuchKey"), ShardNotFoundError, "shard.00003.mds"),
        (refuse_with(500, "InternalError"), StoreFaultError, "500"),
    ],
)
def test_what_does_not_pass_stops_the_run_and_says_everything(remote, proxy, tmp_path, action, kind, words):
    proxy.when(action, path="*/web/shard.00003.mds")
    with ms.Loader(remote_dataset(remote, tmp_path, names=["web"], shuffle=False)) as loader:
        with pytest.raises(kind, match=words) as caught:
            rows(loader)
        assert loader.step >= 3  # the batches before it were handed out
    told = "\n".join([str(caught.value), *caught.value.__notes__])
    assert "domain 'web', shard 3 of" in told
    assert f"{remote.bucket}/{remote.prefix}/web" in told
    if kind is not ShardNotFoundError:
        assert "attempt" in told
    assert "SKtest" not in told
    assert "Signature" not in told


def test_wrong_bytes_are_fetched_anew_and_then_refused(s3, proxy, tmp_path):
    s3.upload(write_tokens(tmp_path / "web", range(100, 140), hashes=["xxh3_64"]))
    proxy.when(corrupt(at=-1), path="*/shard.00001.mds", times=1)

    def read(local: str, **kw: Any) -> list[int]:
        given: dict[str, Any] = {"local": str(tmp_path / local), "validate_hash": "xxh3_64", "batch_size": 4, **kw}
        return joined(rows(ms.Loader(ms.StreamingDataset(remote=s3.url, **given))))

    assert sorted(read("first")) == list(range(100, 140))
    proxy.when(corrupt(at=-1), path="*/shard.00001.mds", times=3)
    assert sorted(read("second", download_retry=4)) == list(range(100, 140))
    proxy.when(corrupt(at=-1), path="*/shard.00001.mds")
    with pytest.raises(ShardCorruptError, match=r"Checksum failure: .*shard\.00001\.mds"):
        read("third")
    assert not (tmp_path / "third/shard.00001.mds").exists()


def test_the_index_is_checked_by_its_own_hash_and_fetched_anew(s3, proxy, tmp_path):
    root = write_tokens(tmp_path / "web", range(40), hashes=["xxh3_64"])
    index = parse_index((root / "index.json").read_bytes(), where="")
    s3.upload(root)
    s3.put("index.json", dump_index(index, hashes=["xxh3_64"]))
    at = json.dumps(json.loads(s3.get("index.json")), sort_keys=True).index('"samples": 1') + 12
    proxy.when(corrupt_digit(at), path="*/index.json", skip=1, times=1)  # the first request asks for the size
    given: dict[str, Any] = {"remote": s3.url, "batch_size": 4, "validate_hash": "xxh3_64"}
    assert ms.StreamingDataset(**given, local=str(tmp_path / "first")).num_samples == 40
    proxy.when(corrupt_digit(at), path="*/index.json")
    with pytest.raises(IndexCorruptError, match="xxh3_64"):
        ms.StreamingDataset(**given, local=str(tmp_path / "second"))


def corrupt_digit(at: int) -> Any:
    """Change one digit of a JSON number, so that it stays JSON."""

    def act(exchange: Any) -> None:
        status, headers, body = exchange.ask()
        if len(body) > at:
            body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        exchange.answer(status, headers, body)

    return act


def test_a_place_without_an_index_says_what_it_has(remote, s3):
    with pytest.raises(IndexNotFoundError, match="datasets below: 'code', 'law', 'web': give a Stream for each"):
        ms.StreamingDataset(remote=remote.url)
    s3.remove("web/index.json")
    with pytest.raises(IndexNotFoundError, match="there are shards, so the writing was not finished"):
        ms.StreamingDataset(remote=f"{remote.url}/web")
    with pytest.raises(IndexNotFoundError, match="there is nothing at all"):
        ms.StreamingDataset(remote=f"{remote.url}/dialogue")


def test_a_url_with_a_slash_too_few_is_no_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for use in (
        lambda: ms.StreamingDataset(remote="s3:/mix/web"),
        lambda: ms.MDSWriter(columns={"x": "int"}, out="s3:/m"),
    ):
        with pytest.raises(ConfigError, match="did you mean s3://m"):
            use()
    assert not list(tmp_path.iterdir())
