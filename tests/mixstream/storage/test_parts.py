"""Shards that are ranges of larger files, or computed from them: in place, and through a cache."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import faults
import numpy as np
import pytest
from bucket_server import Answer, BucketServer, Request, bucket_server, failure
from cache_world import QUICK, Slow
from children import in_child
from directory_server import directory_server
from part_world import HEADER, PART, Flat, FlatMaker, Opened, corpus, part_name, write
from servers import environment

from mixstream.data.domain import Domain
from mixstream.errors import (
    CacheFullError,
    ConfigError,
    IndexCorruptError,
    IndexNotFoundError,
    NoRangesError,
    ShardCorruptError,
    ShardNotFoundError,
    StoreChangedError,
)
from mixstream.storage import (
    CacheLimit,
    DatasetFiles,
    ObjectPart,
    OriginalFiles,
    Retry,
    ShardSpec,
    map_file,
    open_store,
)
from mixstream.storage.mapping import FileRange
from mixstream.storage.spec import companion_name

SHARDS = -(-20_000 // PART)  # of corpus()


@pytest.fixture(autouse=True)
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the default caches lie below a directory of the test."""
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    return tmp_path / "temp"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketServer]:
    with bucket_server() as server:
        for name, value in environment(server.url).items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        server.objects |= {"b/web/corpus.bin": corpus(0), "b/web/corpus.idx": bytes(range(256)) * 40}
        yield server


def located(remote: str | None, local: Path | None = None, **options: Any) -> DatasetFiles:
    maker = FlatMaker(**options)
    return DatasetFiles.locate(
        remote=remote, local=str(local) if local is not None else None, split=None, retry=QUICK, maker=maker
    )


def opened(remote: str | None, local: Path | None = None, limit: int | None = None, **options: Any) -> Opened:
    return Opened.of(located(remote, local, **options), limit)


def web(server: BucketServer) -> str:
    """Return the dataset's URL at the server; plain HTTP needs no client of Amazon's, which takes time to make."""
    return f"{server.url}/b/web"


def ranges(server: BucketServer) -> list[tuple[str, int, int]]:
    """Return the ranges of more than a byte that were read since the last call: (name, begin, end)."""
    found = []
    for request in server.requests:
        if request.method == "GET" and "range" in request.headers:
            first, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
            if last != first:
                found.append((request.path.rpartition("/")[2], int(first), int(last) + 1))
    server.requests.clear()
    return found


def span(number: int) -> tuple[str, int, int]:
    return "corpus.bin", HEADER + number * PART, min(HEADER + (number + 1) * PART, len(corpus(0)))


# --- names ------------------------------------------------------------------------------------------------------------


def test_names_of_companions_and_parts_are_those_of_no_file():
    names = [companion_name(file) for file in ("a", "a.whole", "b/a", "x" * 250, "x" * 249 + "y")]
    assert len({*names}) == len(names)
    assert max(len(name) for name in names) < 240  # a partial of it has a name too
    part = ObjectPart(name="corpus.bin", size=4, begin=0)
    for name in names:
        ShardSpec(name=name, size=4, check=None, compressed=None, part=part)
    with pytest.raises(IndexCorruptError, match=r"'corpus.bin' is not a valid name for a part of corpus.bin"):
        ShardSpec(name="corpus.bin", size=4, check=None, compressed=None, part=part)


def test_a_part_that_the_file_does_not_have_is_refused():
    with pytest.raises(IndexCorruptError, match=r"bytes 8 to 12 of corpus.bin, which has 11"):
        ShardSpec(
            name="x.part", size=4, check=None, compressed=None, part=ObjectPart(name="corpus.bin", size=11, begin=8)
        )


# --- in place ---------------------------------------------------------------------------------------------------------


def test_ranges_of_a_local_file_are_mapped_where_they_are(tmp_path, temp):
    whole = write(tmp_path / "data")
    found = opened(str(tmp_path / "data"))
    assert not found.files.fetches
    for number, spec in enumerate(found.flat.specs()):
        assert found.files.present(spec)
        with found.files.open(spec) as file:  # pyright: ignore[reportOptionalContextManager]
            data = map_file(file)
            assert file.read() == data.tobytes() == found.expected(number, whole)
            assert (file.seek(-4, os.SEEK_END), file.read(9)) == (spec.size - 4, data[-4:].tobytes())
        assert not data.flags.writeable
    assert found.companion() == bytes(range(256)) * 40
    assert not list(temp.rglob("*.part"))
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["corpus.bin", "corpus.idx"]


