"""Which original is this? A dataset that is rewritten, or shares its URL with another one, is never mixed with it."""

from __future__ import annotations

import itertools
import os
import pickle
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bucket_server import BucketServer, bucket_server
from directory_server import directory_server
from harness import write_tokens
from servers import environment

import mixstream as ms
from mixstream.errors import ConfigError, StoreChangedError
from mixstream.storage import DatasetFiles, ObjectInfo, open_store
from mixstream.storage.fork_server import carry_out
from mixstream.storage.identity import identity_of
from mixstream.storage.original import HasClock, Original, begins
from mixstream.storage.stores.frames import Answer, Request

OLD, NEW, ROWS = 14209, 15763, 40  # compressed to the same sizes, so their indexes are the same bytes


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketServer]:
    with bucket_server() as server:
        for name, value in environment(server.url).items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(autouse=True)
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the default caches lie below a directory of the test."""
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    return tmp_path / "temp"


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., dict[str, bytes]]:
    """Return what makes a dataset: names -> bytes. Indexes of the same options are the same bytes."""

    def write(first: int, **options: Any) -> dict[str, bytes]:
        place = tmp_path / f"written-{first}-{len(list(tmp_path.iterdir()))}"
        write_tokens(place, range(first, first + ROWS), shard_bytes=200, **options)
        return {path.name: path.read_bytes() for path in place.iterdir()}

    return write


def upload(server: BucketServer, files: dict[str, bytes], *, at: float | None = None, key: str = "b/web") -> None:
    """Write a dataset to the server, its index last, at a time of the server's clock; None: long ago."""
    for name in sorted(files, key=lambda name: name == "index.json"):
        server.objects[f"{key}/{name}"] = files[name]
        if at is not None:
            server.times[f"{key}/{name}"] = at


def dataset(url: str = "s3://b/web", local: Path | None = None, **options: Any) -> ms.StreamingDataset:
    options = {"batch_size": 4, "download_retry": 1, "cache_limit": None, **options}
    return ms.StreamingDataset(remote=url, local=local and str(local), **options)


def rows(made: ms.StreamingDataset) -> list[int]:
    """Return the rows of a dataset in order: its first token names a row."""
    return [int(sample["tokens"][0]) for sample in made[:]]


def quiet(*args: Any, **options: Any) -> list[int]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return rows(dataset(*args, **options))


def asked(server: BucketServer, method: str) -> list[str]:
    """Return the names of the shards that requests of a method were for; the list of requests is emptied."""
    found = [request.path.rpartition("/")[2] for request in server.requests if request.method == method]
    if method == "GET":
        server.requests.clear()
    return sorted(name for name in found if ".mds" in name)


# --- whose cache is it ------------------------------------------------------------------------------------------------


def web(*parts: str) -> list[str]:
    return [f"http://{part}" for part in parts]


@pytest.mark.parametrize(
    "urls",
    [
        web("h/ds?v=1", "h/ds?v=2", "h/ds"),
        web("ann:pw@h/ds", "bob:pw@h/ds", "ann:other@h/ds", "h/ds"),
        web("h/ds?X-Amz-Signature=1&X-Amz-Credential=a", "h/ds?X-Amz-Signature=2&X-Amz-Credential=b"),
        ["sftp://ann@h/ds", "sftp://bob@h/ds"],
    ],
)
def test_urls_that_look_alike_without_their_secrets_have_identities_of_their_own(urls):
    found = [identity_of(url) for url in urls]
    assert len(set(found)) == len(urls)
    assert all(re.fullmatch("([0-9a-f]{32})?", each) for each in found)
    assert identity_of("http://h/ds") == identity_of("s3://b/ds") == identity_of("/a/path") == ""
    assert identity_of(urls[0]) == identity_of(urls[0])


