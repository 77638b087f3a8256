"""`mixstream.streams`, `local=` beside a path, and `nodes=`."""

import json
import shutil
import warnings

import pytest

import mixstream as ms
from mixstream.errors import ConfigError, IndexNotFoundError, UnfinishedError


def write(out, *, rows=64, size_limit=1000):
    with ms.MDSWriter(out=out, columns={"x": "int"}, size_limit=size_limit) as writer:
        for x in range(rows):
            writer.write({"x": x})


@pytest.fixture
def root(tmp_path):
    for name in ("web/train", "web/val", "code/train", "plain"):
        write(tmp_path / "root" / name)
    return tmp_path / "root"


def test_all_domains_of_a_directory(root, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ms.streams(root, local=tmp_path / "cache", max_epochs=3)
    assert [(s.name, s.split, s.max_epochs) for s in found] == [
        ("code", "train", 3),
        ("plain", "", 3),
        ("web", "train", 3),
    ]
    assert found[0].local == str(tmp_path / "cache/code")
    assert ms.StreamingDataset(streams=found, batch_size=1).epoch_size == 3 * 64
    with pytest.raises(ConfigError, match="leave out name"):
        ms.streams(root, name="x")
    with pytest.warns(UserWarning, match=r"\['code'\] have no rows in the split 'val'"):
        assert [s.name for s in ms.streams(str(root), split="val")] == ["plain", "web"]


def test_a_domain_may_be_a_link_to_another_disk(root, tmp_path):
    (root / "web").rename(tmp_path / "web")
    (root / "web").symlink_to(tmp_path / "web")
    (root / "code/train").rename(tmp_path / "train")
    (root / "code/train").symlink_to(tmp_path / "train")
    assert [s.name for s in ms.streams(root)] == ["code", "plain", "web"]
    assert ms.StreamingDataset(streams=ms.streams(root), batch_size=1).epoch_size == 3 * 64


def test_a_store_like_a_directory(root, s3):
    for path in root.rglob("*.*"):
        s3.put(path.relative_to(root).as_posix(), path.read_bytes())
    assert [s.name for s in ms.streams(s3.url, split="train")] == ["code", "plain", "web"]
    assert ms.StreamingDataset(streams=ms.streams(s3.url), batch_size=1).epoch_size == 3 * 64
    s3.remove("code/train/index.json")
    with pytest.raises(UnfinishedError, match="code/train: unfinished"):
        ms.streams(s3.url)


def test_places_that_are_no_directory_of_domains(root, tmp_path):
    for place in ("plain", "web"):
        with pytest.raises(ConfigError, match="is a dataset"):
            ms.streams(root / place)
    for place in (root / "nowhere", tmp_path / "root/web/train/none"):
        with pytest.raises(IndexNotFoundError, match="no such directory"):
            ms.streams(place)
    (tmp_path / "empty").mkdir()
    with pytest.raises(IndexNotFoundError, match="no domain with the split 'train'"):
        ms.streams(tmp_path / "empty")


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_local_beside_a_path_is_a_cache_within_its_limit(tmp_path, compression):
    out, cache = tmp_path / "mount", tmp_path / "nvme"
    with ms.MDSWriter(out=out, columns={"x": "int"}, size_limit=1000, compression=compression) as writer:
        for x in range(1000):
            writer.write({"x": x})
    options = {"remote": str(out), "local": str(cache), "batch_size": 8, "shuffle": True, "shuffle_algo": "py1s"}
    dataset = ms.StreamingDataset(**options, cache_limit=9000)
    with ms.Loader(dataset) as loader:
        assert sorted(x for batch in loader for x in batch["x"].tolist()) == list(range(1000))
    held = sum(path.stat().st_size for path in cache.glob("*.mds*"))
    assert 0 < held <= 9000
    with ms.Loader(ms.StreamingDataset(**options)) as loader:
        rows = [batch["x"].tolist() for batch in loader]
    for path in out.glob("*.mds*"):
        path.unlink()  # the mount is slow, or gone for a while: all of it is in the cache
    with ms.Loader(ms.StreamingDataset(**options)) as loader:
        assert [batch["x"].tolist() for batch in loader] == rows
    shutil.rmtree(cache)


def test_nodes_set_the_lanes_of_explicit_ranks(root):
    def dataset(**options):
        return ms.StreamingDataset(remote=str(root / "plain"), batch_size=4, shuffle=True, **options)

    def lanes(made):
        return json.loads(json.dumps(made.state_dict(0)))["num_canonical_nodes"]

    assert lanes(dataset(rank=0, world_size=4)) == 1
    assert lanes(dataset(rank=3, world_size=4, nodes=2)) == 2
    assert lanes(dataset(rank=3, world_size=4, nodes=2, num_canonical_nodes=4)) == 4
    for wrong in ({"nodes": 2}, {"rank": 0, "world_size": 2, "nodes": 3}, {"rank": 0, "world_size": 2, "nodes": 0}):
        with pytest.raises(ConfigError, match="nodes"):
            dataset(**wrong)


def test_relative_and_empty_places(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = ms.streams("root", local="cache")
    assert (found[0].remote, found[0].local) == (str(root / "code"), str(tmp_path / "cache/code"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [s.name for s in ms.streams("~/root")] == ["code", "plain", "web"]
    for given in ("", " "):
        with pytest.raises(ConfigError, match=r"remote=.* is empty"):
            ms.streams(given)
        with pytest.raises(ConfigError, match=r"local=.* is empty"):
            ms.streams(root, local=given)
        with pytest.raises(ConfigError, match=r"out=.* is empty"):
            ms.merge_index(given)
