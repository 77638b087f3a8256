"""Bytes are compared with the hashes of the index when they arrive, unless that is switched off."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness import row_ids, write_tokens

import mixstream as ms
from mixstream.data import shard_specs
from mixstream.errors import ConfigError, IndexCorruptError, ShardCorruptError, StoreChangedError
from mixstream.formats import INDEX_HASHES, dump_index, hash_hex, parse_index, quickest_hash
from mixstream.storage.stores.local import LocalStore

ROWS = list(range(100, 140))


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[int]]:
    """Return what reads a dataset through a new cache, or the one at `local`."""

    def rows(remote: Path, *, local: Path | None = None, **options: Any) -> list[int]:
        place = local or tmp_path / f"cache-{len(list(tmp_path.iterdir()))}"
        dataset = ms.StreamingDataset(remote=str(remote), local=str(place), batch_size=4, **options)
        with ms.Loader(dataset) as loader:
            return [number for batch in loader for number in row_ids(batch)]

    return rows


def damage(path: Path) -> None:
    """Change the last byte, which is a token's."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def edit(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the entry of the second shard in the index."""
    path = directory / "index.json"
    index = json.loads(path.read_bytes())
    change(index["shards"][1])
    path.write_text(json.dumps(index))


def damage_transfer(monkeypatch: pytest.MonkeyPatch, name: str, times: int) -> list[str]:
    """Damage an object while it is read, so often; return the list of all that are read from now on."""
    asked: list[str] = []
    read = LocalStore.read

    def damaged(store: LocalStore, what: str, *args: Any, **kw: Any) -> Any:
        found = read(store, what, *args, **kw)
        asked.append(what)
        if what == name and asked.count(what) <= times:
            data = bytes(memoryview(found.data))
            found = replace(found, data=data[:-1] + bytes([data[-1] ^ 1]))
        return found

    monkeypatch.setattr(LocalStore, "read", damaged)
    return asked


# --- what is compared ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hashes", [["xxh3_64"], ["md5", "sha1"], ["blake2b", "xxh32"], ["sha3_256"]])
def test_what_is_downloaded_is_compared_with_the_quickest_hash(tmp_path, read, hashes):
    remote = write_tokens(tmp_path / "web", ROWS, hashes=hashes)
    assert read(remote) == ROWS
    damage(remote / "shard.00001.mds")
    quickest = {"md5": "sha1", "blake2b": "xxh32"}.get(hashes[0], hashes[0])
    with pytest.raises(ShardCorruptError, match=rf"Checksum failure: .*shard\.00001\.mds: {quickest} is") as caught:
        read(remote)
    assert any("was downloaded again and still does not match" in note for note in caught.value.__notes__)
    assert sorted(read(remote, validate_hash=None))[:12] == ROWS[:12]  # nothing was asked for


def test_hashes_by_their_speed():
    assert quickest_hash(["md5", "sha1", "xxh3_128", "xxh3_64", "xxh64"]) == "xxh3_64"
    assert quickest_hash(["sha3_512", "md5", "sha256"]) == "sha256"
    assert quickest_hash(["ripemd160", "no hash"]) is quickest_hash([]) is None


def test_one_hash_of_each_shard_is_computed(tmp_path, read, monkeypatch):
    remote = write_tokens(tmp_path / "web", ROWS, hashes=["sha1", "xxh3_64"], compression="zstd")
    raw = {shard.raw.bytes for shard in parse_index((remote / "index.json").read_bytes(), where="").shards}
    computed: list[tuple[str, int]] = []

    def counted(name: str, data: Any) -> str:
        computed.append((name, memoryview(data).nbytes))
        return hash_hex(name, data)

    monkeypatch.setattr(shard_specs, "hash_hex", counted)
    assert read(remote) == ROWS
    assert {name for name, _ in computed} == {"xxh3_64"}
    assert len(computed) == len(list(remote.glob("shard*")))
    assert {size for _, size in computed} == raw  # what is read, not what was sent