def test_a_range_that_is_read_ends_where_the_range_ends(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(20)))
    with FileRange(str(path), 5, 10) as part:
        assert part.read(4) == bytes(range(5, 9))
        assert part.read(100) == bytes(range(9, 15))
        assert (part.read(1), part.read(), part.tell()) == (b"", b"", 10)


def test_only_the_range_is_mapped(tmp_path):
    (tmp_path / "data").mkdir()
    with (tmp_path / "data/large").open("wb") as file:
        file.truncate(1 << 40)
        file.seek((1 << 39) + 3)
        file.write(b"here")
    (tmp_path / "data/index.json").write_bytes(b"{}")
    part = ObjectPart(name="large", size=1 << 40, begin=(1 << 39) + 3)
    files = DatasetFiles.locate(remote=str(tmp_path / "data"), local=None, split=None)
    with files.open(ShardSpec(name="x.part", size=4, check=None, compressed=None, part=part)) as file:  # pyright: ignore
        data = map_file(file)
    assert data.tobytes() == b"here"
    (mapped,) = (line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("/data/large"))
    begin, _, end = mapped.split()[0].partition("-")
    assert int(end, 16) - int(begin, 16) <= 2 * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("by", [-2, 2])
def test_a_local_file_of_another_size_is_refused_by_name(tmp_path, by):
    whole = write(tmp_path / "data")
    found = opened(str(tmp_path / "data"))
    (tmp_path / "data/corpus.bin").write_bytes((whole + b"ab")[: len(whole) + by])
    with pytest.raises(ShardCorruptError, match=f"corpus.bin: {len(whole) + by} bytes, the index says {len(whole)}"):
        found.read(0)
    (tmp_path / "data/corpus.bin").unlink()
    with pytest.raises(ShardNotFoundError, match=r"corpus.bin.00001.part is a part of .*/data/corpus.bin"):
        found.read(1)


def test_a_local_file_that_is_replaced_or_written_to_while_it_is_read_is_found(tmp_path):
    whole = write(tmp_path / "data")
    found, path = opened(str(tmp_path / "data")), tmp_path / "data/corpus.bin"
    spec = found.flat.specs()[0]
    assert found.read(0) == found.expected(0, whole)
    found.files.check_mapped(spec.name, lambda: spec)
    times = path.stat().st_mtime_ns
    with path.open("r+b") as file:
        file.write(b"FLAT\0\7")
    os.utime(path, ns=(times + 1, times + 1))
    with pytest.raises(StoreChangedError, match=r"data/corpus.bin was written again"):
        found.files.check_mapped(spec.name, lambda: spec)
    with pytest.raises(StoreChangedError, match=r"data/corpus.bin is not the file that it was"):
        found.read(1)


def test_a_file_put_in_the_place_of_another_with_its_size_and_time_is_found(tmp_path):
    write(tmp_path / "data")
    found, path = opened(str(tmp_path / "data")), tmp_path / "data/corpus.bin"
    other = tmp_path / "other"
    other.write_bytes(corpus(7))
    os.utime(other, ns=(path.stat().st_mtime_ns,) * 2)
    other.replace(path)
    with pytest.raises(StoreChangedError, match=r"corpus.bin is not the file that it was when this run began"):
        found.read(0)


def test_a_companion_that_is_written_to_is_found_when_a_shard_is_looked_at(tmp_path):
    write(tmp_path / "data")
    found = opened(str(tmp_path / "data"))
    assert found.companion()
    path, spec = tmp_path / "data/corpus.idx", found.flat.specs()[0]
    found.files.check_mapped(spec.name, lambda: spec)
    os.utime(path, ns=(5, 5))
    with pytest.raises(StoreChangedError, match=r"data/corpus.idx was written again"):
        found.files.check_mapped(spec.name, lambda: spec)


