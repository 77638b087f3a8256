from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from harness import write_tokens

from mixstream.data.domain import Domain
from mixstream.errors import ConfigError, ShardCorruptError, ShardNotFoundError
from mixstream.storage import DatasetFiles


def domain(root: Path, **kw) -> Domain:
    return Domain.open(name="web", files=DatasetFiles.locate(remote=str(root), local=None, split=None), **kw)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return write_tokens(tmp_path / "web", range(100, 150), hashes=["sha1", "xxh3_64"])


def read(of: Domain) -> list[int]:
    shards = [of.map(number) for number in range(len(of.shards))]
    return [
        int(of.decode(number, row, data)["tokens"][0])
        for number, data in enumerate(shards)
        for row in range(int(of.samples_S[number]))
    ]


def test_samples_are_read_as_they_were_written(tokens):
    web = domain(tokens)
    assert web.samples_S.tolist() == [s.samples for s in web.shards]
    assert read(web) == list(range(100, 150))
    assert len(web.shards) == 4
    assert not web.map(0).flags.writeable


@pytest.mark.parametrize("compression", ["zstd", "gz:1", "bz2"])
def test_compressed_shards_are_unpacked_once_beside_the_original(tmp_path, compression, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    root = write_tokens(tmp_path / "web", range(40), compression=compression, hashes=["xxh64"])
    before = sorted(root.iterdir())
    assert read(domain(root, validate_hash="xxh64")) == list(range(40))
    assert sorted(root.iterdir()) == before
    unpacked = sorted((tmp_path / "tmp").rglob("*.mds"))
    assert len(unpacked) == len(domain(root).shards)
    for path in root.glob("shard.*"):
        path.unlink()
    assert read(domain(root)) == list(range(40))  # what is unpacked is enough


def test_the_fingerprint_is_of_content_not_of_place(tmp_path):
    prints = [
        domain(write_tokens(tmp_path / f"{number}", ids, **kw)).fingerprint
        for number, (ids, kw) in enumerate(
            [
                (range(40), {}),
                (range(40), {}),
                (range(41), {}),
                (range(40), {"shard_bytes": 900}),
                (range(40), {"encoding": "uint32"}),
            ]
        )
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4
    assert all(len(p) == 32 for p in prints)


def test_with_hashes_the_fingerprint_sees_every_byte(tmp_path):
    prints = {
        domain(write_tokens(tmp_path / f"{first}", range(first, first + 40), hashes=["xxh64"])).fingerprint
        for first in (0, 100)
    }
    assert len(prints) == 2


def damage(path: Path, at: int, value: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] = value
    path.write_bytes(bytes(data))


def test_a_damaged_header_is_refused_when_the_shard_is_mapped(tokens):
    web, path = domain(tokens), tokens / "shard.00001.mds"
    for at, value in ((0, 99), (4, 200), (11, 255)):
        whole = path.read_bytes()
        damage(path, at, value)
        with pytest.raises(ShardCorruptError, match=r"shard\.00001\.mds") as error:
            web.map(1)
        assert error.value.__notes__ == ["domain 'web', shard 1 of 4"]
        path.write_bytes(whole)
    web.map(1)


def test_a_damaged_payload_is_found_by_its_hash(tokens):
    damage(tokens / "shard.00002.mds", -1, 1)
    domain(tokens).map(2)  # nobody asked
    for name in ("sha1", "xxh3_64"):
        with pytest.raises(ShardCorruptError, match=rf"Checksum failure: .*shard\.00002\.mds: {name} is .*, the index"):
            domain(tokens, validate_hash=name).map(2)
        domain(tokens, validate_hash=name).map(1)


@pytest.mark.parametrize("keep", [0, 1, 100])
def test_a_truncated_shard_is_refused(tokens, keep):
    path = tokens / "shard.00000.mds"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ShardCorruptError, match=rf"{keep} bytes, the index says \d+; the shard is truncated"):
        domain(tokens).map(0)


def test_a_truncated_compressed_shard_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    root = write_tokens(tmp_path / "web", range(40), compression="zstd")
    path = root / "shard.00000.mds.zstd"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20] + bytes(20))
    with pytest.raises(ShardCorruptError, match=r"shard\.00000\.mds\.zstd"):
        domain(root).map(0)
    assert not list((tmp_path / "tmp").rglob("*.mds"))
    path.write_bytes(whole)
    domain(root).map(0)


def test_a_missing_shard_names_the_place_and_the_remedy(tokens):
    (tokens / "shard.00003.mds").unlink()
    with pytest.raises(ShardNotFoundError, match=rf"looked for {tokens}/shard\.00003\.mds; .*restore the file"):
        domain(tokens).map(3)


def test_a_row_that_is_not_there_is_an_index_error(tokens):
    web = domain(tokens)
    for row in (-1, int(web.samples_S[0])):
        with pytest.raises(IndexError, match=rf"row {row} of shard shard\.00000\.mds"):
            web.decode(0, row, web.map(0))


def test_a_sample_that_cannot_be_decoded_is_named(tmp_path):
    import mixstream as ms

    with ms.MDSWriter(columns={"x": "json"}, out=str(tmp_path / "web")) as writer:
        writer.write({"x": {"a": 1}})
    data = np.array(domain(tmp_path / "web").map(0))
    data[-1] = ord("!")
    with pytest.raises(ShardCorruptError) as error:
        domain(tmp_path / "web").decode(0, 0, data)
    assert error.value.__notes__ == [f"domain 'web', shard shard.00000.mds in {tmp_path}/web, sample 0"]


def test_hashes_that_shards_do_not_have_are_refused(tokens):
    with pytest.raises(ConfigError, match=r"validate_hash='md5', .* carries the hashes \['sha1', 'xxh3_64'\]"):
        domain(tokens, validate_hash="md5")