def test_what_a_shard_was_unpacked_to_is_compared(tmp_path, read):
    remote = write_tokens(tmp_path / "web", ROWS, hashes=["xxh3_64"], compression="zstd")
    edit(remote, lambda shard: shard["raw_data"]["hashes"].update(xxh3_64="0" * 16))
    for options in ({}, {"validate_hash": "xxh3_64"}):
        with pytest.raises(ShardCorruptError, match=r"shard\.00001\.mds: xxh3_64 is .*, the index says 0{16};"):
            read(remote, **options)
    assert read(remote, validate_hash=None) == ROWS


def test_the_compressed_file_is_compared_if_there_is_no_other_hash(tmp_path, read):
    remote = write_tokens(tmp_path / "web", ROWS, hashes=["xxh3_64"], compression="zstd")
    edit(remote, lambda shard: shard["raw_data"].update(hashes={}))
    assert read(remote) == ROWS
    edit(remote, lambda shard: shard["zip_data"]["hashes"].update(xxh3_64="0" * 16))
    with pytest.raises(ShardCorruptError, match=r"shard\.00001\.mds\.zstd: xxh3_64 is .*, the index says 0{16};"):
        read(remote)


def test_a_shard_of_two_files_has_both_compared(tmp_path, monkeypatch):
    with ms.JSONWriter(columns={"n": "int"}, out=str(tmp_path / "web"), hashes=["xxh3_64"]) as writer:
        for number in range(9):
            writer.write({"n": number})
    for name in ("shard.00000.json", "shard.00000.json.meta"):
        with pytest.MonkeyPatch.context() as patch:
            damage_transfer(patch, name, 99)
            dataset = ms.StreamingDataset(remote=str(tmp_path / "web"), local=str(tmp_path / name))
            with pytest.raises(ShardCorruptError, match=rf"{name}: xxh3_64 is"):
                dataset[0]


def test_local_compressed_shards_are_compared_when_they_are_unpacked(tmp_path, monkeypatch):
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    remote = write_tokens(tmp_path / "web", ROWS, hashes=["xxh3_64"], compression="zstd")
    edit(remote, lambda shard: shard["raw_data"]["hashes"].update(xxh3_64="0" * 16))
    for face in (ms.StreamingDataset(remote=str(remote), batch_size=1), ms.LocalDataset(str(remote))):
        assert int(face[0]["tokens"][0]) == ROWS[0]
        with pytest.raises(ShardCorruptError, match="Checksum failure"):
            face[len(face) - 25]


def test_local_shards_that_are_mapped_where_they_are_and_what_is_in_the_cache_are_not(tmp_path, read):
    remote = write_tokens(tmp_path / "web", ROWS, hashes=["xxh3_64"])
    assert read(remote, local=tmp_path / "local") == ROWS
    damage(tmp_path / "local/shard.00001.mds")
    assert read(remote, local=tmp_path / "local", validate_hash="xxh3_64") == ROWS  # it is fetched again
    original = remote / "shard.00001.mds"
    damage(original)
    assert len(ms.StreamingDataset(remote=str(remote))[:]) == len(ROWS)
    with pytest.raises(ShardCorruptError, match="Checksum failure"):
        ms.StreamingDataset(remote=str(remote), validate_hash="xxh3_64")[:]


def test_shards_without_hashes_are_not_compared(tmp_path, read):
    remote = write_tokens(tmp_path / "web", ROWS)
    damage(remote / "shard.00001.mds")
    assert len(read(remote)) == len(ROWS)


# --- what follows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_what_was_damaged_on_its_way_is_fetched_again(tmp_path, read, monkeypatch, compression):
    remote = write_tokens(tmp_path / "web", ROWS, hashes=["xxh3_64"], compression=compression)
    name = "shard.00001.mds" + (".zstd" if compression else "")
    asked = damage_transfer(monkeypatch, name, 1)
    assert read(remote) == ROWS
    assert asked.count(name) == 2


def test_a_damaged_shard_may_be_set_aside(tmp_path, read):
    remote = write_tokens(tmp_path / "web", ROWS, hashes=["xxh3_64"])
    damage(remote / "shard.00001.mds")
    with pytest.warns(UserWarning, match=r"shard\.00001\.mds .* is set aside"):
        found = read(remote, on_bad_sample="quarantine")
    assert len(found) == len(ROWS)
    assert len(set(found)) < len(ROWS)