@pytest.mark.parametrize(
    ("url", "name", "values"),
    [
        ("s3://b/ds", "S3_ENDPOINT_URL", ("http://one:9000", "http://two:9000")),
        ("s3://b/ds", "AWS_ENDPOINT_URL", ("http://one:9000", "http://two:9000")),
        ("s3://b/ds", "AWS_ENDPOINT_URL_S3", ("http://one:9000", "http://two:9000")),
        ("az://b/ds", "AZURE_ACCOUNT_NAME", ("one", "two")),
        ("gs://b/ds", "GOOGLE_BASE_URL", ("http://one", "http://two")),
    ],
)
def test_an_endpoint_or_account_of_the_environment_is_part_of_the_identity(monkeypatch, url, name, values):
    found = set()
    for known in ("S3_ENDPOINT_URL", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(known, raising=False)
    for value in values:
        monkeypatch.setenv(name, value)
        found.add(identity_of(url))
    assert len(found) == 2
    assert "" not in found


def test_an_endpoint_of_a_profile_is_part_of_the_identity(monkeypatch, tmp_path):
    config = tmp_path / "config"
    config.write_text(
        "[profile one]\nregion = us-east-1\nendpoint_url = http://one:9000\n"
        "[profile two]\nregion = us-east-1\nendpoint_url = http://two:9000\n[profile plain]\nregion = us-east-1\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    for known in ("S3_ENDPOINT_URL", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(known, raising=False)
    found = []
    for profile in ("one", "two", "plain"):
        monkeypatch.setenv("AWS_PROFILE", profile)
        found.append(identity_of("s3://b/ds"))
    assert len(set(found)) == 3
    assert found[2] == ""


def by_query(server: BucketServer, written: Callable[..., dict[str, bytes]]) -> None:
    """Let the server have a dataset for each value of ?v=."""
    for version, first in (("1", OLD), ("2", NEW)):
        upload(server, written(first), key=f"b/{version}")

    def answer(request: Any) -> Any:
        version, request.query["v"] = request.query.get("v"), ""
        if version:
            server.odd, odd = None, server.odd
            try:
                return server.answer(
                    type(request)(
                        request.method, request.path.replace("/web/", f"/{version}/"), {}, request.headers, b""
                    )
                )
            finally:
                server.odd = odd
        return None

    server.odd = answer


def test_two_versions_by_query_have_caches_of_their_own(server, written, temp):
    by_query(server, written)
    for _ in range(2):
        for version, first in (("1", OLD), ("2", NEW)):
            assert quiet(f"{server.url}/b/web?v={version}") == list(range(first, first + ROWS))
    assert len(list(temp.glob("mixstream-*/*"))) == 2


def test_a_local_directory_of_another_query_is_refused_by_name(server, written, tmp_path):
    by_query(server, written)
    rows(dataset(f"{server.url}/b/web?v=1", tmp_path / "local"))
    with pytest.raises(ConfigError, match=r"Reused local directory: .*local.*another query, user, account or endpoint"):
        dataset(f"{server.url}/b/web?v=2", tmp_path / "local")
    streams = [ms.Stream(remote=f"{server.url}/b/web?v={v}", local=str(tmp_path / "both"), name=v) for v in ("1", "2")]
    with pytest.raises(ConfigError, match="the same `local`"):
        ms.StreamingDataset(streams=streams, batch_size=4)


def test_secrets_are_on_disk_and_in_errors_nowhere(server, written, tmp_path, temp):
    upload(server, written(OLD))
    url = server.url.replace("http://", "http://ann:SECRETWORD@") + "/b/web?sig=SECRETWORD"
    quiet(url)
    quiet(url, tmp_path / "local")
    for place in (temp, tmp_path / "local"):
        for path in place.rglob("*"):
            assert "SECRETWORD" not in str(path)
            assert not path.is_file() or b"SECRETWORD" not in path.read_bytes()
    with pytest.raises(ConfigError, match="another query, user") as caught:
        dataset(url.replace("ann", "bob"), tmp_path / "local")
    assert "SECRETWORD" not in str(caught.value)


# --- rewritten between two starts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["raw", "packed", "kept"])
@pytest.mark.parametrize("told", ["etag", "time", "both"])
def test_a_dataset_rewritten_with_the_same_index_is_read_anew_and_the_user_is_warned(
    server, written, tmp_path, kind, told
):
    server.etags = told != "time"
    options: dict[str, Any] = {} if kind == "raw" else {"compression": "zstd:1"}
    keep: dict[str, Any] = {"keep_zip": True} if kind == "kept" else {}
    old, new = written(OLD, **options), written(NEW, **options)
    assert old["index.json"] == new["index.json"]
    upload(server, old, at=1_000_000_000.0 if told != "etag" else None)
    assert quiet(local=tmp_path / "local", **keep) == list(range(OLD, OLD + ROWS))
    upload(server, new, at=1_500_000_000.0 if told != "etag" else None)
    with pytest.warns(RuntimeWarning, match=r"s3://b/web was rewritten since .*local/shard.*fetched again") as warned:
        found = rows(dataset(local=tmp_path / "local", **keep))
    assert found == list(range(NEW, NEW + ROWS))
    assert len(warned) == 1
    assert quiet(local=tmp_path / "local", **keep) == found


def test_what_comparing_costs(server, written, tmp_path):
    """One HEAD per shard of the cache and process, no bytes; nothing for shards that were fetched by this process."""
    upload(server, written(OLD))
    made = dataset(local=tmp_path / "local")
    for _ in range(2):
        assert len(rows(made)) == ROWS
    assert asked(server, "HEAD") == []
    shards = asked(server, "GET")
    assert len(shards) == made.num_shards > 5
    made = dataset(local=tmp_path / "local")
    again = dataset(local=tmp_path / "local")  # as another rank of the same run
    for each in (made, made, again):
        assert len(rows(each)) == ROWS
    assert asked(server, "HEAD") == shards
    assert asked(server, "GET") == []


def test_the_same_bytes_uploaded_again_are_not_fetched_again(server, written, tmp_path):
    upload(server, written(OLD), at=1_000_000_000.0)
    assert quiet(local=tmp_path / "local") == list(range(OLD, OLD + ROWS))
    asked(server, "GET")
    upload(server, written(OLD), at=1_500_000_000.0)
    assert quiet(local=tmp_path / "local") == list(range(OLD, OLD + ROWS))
    assert asked(server, "GET") == []


def test_of_shards_rewritten_without_their_index_those_are_fetched_again(server, written, tmp_path):
    upload(server, written(OLD))
    quiet(local=tmp_path / "local")
    asked(server, "GET")
    name = "shard.00001.mds"
    server.objects[f"b/web/{name}"] = written(NEW)[name]
    with pytest.warns(RuntimeWarning, match="was rewritten since"):
        found = rows(dataset(local=tmp_path / "local"))
    assert asked(server, "GET") == [name]
    assert any(row >= NEW for row in found)


def test_a_local_original_is_compared_too(tmp_path, written):
    old, new = written(OLD, compression="zstd:1"), written(NEW, compression="zstd:1")
    for files, first in ((old, OLD), (new, NEW)):
        place = tmp_path / "original"
        place.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            if name != "index.json" or not (place / name).exists():
                (place / name).write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if first == NEW else "error")
            assert rows(dataset(str(place), tmp_path / "local")) == list(range(first, first + ROWS))


def test_files_of_which_nothing_is_known_are_proven_by_a_hash_or_fetched_again(server, written, tmp_path):
    for name, options, known in (("hashed", {"hashes": ["sha1", "xxh64"]}, True), ("plain", {}, False)):
        upload(server, written(OLD, **options), key=f"b/{name}")
        server.etags = False  # an ETag that is an MD5 would be proof enough
        url, local = f"s3://b/{name}", tmp_path / name
        quiet(url, local)
        for path in (local / ".mixstream-objects").iterdir():
            path.unlink()
        (local / ".mixstream-original").unlink()
        asked(server, "GET")
        if known:
            assert len(quiet(url, local)) == ROWS
            assert asked(server, "GET") == []
        else:
            with pytest.warns(RuntimeWarning, match="nothing shows that .*shard.* fetched again"):
                assert len(rows(dataset(url, local))) == ROWS
            assert asked(server, "GET") != []
        assert len(quiet(url, local)) == ROWS


def test_a_store_that_cannot_be_asked_leaves_the_cache_as_it_is(server, written, tmp_path):
    upload(server, written(OLD))
    quiet(local=tmp_path / "local")
    server.odd = lambda request: None if "index" in request.path else _away()
    with pytest.warns(RuntimeWarning, match="could not be asked whether it still has") as warned:
        assert rows(dataset(local=tmp_path / "local")) == list(range(OLD, OLD + ROWS))
    assert len(warned) == 1
    server.odd = lambda request: _away()
    with pytest.warns(RuntimeWarning, match="going on with the copy that was kept"):
        assert rows(dataset(local=tmp_path / "local")) == list(range(OLD, OLD + ROWS))


def _away() -> Any:
    from bucket_server import failure

    return failure(500, "InternalError")


def test_a_kept_index_and_a_store_that_comes_back_rewritten_do_not_mix(server, written, tmp_path):
    upload(server, written(OLD), at=time.time() - 60)
    first = dataset(local=tmp_path / "local")
    assert int(first[0]["tokens"][0]) == OLD  # one shard is in the cache
    server.odd = lambda request: _away()
    with pytest.warns(RuntimeWarning, match="copy that was kept"):
        later = dataset(local=tmp_path / "local")
    server.odd = None
    upload(server, written(NEW), at=time.time() + 1)
    assert int(later[0]["tokens"][0]) == OLD
    with pytest.raises(StoreChangedError, match="was written again"):
        _ = later[ROWS - 1]


# --- rewritten in mid-run ---------------------------------------------------------------------------------------------


def test_a_shard_that_is_rewritten_in_mid_run_stops_it_by_name(server, written, tmp_path):
    upload(server, written(OLD), at=time.time())  # a moment ago, in this very second
    made = dataset(local=tmp_path / "local", predownload=4)
    seen = []
    with ms.Loader(made, prefetch=0) as loader:
        batches = iter(loader)
        seen += [int(row[0]) for row in next(batches)["tokens"]]
        upload(server, written(NEW), at=time.time())
        with pytest.raises(StoreChangedError) as caught:
            seen += [int(row[0]) for batch in batches for row in batch["tokens"]]
    assert seen
    assert all(row < NEW for row in seen)
    named = r"s3://b/web/shard\.\d{5}\.mds was written again at .*restart to read the dataset"
    assert re.search(named, str(caught.value))


def test_the_same_bytes_with_hashes_may_be_written_again_in_mid_run(server, written, tmp_path):
    upload(server, written(OLD, hashes=["xxh3_64"]), at=time.time() - 60)
    made = dataset(local=tmp_path / "local")
    assert int(made[0]["tokens"][0]) == OLD
    upload(server, written(OLD, hashes=["xxh3_64"]), at=time.time() + 1)
    assert rows(made) == list(range(OLD, OLD + ROWS))


def test_a_dataset_that_was_copied_slowly_is_not_taken_for_a_rewritten_one(server, written, tmp_path):
    """Its index arrived first, as with `aws s3 cp --recursive`."""
    now = time.time()
    upload(server, written(OLD), at=now - 10)
    server.times["b/web/index.json"] = now - 1000
    assert quiet(local=tmp_path / "local") == list(range(OLD, OLD + ROWS))


@dataclass(frozen=True)
class Ahead:
    """A store whose clock is ahead."""

    seconds: float

    def clock(self) -> float:
        return time.time() + self.seconds


def test_times_of_a_store_are_compared_with_its_own_clock():
    index = ObjectInfo(size=2, version='"a"', modified=time.time() - 1000)
    began = time.time()
    for seconds, newer in ((0.0, False), (300.0, False), (-300.0, True)):
        original = Original(place="s3://b/web", index=index, began=began)
        shard = ObjectInfo(size=9, version='"b"', modified=began - 100)  # by a store 300 s behind: 200 s after we began
        assert original.is_newer(shard, Ahead(seconds)) == newer


class Clocks:
    """Time that passes only where somebody sleeps, and the clock of a store: ahead, in whole seconds, told slowly."""

    def __init__(self, now: float, ahead: float = 0.0, slow: float = 0.0) -> None:
        self.now, self.ahead, self.slow = now, ahead, slow

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def clock(self) -> float:
        told = floor(self.now + self.ahead)
        self.now += self.slow
        return told

    def info(self, when: float) -> ObjectInfo:
        """Return what the store says of an object that was written at a time of this machine."""
        return ObjectInfo(size=9, version=f'"{when}"', modified=float(floor(when + self.ahead)))


AHEAD = [0.0, -0.02, -0.3, -0.9, -1.6, 0.9, 1.6, -60.0, 60.0]


@pytest.mark.parametrize("slow", [0.001, 0.6, 9.0])
@pytest.mark.parametrize("ahead", AHEAD)
def test_no_object_that_is_written_after_the_start_passes_for_an_older_one(monkeypatch, ahead, slow):
    """Clocks differ by less than can be read off them at a glance; the object is written at once, or a little later."""
    for began, later, asked in itertools.product(
        (1e9, 1e9 + 0.05, 1e9 + 0.999), (0.0, 0.1, 0.7, 1.2), (0.01, 0.6, 1.0)
    ):
        clocks = Clocks(began + later + asked, ahead, slow)
        monkeypatch.setattr("mixstream.storage.original.time", clocks)
        original = Original(place="s3://b/web", index=clocks.info(began - 1000), began=floor(began), started=began)
        assert original.is_newer(clocks.info(began + later), clocks), (began, later, asked)


@pytest.mark.parametrize("ahead", AHEAD)
def test_an_object_that_was_written_two_seconds_before_the_start_is_an_older_one(monkeypatch, ahead):
    for began in (1e9, 1e9 + 0.05, 1e9 + 0.999):
        clocks = Clocks(began + 5, ahead, slow=0.01)
        monkeypatch.setattr("mixstream.storage.original.time", clocks)
        original = Original(place="s3://b/web", index=clocks.info(began - 1000), began=floor(began), started=began)
        assert not original.is_newer(clocks.info(began - 2), clocks)


@pytest.mark.parametrize("slow", [0.0, 0.05])
@pytest.mark.parametrize("fraction", [0.0, 0.4, 0.99])
@pytest.mark.parametrize("asked", [0.0, 0.3, 0.95])
def test_a_run_that_starts_right_after_an_upload_takes_no_shard_of_it_for_a_rewritten_one(
    monkeypatch, slow, fraction, asked
):
    """Its index was written first, a second before its shards."""
    clocks = Clocks(1e9 + fraction, slow=slow)
    monkeypatch.setattr("mixstream.storage.original.time", clocks)
    index, last = clocks.info(clocks.now - 1), clocks.info(clocks.now)
    original = Original(place="s3://b/web", index=index, began=begins(index), started=clocks.now)
    again = clocks.info(clocks.now)
    clocks.now += asked
    assert not original.is_newer(last, clocks)
    assert original.is_newer(again, clocks)


def test_files_have_the_fractions_of_seconds_of_their_times():
    """A cache that is read without its original right after it was filled is not taken for a rewritten one."""
    began = 1e9 + 0.75
    index = ObjectInfo(size=2, version="a", modified=began - 0.5)
    original = Original(place="/data/web", index=index, began=began, started=began)
    for modified, newer in ((began - 0.25, False), (began, True), (began + 0.25, True)):
        assert original.is_newer(ObjectInfo(size=9, version="b", modified=modified), None) == newer


def test_a_server_tells_its_time(server):
    for url in ("s3://b/web", f"{server.url}/b/web"):
        store = open_store(url)
        assert isinstance(store, HasClock)
        assert abs((store.clock() or 0.0) - time.time()) < 5


def test_two_jobs_on_one_cache_read_the_original_of_their_own_start_or_stop(server, written, tmp_path):
    upload(server, written(OLD), at=time.time() - 60)
    one = dataset(local=tmp_path / "local")
    assert int(one[0]["tokens"][0]) == OLD
    upload(server, written(NEW), at=time.time() - 1 + 2)
    time.sleep(1.1)
    with pytest.warns(RuntimeWarning, match="was rewritten since"):
        assert rows(dataset(local=tmp_path / "local")) == list(range(NEW, NEW + ROWS))
    with pytest.raises(StoreChangedError, match="was written again"):
        _ = one[ROWS - 1]


def test_a_copy_in_another_process_knows_the_run_s_original(server, written, tmp_path):
    upload(server, written(OLD), at=time.time() - 60)
    files = DatasetFiles.locate(remote="s3://b/web", local=str(tmp_path / "local"), split=None)
    files.read_index()
    upload(server, written(NEW), at=time.time() + 1)
    copy = pickle.loads(pickle.dumps(files))
    made = dataset(local=tmp_path / "other")  # it has the specs
    for each in (files, copy):
        with pytest.raises(StoreChangedError, match="was written again"):
            each.open(*made.domains[0].specs(1))


def put(files: dict[str, bytes], place: Path) -> None:
    """Write a dataset to a directory, by renaming, as one should."""
    place.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (place / f"{name}.new").write_bytes(data)
        (place / f"{name}.new").replace(place / name)


@pytest.mark.parametrize("given", ["remote", "local"])
def test_a_local_original_that_is_rewritten_in_mid_run_stops_it(tmp_path, written, given):
    put(written(OLD), tmp_path / "original")
    stream = {given: str(tmp_path / "original")}
    made = ms.StreamingDataset(streams=[ms.Stream(**stream)])  # pyright: ignore[reportArgumentType]
    assert int(made[0]["tokens"][0]) == OLD
    time.sleep(0.02)  # the clock of a file system ticks some hundred times a second
    put(written(NEW), tmp_path / "original")
    with pytest.raises(StoreChangedError, match=r"original/shard\.00\d+\.mds was written again"):
        rows(made)
    assert quiet(str(tmp_path / "original")) == list(range(NEW, NEW + ROWS))


def test_what_a_forked_process_is_told_has_the_time_of_the_object(server, written):
    upload(server, written(OLD), at=1_000_000_000.0)
    for method in ("info", "read"):
        request = Request(number=1, method=method, url="s3://b/web", timeout=5.0, name="index.json")
        answer, _ = carry_out(request, bytearray())
        info = msgspec.msgpack.decode(msgspec.msgpack.encode(answer), type=Answer)
        assert (info.modified, info.version) == (1_000_000_000.0, open_store("s3://b/web").info("index.json").version)


def age(place: Path, seconds: float) -> None:
    """Let all files of a directory be of another time, as `cp -p` and `rsync -a` leave them."""
    for path in place.iterdir():
        when = time.time() - seconds
        os.utime(path, (when, when))


def swap_directory(place: Path, other: Path) -> None:
    place.rename(place.with_name("gone"))
    other.rename(place)


def copy_preserving_times(place: Path, other: Path) -> None:
    for path in other.iterdir():
        shutil.copy2(path, place / path.name)


def link_files(place: Path, other: Path) -> None:
    for path in other.iterdir():
        (place / path.name).unlink()
        os.link(path, place / path.name)


@pytest.mark.parametrize("given", ["remote", "local", "cache", "http"])
@pytest.mark.parametrize("age_of_new", [9000.0, 2000.0])
@pytest.mark.parametrize("change", [swap_directory, copy_preserving_times, link_files])
def test_an_older_version_put_in_the_place_of_a_dataset_stops_the_run(tmp_path, written, given, age_of_new, change):
    """All of its files are older than the run."""
    place, other = tmp_path / "served" / "web", tmp_path / "served" / "other"
    place.parent.mkdir()
    for directory, first, seconds in ((place, OLD, 5000.0), (other, NEW, age_of_new)):
        put(written(first), directory)
        age(directory, seconds)
    with directory_server(place.parent) as url:
        stream = {given: str(place)}
        if given in ("cache", "http"):
            stream = {"remote": str(place) if given == "cache" else f"{url}/web", "local": str(tmp_path / "local")}
        made = ms.StreamingDataset(streams=[ms.Stream(**stream)], batch_size=4, predownload=4)  # pyright: ignore[reportArgumentType]
        assert int(made[0]["tokens"][0]) == OLD
        change(place, other)
        with pytest.raises(StoreChangedError, match=r"web/index\.json is not the file that it was.*restart"):
            rows(made)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # it was rewritten
            again = ms.StreamingDataset(streams=[ms.Stream(**stream)])  # pyright: ignore[reportArgumentType]
            assert rows(again) == list(range(NEW, NEW + ROWS))


@pytest.mark.parametrize("cache", [False, True])
def test_a_link_to_the_newest_version_may_be_set_to_another_while_a_run_reads(tmp_path, written, cache):
    for name, first in (("v1", OLD), ("v2", NEW)):
        put(written(first), tmp_path / name)
    link, local = tmp_path / "newest", tmp_path / "local"
    link.symlink_to("v1")
    made = dataset(str(link), local if cache else None)
    assert int(made[0]["tokens"][0]) == OLD
    link.unlink()
    link.symlink_to("v2")
    assert rows(made) == list(range(OLD, OLD + ROWS))
    assert rows(dataset(str(link))) == list(range(NEW, NEW + ROWS))


@pytest.mark.parametrize("compression", [None, "zstd:1"])
def test_a_cache_of_a_link_that_was_set_to_another_version_between_two_runs_is_refused(tmp_path, written, compression):
    """As one is whose original was rewritten with another index; nothing of it is changed, and the remedy helps."""
    for name, first in (("v1", OLD), ("v2", NEW)):
        put(written(first, compression=compression), tmp_path / name)
    link, local = tmp_path / "newest", tmp_path / "local"
    link.symlink_to("v1")
    assert quiet(str(link), local) == list(range(OLD, OLD + ROWS))
    link.unlink()
    link.symlink_to("v2")
    with pytest.raises(
        ConfigError, match=r"local holds shards of .*v1 vs .*v2\. Provide a different one, or remove it"
    ):
        dataset(str(link), local)
    assert quiet(str(tmp_path / "v1"), local) == list(range(OLD, OLD + ROWS))
    shutil.rmtree(local)
    assert quiet(str(link), local) == list(range(NEW, NEW + ROWS))


@pytest.mark.parametrize("order", [1, -1])
def test_no_stream_has_its_cache_where_the_original_of_another_is(tmp_path, written, order):
    """Its files, of the same sizes, would be taken for old ones of the cache, and overwritten."""
    for name, first in (("v1", OLD), ("v2", NEW)):
        put(written(first), tmp_path / name)
    (tmp_path / "link").symlink_to("v2")
    one = ms.Stream(remote=str(tmp_path / "v1"), local=str(tmp_path / "link"), name="one")
    two = ms.Stream(remote=str(tmp_path / "v2"), local=str(tmp_path / "local"), name="two")
    with pytest.raises(ConfigError, match=r"stream 'one' .* where the original of stream 'two' is.*another `local`"):
        ms.StreamingDataset(streams=[one, two][::order], batch_size=4)
    assert quiet(str(tmp_path / "v2")) == list(range(NEW, NEW + ROWS))


@pytest.mark.parametrize("hashed", [False, True])
def test_a_local_original_that_is_written_to_while_it_is_mapped_stops_the_run(tmp_path, written, hashed):
    old, new = written(OLD, hashes=["xxh64"] if hashed else []), written(NEW)
    put(old, tmp_path / "original")
    made = dataset(str(tmp_path / "original"))
    assert rows(made) == list(range(OLD, OLD + ROWS))
    time.sleep(0.15)
    for name, data in (old if hashed else new).items():
        (tmp_path / "original" / name).write_bytes(data)  # into the very file that is mapped
    if hashed:  # the same bytes again
        assert rows(made) == list(range(OLD, OLD + ROWS))
        return
    with pytest.raises(StoreChangedError, match="was written again"):
        rows(made)


def test_the_user_is_warned_where_versions_cannot_be_told_apart(tmp_path, written):
    for hashed in (False, True):
        put(written(OLD, hashes=["xxh64"] if hashed else []), tmp_path / f"served-{hashed}" / "web")
        with directory_server(tmp_path / f"served-{hashed}", headers=False) as url, warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(2):
                made = dataset(f"{url}/web", tmp_path / f"local-{hashed}")
                if hashed:
                    assert len(rows(made)) == ROWS
                else:
                    with pytest.raises(RuntimeWarning, match=r"neither an ETag nor a time.*hashes=\['xxh64'\]"):
                        rows(made)


def test_a_server_that_calls_every_object_new_is_read(tmp_path, written):
    put(written(OLD), tmp_path / "served" / "web")
    with directory_server(tmp_path / "served", modified=time.time) as url:
        for _ in range(2):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # versions cannot be told apart
                made = dataset(f"{url}/web", tmp_path / "local")
                assert int(made[0]["tokens"][0]) == OLD
                time.sleep(1.1)
                assert rows(made) == list(range(OLD, OLD + ROWS))


def test_servers_of_one_url_may_tell_different_times(tmp_path, written):
    put(written(OLD), tmp_path / "served" / "web")
    turn = itertools.count()
    with directory_server(tmp_path / "served", modified=lambda: 1.6e9 + next(turn) % 3) as url:
        assert quiet(f"{url}/web", tmp_path / "local") == list(range(OLD, OLD + ROWS))


def test_a_server_that_refuses_head_requests_is_asked_otherwise(tmp_path, written):
    for name, first, seconds in (("web", OLD, 5000.0), ("other", NEW, 9000.0)):
        put(written(first), tmp_path / "served" / name)
        age(tmp_path / "served" / name, seconds)
    with directory_server(tmp_path / "served", head=False) as url, warnings.catch_warnings():
        warnings.simplefilter("error")
        one = dataset(f"{url}/web", tmp_path / "local")
        assert int(one[0]["tokens"][0]) == OLD
        swap_directory(tmp_path / "served" / "web", tmp_path / "served" / "other")
        with pytest.warns(RuntimeWarning, match="was rewritten since"):
            assert rows(dataset(f"{url}/web", tmp_path / "local")) == list(range(NEW, NEW + ROWS))


def test_a_cache_is_read_without_its_store(server, written, tmp_path):
    upload(server, written(OLD))
    found = rows(dataset(local=tmp_path / "cache"))
    server.requests.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rows(ms.StreamingDataset(local=str(tmp_path / "cache"), batch_size=4)) == found
    assert not server.requests
