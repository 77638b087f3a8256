"""Shards of two files, `NAME` and `NAME.meta`: the cache counts, keeps and evicts them as one."""

import os
from math import inf

import numpy as np
import pytest

from mixstream.storage import CacheLimit, DatasetFiles, ShardSpec, map_files

SIZE, META, INDEX = 40_000, 400, 2


@pytest.fixture
def files(tmp_path):
    origin = tmp_path / "remote"
    origin.mkdir()
    (origin / "index.json").write_bytes(b"{}")
    names = [f"shard.0000{number}.json" for number in range(4)]
    for name in names:
        (origin / name).write_bytes(os.urandom(SIZE))
        (origin / f"{name}.meta").write_bytes(os.urandom(META))
    found = DatasetFiles.locate(remote=str(origin), local=str(tmp_path / "local"), split=None)
    found.read_index()
    limit = CacheLimit(limit=2 * (SIZE + META) + META + INDEX)
    return found.within(limit, dict.fromkeys([each for name in names for each in (name, f"{name}.meta")]))


def read(files, number, *, wait=True, need=0.0):
    """Open both files of a shard; returns whether that was possible."""
    for name, size in ((f"shard.0000{number}.json.meta", META), (f"shard.0000{number}.json", SIZE)):
        spec = ShardSpec(name=name, size=size, check=None, compressed=None)
        if (file := files.open(spec, need=need, wait=wait)) is None:
            return False
        file.close()
    return True


def here(files):
    return sorted(path.name for path in files.directory.iterdir() if path.name.startswith("shard"))


def names(*numbers):
    return sorted(f"shard.0000{number}.json{end}" for number in numbers for end in ("", ".meta"))


def plan(files, **need):
    steps = {files.path(f"shard.0000{name[1:]}.json"): value for name, value in need.items()}
    files.cache_limit.next_use = lambda paths: [steps.get(path, inf) for path in paths]


def test_both_files_go_when_the_shard_is_needed_last(files):
    plan(files, s0=5, s1=9, s2=1)
    for number in (0, 1, 2):
        assert read(files, number)
    assert here(files) == names(0, 2)
    assert files.cache_limit.usage() == 2 * (SIZE + META) + INDEX


def test_a_meta_file_stays_while_the_other_is_fetched(files):
    plan(files, s0=1, s1=2, s2=3)
    assert read(files, 0)
    assert read(files, 1)
    assert not read(files, 2, need=3.0, wait=False)  # there is room for its meta file only, and that is not evicted
    assert here(files) == sorted([*names(0, 1), "shard.00002.json.meta"])


def test_files_are_one_array_each_from_a_page_of_its_own(tmp_path):
    contents = [b"", b"abc", os.urandom(70_000), b"", b"xyz"]
    paths = [tmp_path / str(number) for number in range(len(contents))]
    opened = []
    for path, content in zip(paths, contents):
        path.write_bytes(content)
        opened.append(path.open("rb"))
    data = map_files(opened, part=1 << 16)
    for file in opened:
        file.close()
    expected = b"abc" + bytes(65_533) + contents[2] + bytes(2 * 65_536 - 70_000) + b"xyz"
    assert data.dtype == np.uint8
    assert not data.flags.writeable
    assert data.tobytes() == expected
    part = data[:2]
    del data
    assert part.tobytes() == b"ab"  # mapped as long as a view is