def test_a_shard_that_was_rewritten_is_not_taken_for_a_damaged_one(tmp_path):
    remote, other = tmp_path / "web", tmp_path / "other"
    for place, first in ((remote, 100), (other, 200)):
        write_tokens(place, range(first, first + 40), hashes=["xxh3_64"])
    dataset = ms.StreamingDataset(
        remote=str(remote), local=str(tmp_path / "local"), batch_size=4, on_bad_sample="quarantine"
    )
    assert int(dataset[0]["tokens"][0]) == 100
    for path in sorted(other.iterdir()):
        shutil.copyfile(path, remote / path.name)
    with pytest.raises(StoreChangedError, match=r"shard\.00002\.mds"):
        dataset[39]


def test_runs_that_check_differently_share_a_cache_and_agree(tmp_path, read):
    remote, local = write_tokens(tmp_path / "web", ROWS, hashes=["sha1", "xxh3_64"]), tmp_path / "local"
    facts = []
    for check in ("arrival", None, "sha1", "xxh3_64"):
        dataset = ms.StreamingDataset(remote=str(remote), local=str(local), batch_size=4, validate_hash=check)
        assert dataset.validate_hash == dataset.streams[0].validate_hash == check
        run = dataset.run
        facts.append((run.facts(run.start(), None), dataset.state_dict(0)))
        assert read(remote, local=local, validate_hash=check) == ROWS
    assert all(fact == facts[0] for fact in facts)


def test_a_stream_may_be_checked_otherwise(tmp_path):
    remote = write_tokens(tmp_path / "web", ROWS, hashes=["sha1", "xxh3_64"])
    streams = [
        ms.Stream(remote=str(remote), name=name, validate_hash=check) for name, check in (("a", None), ("b", "sha1"))
    ]
    dataset = ms.StreamingDataset(streams=streams, batch_size=1)
    assert [stream.validate_hash for stream in dataset.streams] == ["arrival", "sha1"]
    dataset = ms.StreamingDataset(streams=[streams[0]], batch_size=1, validate_hash=None)
    assert dataset.streams[0].validate_hash is None


# --- the index ----------------------------------------------------------------------------------------------------


def test_an_index_that_arrives_is_compared_with_its_own_hash(tmp_path, read):
    remote = write_tokens(tmp_path / "web", ROWS, hashes=["xxh3_64"])
    path = remote / "index.json"
    data = dump_index(parse_index(path.read_bytes(), where=""), hashes=["sha1", "xxh64"])
    path.write_bytes(data)
    assert read(remote) == ROWS
    path.write_bytes(data.replace(b'"size_limit": 500', b'"size_limit": 501'))
    with pytest.raises(
        IndexCorruptError, match=rf"Checksum failure: xxh64 of the index .*remove its key '{INDEX_HASHES}'"
    ):
        read(remote)
    assert read(remote, validate_hash=None) == ROWS
    assert len(ms.StreamingDataset(remote=str(remote))[:]) == len(ROWS)  # it is where it was written


def test_a_hash_that_an_index_promises_and_does_not_have_is_an_error(tmp_path, read):
    remote = write_tokens(tmp_path / "web", ROWS, hashes=["xxh3_64"])
    edit(remote, lambda shard: shard["raw_data"].update(hashes={}))
    for check in ("arrival", "xxh3_64"):
        message = r"index\.json: shard shard\.00001\.mds: the index names the hash xxh3_64 but has no value for it"
        with pytest.raises(IndexCorruptError, match=message):
            ms.StreamingDataset(remote=str(remote), validate_hash=check)
    assert read(remote, validate_hash=None) == ROWS
    with pytest.raises(ConfigError, match=r"validate_hash='md5', but shard .* carries the hashes \['xxh3_64'\]"):
        ms.StreamingDataset(remote=str(remote), validate_hash="md5")


def test_capitals_of_a_hash_are_the_same_hash(tmp_path, read):
    remote = write_tokens(tmp_path / "web", ROWS, hashes=["sha1"])
    edit(remote, lambda entry: entry["raw_data"]["hashes"].update(sha1=entry["raw_data"]["hashes"]["sha1"].upper()))
    assert read(remote) == ROWS
    edit(remote, lambda entry: entry["raw_data"]["hashes"].update(sha1="0" * 40))
    with pytest.raises(ShardCorruptError, match=r"Checksum failure.*validate_hash=None"):
        read(remote)
