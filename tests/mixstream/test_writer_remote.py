"""`MDSWriter` to a store: the same bytes as to a directory, index last, and no fault goes unheard."""

import re
import threading
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import faults
import numpy as np
import pytest
from shelf import Shelf, raising

import mixstream.storage.destination
from mixstream import MDSWriter
from mixstream.errors import (
    ConfigError,
    OutputExistsError,
    StoreAccessError,
    StoreBusyError,
    StoreError,
    StoreFaultError,
)
from mixstream.formats import decode_sample, parse_index, read_offsets
from mixstream.storage import LOCK
from mixstream.storage.destination import StoreDestination
from mixstream.storage.retry import Retry
from mixstream.units import show_bytes

COLUMNS = {"text": "str", "id": "int"}
URL = "s3://bucket/prefix"


def sample(n):
    return {"text": f"sample {n} " * 5, "id": n}


def write(out, count=50, **options):
    with MDSWriter(columns=COLUMNS, out=out, **{"size_limit": 300, **options}) as writer:
        for n in range(count):
            writer.write(sample(n))
    return writer


def files(directory):
    return {path.name: path.read_bytes() for path in Path(directory).iterdir()}


@pytest.fixture
def shelf(monkeypatch, tmp_path):
    """The store of every URL; pauses are short, and whatever is written to the working directory is found out."""
    store = Shelf()
    monkeypatch.setattr(mixstream.storage.destination, "open_store", lambda url: store)
    monkeypatch.setattr(mixstream.storage.destination, "Retry", partial(Retry, unit=0.001))
    monkeypatch.chdir(tmp_path)
    return store


# Bytes and places


@pytest.mark.parametrize("options", [{}, {"compression": "zstd:3", "hashes": ["sha1"]}, {"max_workers": 1}])
def test_a_store_gets_the_bytes_that_a_directory_gets_and_the_index_last(shelf, tmp_path, options):
    writer = write(URL, **options)
    assert (writer.local, writer.remote) == (None, URL)
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "local", **options)
    assert shelf.objects == files(tmp_path / "local")
    assert (shelf.acts("write")[0], shelf.acts("write")[-1]) == (LOCK, "index.json")
    assert shelf.log[-1] == ("remove", LOCK)
    assert len(shelf.acts("write")) == len(set(shelf.acts("write"))) > 5


@pytest.mark.parametrize("keep_local", [False, True])
def test_local_and_remote(shelf, tmp_path, keep_local):
    writer = write((tmp_path / "local", URL), keep_local=keep_local)
    assert (writer.local, writer.remote) == (str(tmp_path / "local"), URL)
    assert "index.json" in shelf.objects
    if keep_local:
        assert files(tmp_path / "local") == shelf.objects
    else:
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("out", "word"),
    [
        ("https://user:secret@host/x?sig=secret", "plain http"),
        (("local", "http://host/x?sig=secret"), "plain http"),
        ((URL, "local"), "has to be a directory"),
        ((URL, "s3://key:secret@host/x"), "has to be a directory"),
    ],
)
def test_places_that_cannot_be_written_to(out, word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=word) as caught:
        MDSWriter(columns=COLUMNS, out=out)
    assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# What is there already


def test_a_store_that_holds_something_is_refused_unchanged(shelf, tmp_path):
    shelf.objects["deep/notes.txt"] = b"mine"
    with pytest.raises(OutputExistsError, match=r"s3://bucket/prefix holds 'deep/notes.txt'.*exist_ok=True"):
        MDSWriter(columns=COLUMNS, out=(tmp_path / "local", URL), keep_local=True)
    assert shelf.objects == {"deep/notes.txt": b"mine"}
    assert shelf.log == [("names", "1")]  # one listing, of one name
    assert not (tmp_path / "local").exists()