def test_with_local_alone_the_files_are_read_in_place_and_nothing_is_written_beside_them(tmp_path):
    whole = write(tmp_path / "data")
    for local in (None, tmp_path / "data"):
        for computed in (False, True):
            found = opened(str(tmp_path / "data") if local else None, tmp_path / "data", computed=computed)
            assert found.read(1) == found.expected(1, whole)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["corpus.bin", "corpus.idx"]


# --- through a cache --------------------------------------------------------------------------------------------------


def test_exactly_the_ranges_are_fetched_once(server, tmp_path, monkeypatch):
    found = opened(web(server), tmp_path / "cache")
    assert ranges(server) == [("corpus.bin", 0, HEADER)]
    assert found.files.fetches
    assert [found.read(number) for number in (3, 1)] == [found.expected(number, corpus(0)) for number in (3, 1)]
    assert ranges(server) == [span(3), span(1)]
    assert found.read(1) == found.expected(1, corpus(0))
    monkeypatch.setattr("mixstream.storage.transfer.PART", 2500)
    assert found.read(2) == found.expected(2, corpus(0))
    begin = HEADER + 2 * PART
    parts = [(begin, begin + 2500), (begin + 2500, begin + 5000), (begin + 5000, begin + PART)]
    assert sorted(ranges(server)) == [("corpus.bin", *part) for part in parts]
    again = opened(web(server), tmp_path / "cache")
    assert ranges(server) == [("corpus.bin", 0, HEADER)]
    assert [again.read(number) for number in (1, 2, 3)] == [again.expected(number, corpus(0)) for number in (1, 2, 3)]
    assert not server.requests  # the index says of which version each file of the cache has to be
    names = {path.name for path in (tmp_path / "cache").iterdir() if not path.name.startswith(".")}
    assert names == {"index.json", *(part_name("corpus.bin", number) for number in (1, 2, 3))}


def test_a_local_remote_is_copied_by_ranges(tmp_path):
    whole = write(tmp_path / "data")
    found = opened(str(tmp_path / "data"), tmp_path / "cache")
    assert found.read(2) == found.expected(2, whole)
    assert (tmp_path / "cache" / part_name("corpus.bin", 2)).read_bytes() == found.expected(2, whole)
    assert not (tmp_path / "cache/corpus.bin").exists()


@pytest.mark.parametrize("content", [corpus(7), corpus(7, 10_001), corpus(7, 9_000)])
def test_parts_of_two_versions_are_never_mixed(server, tmp_path, content):
    found = opened(web(server), tmp_path / "cache")
    assert found.read(0) == found.expected(0, corpus(0))
    server.objects["b/web/corpus.bin"] = content
    with pytest.raises(
        StoreChangedError, match=r"http:.*/b/web/corpus.bin is not the file that it was when this run beg"
    ):
        found.read(1)
    assert found.read(0) == found.expected(0, corpus(0))  # it is of the version that the run reads
    with pytest.raises(
        ConfigError, match=r"Reused local directory.*earlier version of http:.*/b/web/corpus.bin tokens"
    ):
        opened(web(server), tmp_path / "cache")
    assert opened(web(server)).read(0) == content[HEADER : HEADER + PART]


def test_a_part_replaced_between_its_requests_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setattr("mixstream.storage.transfer.PART", 2500)
    monkeypatch.setattr("mixstream.storage.transfer.PARTS_OF_ONE", 1)
    found = opened(web(server), tmp_path / "cache")

    def replaced(request: Request) -> Answer | None:
        if request.headers.get("range", "").startswith(f"bytes={HEADER + 2500}-"):
            server.objects["b/web/corpus.bin"] = corpus(7)
        return None

    server.odd = replaced
    with pytest.raises(StoreChangedError, match=r"corpus.bin is not the file"):
        found.read(0)
    assert not (tmp_path / "cache" / part_name("corpus.bin", 0)).exists()


def test_a_file_of_which_one_part_was_refused_is_still_of_one_version(server, tmp_path):
    found = opened(web(server), tmp_path / "cache")
    found.files.expect_repair(found.flat.specs()[0])
    server.objects["b/web/corpus.bin"] = corpus(7)
    for number in (0, 1):
        with pytest.raises(StoreChangedError, match=r"corpus.bin is not the file"):
            found.read(number)


