"""One writer at a time: the second is refused by name, and a killed one leaves nothing in the way."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from children import Child, in_child

from mixstream import MDSWriter
from mixstream.errors import ForkedError, OutputExistsError
from mixstream.writer.base import _unlock
from mixstream_tools.cli import main

COLUMNS = {"x": "int"}


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("exist_ok", [False, True])
@pytest.mark.parametrize("how", ["path", "url", "link", "pair"])
def test_a_second_writer_is_refused_and_the_first_goes_on(tmp_path, exist_ok, how):
    out = tmp_path / "out"
    (tmp_path / "link").symlink_to(out)
    place = {"path": out, "url": f"file://{out}", "link": tmp_path / "link", "pair": (tmp_path / "other", str(out))}[
        how
    ]
    with MDSWriter(columns=COLUMNS, out=out, size_limit=1) as writer:
        for x in range(4):
            writer.write({"x": x})
            with pytest.raises(OutputExistsError, match=rf"being written by process {os.getpid()} on .*merge_index"):
                MDSWriter(columns=COLUMNS, out=place, exist_ok=exist_ok, keep_local=True)
    assert names(out) == ["index.json", *(f"shard.{n:05}.mds" for n in range(4))]
    assert not (tmp_path / "other").exists() or names(tmp_path / "other") == []
    with MDSWriter(columns=COLUMNS, out=out, exist_ok=True) as writer:
        writer.write({"x": 1})


def test_of_many_threads_one_writes(tmp_path):
    barrier, won, refused = threading.Barrier(8), [], []

    def write(x):
        barrier.wait()
        try:
            with MDSWriter(columns=COLUMNS, out=tmp_path / "out") as writer:
                writer.write({"x": x})
            won.append(x)
        except OutputExistsError:
            refused.append(x)

    threads = [threading.Thread(target=write, args=(x,)) for x in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 7)


def test_another_process_is_named_and_its_lock_goes_with_it(tmp_path):
    script = (
        "import sys, time, mixstream as ms; writer = ms.MDSWriter(out=sys.argv[1], columns={'x': 'int'});"
        "print('open', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, tmp_path / "out"], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(OutputExistsError, match=f"process {other.pid} on "):
            MDSWriter(columns=COLUMNS, out=tmp_path / "out")
        assert main(["convert", __file__, "--out", str(tmp_path / "out")]) == 2
        os.kill(other.pid, signal.SIGKILL)
    with MDSWriter(columns=COLUMNS, out=tmp_path / "out") as writer:
        writer.write({"x": 1})
    assert names(tmp_path / "out") == ["index.json", "shard.00000.mds"]


def test_a_writer_that_is_dropped_or_refused_holds_nothing(tmp_path):
    writer = MDSWriter(columns=COLUMNS, out=tmp_path / "out")
    del writer
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"notes\.txt"):
        MDSWriter(columns=COLUMNS, out=(tmp_path / "out", str(tmp_path / "full")), keep_local=True)
    MDSWriter(columns=COLUMNS, out=tmp_path / "out").cancel_future_jobs()
    assert names(tmp_path / "out") == []


def test_the_output_of_convert_is_its_own(tmp_path, capsys):
    (tmp_path / "web.txt").write_text("text " * 5000)
    assert main(["convert", str(tmp_path / "web.txt"), "--out", str(tmp_path / "out")]) == 0
    for below in ("", "web", "web/train"):
        for exist_ok in (False, True):
            with pytest.raises(OutputExistsError, match=r"belongs to `mixstream convert`|Directory is not empty"):
                MDSWriter(columns=COLUMNS, out=tmp_path / "out" / below, exist_ok=exist_ok)
    assert main(["verify", str(tmp_path / "out")]) == 0
    with MDSWriter(columns=COLUMNS, out=tmp_path / "out/mine/train") as writer:
        writer.write({"x": 1})
    assert main(["verify", str(tmp_path / "out")]) == 0
    capsys.readouterr()


@pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks", "ignore:.*fork:DeprecationWarning")
def test_a_writer_is_its_process_s_alone(tmp_path):
    with MDSWriter(columns=COLUMNS, out=tmp_path / "out", size_limit=1) as writer:
        writer.write({"x": 0})
        writer.flush_shard()
        writer._collect(waiting=0)

        def use() -> list[str]:
            said = []
            for call in (
                lambda: writer.write({"x": 7}),
                writer.flush_shard,
                writer.finish,
                lambda: writer.__exit__(None),
            ):
                try:
                    call()
                except ForkedError as error:
                    said.append(str(error))
            writer.__exit__(ValueError)
            writer.cancel_future_jobs()
            _unlock(writer._destinations)  # as its finalizer does
            return said

        said = in_child(use)
        assert [f"the writer of {tmp_path / 'out'} belongs to process {os.getpid()}" in text for text in said] == [
            True
        ] * 4
        assert names(tmp_path / "out") == [".mixstream-writer.lock", "shard.00000.mds"]
        with pytest.raises(OutputExistsError):
            MDSWriter(columns=COLUMNS, out=tmp_path / "out", exist_ok=True)
        writer.write({"x": 1})
    assert names(tmp_path / "out") == ["index.json", "shard.00000.mds", "shard.00001.mds"]


@pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks", "ignore:.*fork:DeprecationWarning")
def test_a_second_writer_is_told_that_the_first_is_stopped(tmp_path):
    def write() -> None:
        writer = MDSWriter(columns=COLUMNS, out=tmp_path / "out")
        os.kill(os.getpid(), signal.SIGSTOP)
        writer.cancel_future_jobs()

    child = Child(write)
    child.await_stop()
    try:
        with pytest.raises(
            OutputExistsError, match=rf"{child.pid} .*which is stopped \(kill -CONT {child.pid} lets it"
        ):
            MDSWriter(columns=COLUMNS, out=tmp_path / "out")
    finally:
        os.kill(child.pid, signal.SIGCONT)
        child.result()