def test_a_directory_that_holds_something_is_refused_before_the_store_is_asked(shelf, tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(FileExistsError):
        MDSWriter(columns=COLUMNS, out=(tmp_path, URL), keep_local=True)
    assert shelf.log == []


def test_exist_ok_removes_the_index_then_the_shards_and_nothing_else(shelf):
    write(URL, compression="gz")
    mine = {"notes.txt": b"mine", "sub/shard.00000.mds": b"another dataset's"}
    shelf.objects |= mine
    old = [name for name in shelf.objects if name.startswith("shard")]
    shelf.log.clear()
    write(URL, count=1, exist_ok=True)
    assert shelf.acts("remove")[0] == "index.json"
    assert sorted(shelf.acts("remove")[1:]) == sorted([*old, LOCK])
    assert shelf.objects.keys() == {"index.json", "shard.00000.mds", *mine}


def test_a_second_writer_of_a_store_is_refused_and_the_first_goes_on(shelf):
    with MDSWriter(columns=COLUMNS, out=URL, size_limit=1) as first:
        first.write(sample(1))
        with pytest.raises(OutputExistsError, match=r"is being written by process \d+ on .*merge_index"):
            MDSWriter(columns=COLUMNS, out=URL)
        first.write(sample(2))
    assert sorted(shelf.objects) == ["index.json", "shard.00000.mds", "shard.00001.mds"]


@pytest.mark.parametrize("at_once", [False, True])
def test_a_writer_of_a_store_that_another_has_taken_finds_out_before_its_index(shelf, at_once, monkeypatch):
    if at_once:  # both have seen an empty place before either marks it
        monkeypatch.setattr(StoreDestination, "check", lambda self: None)
    first = MDSWriter(columns=COLUMNS, out=URL, size_limit=1)
    first.write(sample(1))
    second = MDSWriter(columns=COLUMNS, out=URL, size_limit=1, exist_ok=not at_once)
    with pytest.raises(OutputExistsError, match=r"has begun to write there too, so .* was not written"):
        first.finish()
    first.cancel_future_jobs()
    assert "index.json" not in shelf.objects
    second.write(sample(3))
    second.finish()
    assert sorted(shelf.objects) == ["index.json", "shard.00000.mds"]


def test_a_writer_of_a_store_that_was_killed_is_replaced_on_demand(shelf):
    shelf.objects[LOCK] = b"process 7 on host, since ever"
    with pytest.raises(OutputExistsError, match=r"process 7 on host.* or that was killed.*exist_ok=True"):
        MDSWriter(columns=COLUMNS, out=URL)
    write(URL, count=1, exist_ok=True)
    assert sorted(shelf.objects) == ["index.json", "shard.00000.mds"]


@pytest.mark.parametrize("exist_ok", [False, True])
def test_credentials_that_may_only_write_are_enough(shelf, exist_ok, tmp_path):
    shelf.before["read *"] = raising(*(StoreAccessError("403") for _ in range(999)))
    with pytest.warns(RuntimeWarning, match="does not let this writer read") as told:
        write(URL, exist_ok=exist_ok)
    assert len(told) == 1
    write(tmp_path / "local")
    assert shelf.objects == files(tmp_path / "local")
    assert len(shelf.acts("write")) == len(set(shelf.acts("write")))


def test_a_rewrite_that_breaks_off_leaves_no_index_of_the_old_dataset(shelf):
    write(URL)
    with pytest.raises(ZeroDivisionError), MDSWriter(columns=COLUMNS, out=URL, exist_ok=True) as writer:
        writer.write(sample(1 // 0))
    assert "index.json" not in shelf.objects


def test_a_store_that_cannot_be_listed_is_an_error_at_once(shelf):
    shelf.before["names*"] = raising(StoreAccessError("403"), StoreAccessError("403"))
    with pytest.raises(PermissionError, match="403") as caught:
        MDSWriter(columns=COLUMNS, out=URL)
    assert "listing s3://bucket/prefix" in caught.value.__notes__[0]
    assert shelf.renewed == 1


# Faults


def test_what_passes_is_tried_again(shelf, tmp_path):
    shelf.before["write shard.0000[1-3].mds"] = raising(*(StoreFaultError("reset") for _ in range(3)))
    shelf.before["write index.json"] = raising(StoreFaultError("500"), StoreBusyError("503"), StoreFaultError("reset"))
    write(URL, retry=3)
    write(tmp_path / "local")
    assert shelf.objects == files(tmp_path / "local")


def test_busy_uses_up_no_attempts(shelf):
    shelf.before["write index.json"] = raising(*(StoreBusyError("503") for _ in range(5)))
    write(URL, retry=0)
    assert "index.json" in shelf.objects


def test_expired_credentials_are_renewed(shelf):
    shelf.before["write shard.00002.mds"] = raising(StoreAccessError("expired"))
    write(URL, retry=0)
    assert shelf.renewed == 1
    assert "index.json" in shelf.objects


@pytest.mark.parametrize("retry", [0, 2])
def test_what_does_not_pass_surfaces_at_the_next_write_as_it_was(shelf, retry):
    error = StoreFaultError("no route")
    shelf.before["write shard.00001.mds"] = raising(*[error] * 9)
    writer = MDSWriter(columns=COLUMNS, out=URL, size_limit=300, max_workers=8, retry=retry)
    with pytest.raises(StoreFaultError, match="no route") as caught:  # noqa: PT012 (which write it is, threads decide)
        for n in range(1000):
            writer.write(sample(n))
            time.sleep(0.001)
    assert caught.value is error
    assert f"writing s3://bucket/prefix/shard.00001.mds: {retry + 1} attempt" in caught.value.__notes__[0]
    with pytest.raises(ConfigError, match="cancelled"):
        writer.finish()
    assert "index.json" not in shelf.objects


def test_a_write_that_completes_no_shard_tells_of_a_failure_too(shelf):
    shelf.before["write shard*"] = raising(StoreError("gone"))
    writer = MDSWriter(columns=COLUMNS, out=URL)
    writer.write(sample(0))
    writer.flush_shard()
    with pytest.raises(StoreError, match="gone"):  # noqa: PT012 (which write it is, threads decide)
        for n in range(1000):
            writer.write(sample(n))
            time.sleep(0.001)


@pytest.mark.parametrize("victim", ["shard.00000.mds", "shard.00016.mds", "index.json"])
def test_what_fails_last_surfaces_at_the_end(shelf, victim):
    shelf.before[f"write {victim}"] = raising(StoreAccessError("403"), StoreAccessError("403"))
    with pytest.raises(StoreAccessError, match="403"):
        write(URL)
    assert "index.json" not in shelf.objects


def test_an_index_that_could_not_be_written_can_be_tried_again(shelf):
    shelf.before["write index.json"] = raising(StoreError("full"))
    writer = MDSWriter(columns=COLUMNS, out=URL)
    writer.write(sample(0))
    with pytest.raises(StoreError, match="full"):
        writer.finish()
    writer.finish()
    assert shelf.objects.keys() == {"shard.00000.mds", "index.json"}


def test_an_exception_leaves_no_index_and_waits_for_no_retries(shelf, monkeypatch):
    monkeypatch.setattr(mixstream.storage.destination, "Retry", partial(Retry, unit=60))
    shelf.before["write shard*"] = raising(*(StoreFaultError("reset") for _ in range(99)))
    begun = time.monotonic()
    with (  # noqa: PT012 (the block is what is tested)
        pytest.raises(KeyboardInterrupt),
        MDSWriter(columns=COLUMNS, out=URL, size_limit=300, max_workers=8) as writer,
    ):
        for n in range(5):
            writer.write(sample(n))
        time.sleep(0.05)
        raise KeyboardInterrupt
    assert time.monotonic() - begun < 5
    assert shelf.objects == {}


def test_finished_shards_wait_in_memory_in_bounded_number(shelf):
    gate, waiting = threading.Event(), threading.Semaphore(0)

    def hold(name):
        waiting.release()
        assert gate.wait(30)

    shelf.before["write shard*"] = hold
    writer = MDSWriter(columns=COLUMNS, out=URL, size_limit=300, max_workers=2)
    written = []

    def run():
        for n in range(40):
            writer.write(sample(n))
            written.append(n)

    thread = threading.Thread(target=run)
    thread.start()
    for _ in range(2):
        assert waiting.acquire(timeout=30)
    time.sleep(0.1)
    stalled = len(written)
    assert stalled < 3 * 5  # two shards are under way, and the third stays where it is
    gate.set()
    thread.join(30)
    writer.finish()
    assert len(written) == 40
    assert sum(name.startswith("shard") for name in shelf.objects) > 5


def test_the_bar_counts_what_is_uploaded(shelf, capsys):
    write(URL, progress_bar=True)
    shards = [name for name in shelf.objects if name.startswith("shard")]
    told = re.findall(r"(\d+) shards, ([\d.]+ \w+)", capsys.readouterr().err)
    assert int(told[-1][0]) == len(shards)
    assert told[-1][1] == show_bytes(sum(len(shelf.objects[name]) for name in shards))


# A real server


def test_a_real_store_through_faults(s3, proxy, monkeypatch, tmp_path):
    monkeypatch.setattr(mixstream.storage.destination, "Retry", partial(Retry, unit=0.01))
    given = [np.random.default_rng(n).bytes(1000) for n in range(100)]
    proxy.when(faults.reset(), method="PUT", times=2)
    with MDSWriter(columns={"x": "bytes"}, out=s3.url, size_limit=10_000, retry=3) as writer:
        for each in given:
            writer.write({"x": each})
    index = parse_index(s3.get("index.json"), where="")
    assert s3.names() == sorted(["index.json", *(info.raw.basename for info in index.shards)])
    read = []
    for info in index.shards:
        data = s3.get(info.raw.basename)
        offsets = read_offsets(data, info, where="").tolist()
        read += [decode_sample(data[a:b], info, where="")["x"] for a, b in pairwise(offsets)]
    assert read == given
    with pytest.raises(OutputExistsError):
        MDSWriter(columns={"x": "bytes"}, out=s3.url)
    with MDSWriter(columns={"x": "bytes"}, out=s3.url, exist_ok=True) as writer:
        writer.write({"x": b"new"})
    assert s3.names() == ["index.json", "shard.00000.mds"]


def test_a_real_store_that_may_not_be_read(s3, proxy):
    proxy.when(faults.refuse_with(403, "AccessDenied"), method="GET", path=f"*/{LOCK}")
    with pytest.warns(RuntimeWarning, match="AccessDenied") as told:
        write(s3.url)
    assert len(told) == 1
    shards = parse_index(s3.get("index.json"), where="").shards
    assert s3.names() == sorted(["index.json", *(info.raw.basename for info in shards)])
    assert sum(info.samples for info in shards) == 50
    assert proxy.count(method="PUT") == len(shards) + 2  # the mark and the index