def test_damage_to_a_cached_part_is_repaired(server, tmp_path):
    found = opened(web(server), tmp_path / "cache")
    assert found.read(1) == found.expected(1, corpus(0))
    path = tmp_path / "cache" / part_name("corpus.bin", 1)
    path.write_bytes(b"cut")
    assert opened(web(server), tmp_path / "cache").read(1) == found.expected(1, corpus(0))
    path.write_bytes(b"!" * PART)  # of the right size, and not what was fetched
    assert opened(web(server), tmp_path / "cache").read(1) == found.expected(1, corpus(0))


def test_while_the_store_is_away_the_kept_index_and_parts_are_used_and_no_other_version_later(server, tmp_path):
    assert opened(web(server), tmp_path / "cache").read(1)
    server.odd = lambda request: failure(500, "InternalError")
    with pytest.warns(RuntimeWarning, match=r"corpus.bin tokens 6000 could not be read.*going on with the copy"):
        found = opened(web(server), tmp_path / "cache")
    assert found.read(1) == found.expected(1, corpus(0))
    server.odd = None
    assert found.read(2) == found.expected(2, corpus(0))
    server.objects["b/web/corpus.bin"] = corpus(7)
    with pytest.raises(StoreChangedError, match=r"corpus.bin is not the file"):
        found.read(0)


def test_an_index_of_other_options_is_never_used_for_these(server, tmp_path):
    assert opened(web(server)).read(0)
    assert opened(web(server), part=4000).read(0)
    server.odd = lambda request: failure(500, "InternalError")
    with pytest.warns(RuntimeWarning, match=r"tokens 6000 could not be read"):
        found = opened(web(server))
    assert found.read(0) == found.expected(0, corpus(0))
    assert len(found.flat.shards) == SHARDS
    server.odd = None
    assert opened(web(server), tmp_path / "cache").read(0)
    with pytest.raises(ConfigError, match=r"Reused local directory: .* tokens 6000 vs .* tokens 4000"):
        opened(web(server), tmp_path / "cache", part=4000)


def test_a_cache_is_read_without_its_store(server, tmp_path):
    first = opened(web(server), tmp_path / "cache")
    assert first.read(1)
    assert first.companion()
    server.requests.clear()
    files = DatasetFiles.locate(remote=None, local=str(tmp_path / "cache"), split=None)
    found = Opened.of(files)
    assert found.read(1) == found.expected(1, corpus(0))
    assert found.companion() == bytes(range(256)) * 40
    with pytest.raises(ShardNotFoundError, match=r"corpus.bin.00002.part is a part of"):
        found.read(2)
    assert not server.requests


def test_a_tight_limit_evicts_and_refills_parts_but_no_companion(server, tmp_path):
    first = opened(web(server), tmp_path / "cache")
    assert first.companion()
    fixed = 256 * 40 + len(first.flat.index)
    found = opened(web(server), tmp_path / "cache", limit=fixed + 2 * PART)
    assert found.files.cache_limit.usage() == fixed  # though this process has not mapped the companion
    for number in (0, 1, 2, 3, 0, 1):
        assert found.read(number) == found.expected(number, corpus(0))
        assert found.files.cache_limit.usage() <= fixed + 2 * PART
        assert (tmp_path / "cache/corpus.idx.whole").exists()
    assert [at for at in ranges(server) if at[1]] == [span(number) for number in (0, 1, 2, 3, 0, 1)]
    low = opened(web(server), tmp_path / "cache", limit=16_000)
    low.companion()
    with pytest.raises(CacheFullError, match=r"cache_limit=16000 bytes is too low: corpus.bin.00002.part takes 6000"):
        low.read(2)


def test_companions_are_fetched_once_and_mapped_by_each_process(server, tmp_path):
    files = located(web(server), tmp_path / "cache")
    found = Opened.of(files)
    before = found.files.index_bytes
    assert found.companion() == bytes(range(256)) * 40
    assert found.files.index_bytes == before + 256 * 40
    assert found.files.companion(*found.flat.companion) is found.files.companion(*found.flat.companion)
    asked = len(server.requests)
    copy = pickle.loads(pickle.dumps(found.files))
    assert copy.companion(*found.flat.companion).tobytes() == found.companion()
    assert len(server.requests) == asked
    server.objects["b/web/corpus.idx"] = b"!" * 256 * 40
    (tmp_path / "cache/corpus.idx.whole").unlink()
    with pytest.raises(StoreChangedError, match=r"http:.*/b/web/corpus.idx is not the file"):
        pickle.loads(pickle.dumps(found.files)).companion(*found.flat.companion)


def test_of_many_readers_one_fetches(tmp_path):
    whole = write(tmp_path / "remote")
    store = Slow(tmp_path / "remote", tmp_path / "log", pause=0.05)
    files = [DatasetFiles(home=tmp_path / "cache", store=store, retry=QUICK, maker=FlatMaker()) for _ in range(4)]
    found = [Opened.of(each) for each in files]
    (tmp_path / "log").unlink()
    with ThreadPoolExecutor(4) as pool:
        assert {*pool.map(lambda at: at.read(2), found)} == {found[0].expected(2, whole)}
        assert {*pool.map(Opened.companion, found)} == {bytes(range(256)) * 40}
    assert (tmp_path / "log").read_text().split("\n") == [
        f"corpus.bin {HEADER + 2 * PART} {HEADER + 3 * PART}", "corpus.idx 0 10240", ""
    ]  # fmt: skip


# --- computed shards --------------------------------------------------------------------------------------------------


def test_a_computed_shard_is_kept_like_one_that_is_fetched(server, tmp_path, temp):
    whole = write(tmp_path / "data")
    for remote in (str(tmp_path / "data"), web(server)):
        found = opened(remote, computed=True, limit=2 * PART + 1000)
        assert found.files.fetches
        ranges(server)
        assert [found.read(number) for number in (0, 1, 2, 1)] == [found.expected(n, whole) for n in (0, 1, 2, 1)]
        assert ranges(server) == ([span(n) for n in (0, 1, 2)] if remote.startswith("http") else [])
        again = opened(remote, computed=True)
        assert again.files.present(again.flat.specs()[2])
        assert again.read(2) == again.expected(2, whole)
        assert ranges(server) == ([("corpus.bin", 0, HEADER)] if remote.startswith("http") else [])
    assert len(list(temp.rglob("*.part"))) == 4


def test_a_computed_shard_is_of_one_version_and_of_the_size_in_the_index(server, tmp_path):
    write(tmp_path / "data")
    for remote in (web(server), str(tmp_path / "data")):
        found = opened(remote, computed=True)
        whole = ObjectPart(name="corpus.bin", size=len(corpus(0)), begin=None, make=lambda file: file.read(9))
        spec = ShardSpec(name="x.part", size=8, check=None, compressed=None, part=whole)
        with pytest.raises(ShardCorruptError, match=r"x.part: 9 bytes, the index says 8"):
            found.files.open(spec)
        server.objects["b/web/corpus.bin"] = corpus(7)
        write(tmp_path / "data", 7)
        with pytest.raises(StoreChangedError, match=r"corpus.bin is not the file that it was"):
            found.read(0)


# --- the index --------------------------------------------------------------------------------------------------------


def test_a_missing_or_wrong_file_is_named(server, tmp_path):
    del server.objects["b/web/corpus.idx"]
    with pytest.raises(
        IndexNotFoundError, match=r"http:.*/b/web/corpus.bin tokens 6000: a file is missing: .*corpus.idx"
    ):
        opened(web(server))
    write(tmp_path / "data")
    (tmp_path / "data/corpus.bin").write_bytes(b"NONE\0" + bytes(40))
    with pytest.raises(IndexCorruptError, match=r"another magic"):
        opened(str(tmp_path / "data"))
    with pytest.raises(IndexNotFoundError, match=r"corpus.bin"):
        opened(str(tmp_path / "nothing"))


def test_an_index_that_cannot_be_made_any_more_names_the_copy_that_was_kept(server, tmp_path):
    opened(web(server), tmp_path / "cache").read(0)
    del server.objects["b/web/corpus.idx"]
    with pytest.raises(IndexNotFoundError) as refused:
        opened(web(server), tmp_path / "cache")
    assert f"pass remote=None, local='{tmp_path}/cache' to read that" in "".join(refused.value.__notes__)


def test_an_index_is_of_one_version_of_each_file(server):
    def replaced(request: Request) -> Answer | None:
        if "range" in request.headers and server.objects["b/web/corpus.bin"] == corpus(0):
            server.objects["b/web/corpus.bin"] = corpus(7, 9000)
        return None

    server.odd = replaced
    found = opened(web(server))
    assert found.flat.said["file"]["bytes"] == len(corpus(7, 9000))
    assert found.read(0) == found.expected(0, corpus(7, 9000))


def test_a_copy_of_local_files_has_the_same_index(tmp_path):
    write(tmp_path / "data")
    write(tmp_path / "copy")
    for name in ("corpus.bin", "corpus.idx"):
        os.utime(tmp_path / "copy" / name, ns=((tmp_path / "data" / name).stat().st_mtime_ns,) * 2)
    assert located(str(tmp_path / "data")).read_index()[0] == located(str(tmp_path / "copy")).read_index()[0]


def test_a_maker_sees_the_files_of_the_directory(server, tmp_path):
    write(tmp_path / "sub")
    (tmp_path / "sub/.mixstream-x").touch()
    (tmp_path / "index.json").touch()
    seen = OriginalFiles(open_store(str(tmp_path)), Retry())
    assert [name for name in seen.names() if name.startswith("sub")] == ["sub/corpus.bin", "sub/corpus.idx"]
    assert seen.names("sub/corpus.i") == ["sub/corpus.idx"]
    assert seen.each(lambda name: seen.info(name).size, ["sub/corpus.idx", "sub/corpus.bin"]) == [10240, 20005]
    with seen.open("sub/corpus.bin") as file:
        assert (file.seek(-2, os.SEEK_END), file.read()) == (20003, corpus(0)[-2:])
    (tmp_path / "empty").touch()
    assert (seen.info("empty").size, seen.read("empty", 0, 8)) == (0, b"")
    with pytest.raises(IndexCorruptError, match=r"leads out"):
        seen.info("../x")


# --- a real store -----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # forking beside threads: the point here
@pytest.mark.usefixtures("small_parts")
def test_ranges_come_from_s3_through_faults_and_in_forked_children(s3, proxy, tmp_path):
    whole = write(tmp_path / "data", tokens=100_000)
    s3.upload(tmp_path / "data")
    found = opened(s3.url, tmp_path / "cache", part=60_000)
    path = "*/corpus.bin"
    before = proxy.sent(path)
    proxy.when(faults.reset(5000), path=path, times=1)
    proxy.when(faults.shift_range(100), path=path, times=1)
    proxy.when(faults.change_headers(etag='"another"'), path=path, times=1)
    assert found.read(1) == found.expected(1, whole)
    proxy.clear()

    def in_fork() -> tuple[bytes, bytes, bytes, str]:
        part, companion = found.read(2), found.companion()  # by `fork_proxy`
        s3.put("corpus.bin", corpus(7, tokens=100_000))
        with pytest.raises(StoreChangedError) as refused:
            found.read(0)
        return part, companion, found.read(1), str(refused.value)

    part, companion, again, error = in_child(in_fork)
    assert (part, again, companion) == (found.expected(2, whole), found.expected(1, whole), bytes(range(256)) * 40)
    assert "corpus.bin is not the file that it was when this run began" in error
    answers = [seen.sent for seen in proxy.seen if fnmatchcase(seen.path, path)]
    assert max(answers) <= 60_000  # a range each, of a file of 200,005 bytes
    assert proxy.sent(path) - before <= 5000 + 4 * 60_000  # two ranges, and what three faults took


# --- web servers ------------------------------------------------------------------------------------------------------


def test_a_web_server_that_tells_the_present_time_of_every_file_is_read(tmp_path, monkeypatch):
    whole = write(tmp_path / "data")
    warns = pytest.warns(RuntimeWarning, match=r"cannot be told apart; write new versions")
    with directory_server(tmp_path / "data", modified=time.time) as url, warns:
        found = opened(url, tmp_path / "cache")
        assert found.read(1) == found.expected(1, whole)
        monkeypatch.setattr("mixstream.storage.made_index.is_timeless_now", lambda *_: True)  # it takes two seconds
        again = opened(url, tmp_path / "cache")
        assert (again.read(1), again.read(2)) == (again.expected(1, whole), again.expected(2, whole))


def test_a_web_server_that_tells_no_versions_is_read_with_a_warning(tmp_path):
    whole = write(tmp_path / "data")
    with directory_server(tmp_path / "data", headers=False) as url:
        found = opened(url)
        with pytest.warns(RuntimeWarning, match=r"neither an ETag"):
            assert found.read(1) == found.expected(1, whole)


@pytest.mark.parametrize("computed", [False, True])
def test_servers_of_one_url_may_tell_different_versions(server, tmp_path, computed):
    found, turns, etag = opened(web(server), tmp_path / "cache", computed=computed), iter(range(10_000)), '"another"'

    def other(request: Request) -> Answer | None:
        if next(turns) % 2:
            return None
        if "if-match" in request.headers:
            return failure(412, "PreconditionFailed")
        answer = server.right_answer(request)
        answer.headers["ETag"] = etag
        return answer

    server.odd = other
    for number in (0, 1, 2):
        assert found.read(number) == found.expected(number, corpus(0))
    again = Opened(pickle.loads(pickle.dumps(found.files)), found.flat)
    server.requests.clear()
    assert again.read(2) == again.expected(2, corpus(0))
    assert not server.requests  # what a cache keeps counts as of the version in the index
    turns, etag = iter([0] * 10_000), '"new"'  # what was read before is nowhere any more
    with pytest.raises(StoreChangedError, match=r"corpus.bin is not the file"):
        found.read(3)


def test_without_ranges_a_file_of_moderate_size_is_read_whole(server, tmp_path, monkeypatch):
    def whole(request: Request) -> Answer | None:
        if request.method != "GET" or "range" not in request.headers:
            return None
        del request.headers["range"]
        return server.right_answer(request)

    server.odd = whole
    found = opened(web(server))
    assert found.read(1) == found.expected(1, corpus(0))
    monkeypatch.setattr("mixstream.storage.cache.read_original._WHOLE", 1000)
    with pytest.raises(NoRangesError) as refused:
        found.read(2)
    assert "corpus.bin has 20005 bytes, of which only a range is needed" in "".join(refused.value.__notes__)


# --- a domain ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("computed", [False, True])
def test_a_domain_maps_ranges_and_computed_shards(server, tmp_path, computed):
    write(tmp_path / "data")
    for remote in (str(tmp_path / "data"), web(server)):
        found = opened(remote, computed=computed)
        domain = Domain(name="web", container=found.flat, files=found.files).within(CacheLimit())
        assert domain.files.fetches is (computed or remote.startswith("http"))
        for number in range(SHARDS):
            assert domain.map(number).tobytes() == found.expected(number, corpus(0))
            domain.check_mapped(number)
        assert int(domain.decode(1, 4, domain.map(1))["tokens"]) == (PART // 2 + 4) ** (1 + computed) % 65536
        assert domain.specs(0)[0].part is not None
        copy = pickle.loads(pickle.dumps(domain))
        assert np.array_equal(copy.map(2), domain.map(2))


def test_hashes_that_nothing_lists_are_refused(tmp_path):
    write(tmp_path / "data")
    with pytest.raises(
        ConfigError, match=r"validate_hash='xxh64', but its files have no index with hashes; pass validate_hash=None"
    ):
        Domain.open(name="web", files=located(str(tmp_path / "data")), validate_hash="xxh64")


def test_fingerprints_tell_where_parts_lie(tmp_path):
    write(tmp_path / "data")
    found = opened(str(tmp_path / "data"))
    other = Flat(found.flat.index, first=HEADER - 2)
    domains = [Domain(name="web", container=flat, files=found.files) for flat in (found.flat, other)]
    assert len({domain.fingerprint for domain in domains}) == 2
