"""`convert --part I/N`: shares, tasks beside each other, kills, the run that publishes; the bytes of one machine."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from shelf import Shelf

from mixstream.errors import ConfigError, StateError, UnfinishedError
from mixstream.storage import Retry
from mixstream_tools.convert import ArrayOptions, Fields, Recipe, convert_share, describe_tokenizer, run_conversion
from mixstream_tools.convert.array.shares import deal
from mixstream_tools.convert.ledger.durable import hold
from mixstream_tools.convert.ledger.ledger import Ledger
from mixstream_tools.convert.parts import Part
from mixstream_tools.convert.publish.remote import Remote
from mixstream_tools.shared.console import Console


def recipe(**options) -> Recipe:
    fixed = {"tokenizer": describe_tokenizer("bytes"), "fields": Fields(text="text"), "seq_len": 16, "part_bytes": 4000}
    return Recipe(**{**fixed, **options})


def by_key() -> Recipe:
    return recipe(fields=Fields(text="text", domain="kind"), val_fraction=0.2)


@pytest.fixture
def source(write_tree):
    lines = "".join(json.dumps({"text": f"{at} " * (at % 40 + 1), "kind": "ab"[at % 2]}) + "\n" for at in range(150))
    texts = {f"code/{at:02}.py": f"x = {at}\n" * 300 for at in range(8)}
    return write_tree({"web/lines.jsonl": lines, **texts})


def named(source, *domains):
    return [str(source / name) for name in (domains or ("code", "web"))]


def task(source, out, part, *, made=None, store=None, keep_work=False, domains=(), **options):
    remote = (
        Remote(store=store, keep_work=keep_work, retry=Retry(attempts=2, unit=0.001)) if store is not None else None
    )
    return convert_share(
        named(source, *domains),
        out=out,
        recipe=made or recipe(),
        options=ArrayOptions(part=part, workers=1),
        remote=remote,
        console=Console(quiet=True),
        **options,
    )


def merge(source, out, *, made=None, store=None, domains=(), parts=None, **options):
    remote = Remote(store=store, retry=Retry(attempts=2, unit=0.001)) if store is not None else None
    return run_conversion(
        named(source, *domains),
        out=out,
        recipe=made or recipe(),
        options=ArrayOptions(parts=parts, workers=1),
        remote=remote,
        **options,
    )


# Shares


def test_shares_are_balanced_by_bytes_and_are_all_of_the_work(source, tmp_path):
    sizes = [7000, 10, 3000, 3000, 900, 6000, 10]

    def part(at, size):
        path = tmp_path / f"{at}"
        path.write_bytes(b"x" * size)
        from mixstream_tools.convert.sources.sources import list_file

        return Part(group="web", number=at, slices=(list_file(str(path), path.stat(), name=f"{at}").whole,))

    parts = [part(at, size) for at, size in enumerate(sizes)]
    shares = deal(parts, 3)
    assert sorted(each.number for share in shares for each in share) == list(range(7))
    assert [sum(each.bytes for each in share) for share in shares] == [7000, 6900, 6020]
    assert all([each.number for each in share] == sorted(each.number for each in share) for share in shares)
    assert deal(parts, 3) == shares
    assert [len(share) for share in deal(parts, 10)] == [1] * 7 + [0] * 3


@pytest.mark.parametrize("made", [recipe(), by_key()])
def test_tasks_and_a_merge_write_the_bytes_of_one_machine(source, tmp_path, snapshot, made):
    domains = ("web",) if made.fields.domain else ()
    run_conversion(named(source, *domains), out=tmp_path / "whole", recipe=made)
    told = [task(source, tmp_path / "out", f"{at}/3", made=made, domains=domains) for at in (2, 0, 1)]
    assert {each["status"] for each in told} == {"converted"}
    assert not list((tmp_path / "out").glob("*/*/index.json")), "tasks publish nothing"
    assert not (tmp_path / "out/domains.json").exists()
    parts = [name for each in told for name in each["parts"]]
    assert len(parts) == len(set(parts)) == len(list((tmp_path / "out/.convert/parts").glob("*/*.json"))) > 3
    assert task(source, tmp_path / "out", "1/3", made=made, domains=domains)["status"] == "nothing to do"
    summary = merge(source, tmp_path / "out", made=made, domains=domains, parts=3)
    assert summary["converted_bytes"] == 0, "nothing was left to convert"
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")
    again = task(source, tmp_path / "out", "1/3", made=made, domains=domains)
    assert (again["status"], again["share"]) == ("nothing to do", 0)


def test_the_commands_say_what_they_do(source, tmp_path, convert_json, snapshot):
    common = [*named(source), "--out", tmp_path / "out", "--seq-len", 16]
    status, told, _ = convert_json(*common, "--part", "0/2", "--workers", 1)
    assert (status, told["part"], told["share"], told["documents"]) == (0, "0/2", 1, 8)
    status, told, log = convert_json(*common)
    assert status == 0
    assert (
        "--part 1/2 never ran here (1 of its 1 parts are missing). This run converts the 1 missing parts itself" in log
    )
    convert_json(*named(source), "--out", tmp_path / "whole", "--seq-len", 16)
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")
    for wrong in (["--part", "2/2"], ["--part", "0/2", "--engine", "ray"], ["--part", "0/2", "--remove", "web"]):
        assert convert_json(*common, *wrong)[0] == 2


def test_tasks_work_side_by_side_on_one_disk(source, tmp_path, snapshot):
    """Threads of one process: flock tells their files apart as it does those of processes."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda at: task(source, tmp_path / "out", f"{at}/4"), range(4)))
    merge(source, tmp_path / "out")
    merge(source, tmp_path / "whole")
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


# Who may write at once


@pytest.fixture
def busy(source, tmp_path, monkeypatch):
    """Task 0/2 at work: what is called while it converts its first part."""

    def run(meanwhile, **options):
        from mixstream_tools.convert.array import task as array_task

        convert, called = array_task.convert_part, []

        def convert_part(each, on_bytes):
            if not called:
                called.append(True)
                monkeypatch.setattr(array_task, "convert_part", convert)
                meanwhile()
            return convert(each, on_bytes)

        monkeypatch.setattr(array_task, "convert_part", convert_part)
        told = task(source, tmp_path / "out", "0/2", **options)
        assert called
        return told

    return run


def test_a_whole_run_and_the_same_number_and_another_n_and_other_options_are_refused(source, tmp_path, busy, snapshot):
    def refuse():
        with pytest.raises(
            ConfigError, match=r"another `mixstream convert` is writing to it \(--part 0/2, process \d+"
        ):
            merge(source, tmp_path / "out")
        with pytest.raises(ConfigError, match=r"--part 0/2: process \d+ on .* is converting it"):
            task(source, tmp_path / "out", "0/2")
        with pytest.raises(
            ConfigError, match=r"--part 1/3: --part 0/2 is at work here too .* Give all tasks the same N"
        ):
            task(source, tmp_path / "out", "1/3")
        with pytest.raises(StateError, match="other options or sources"):
            task(source, tmp_path / "out", "1/2", made=recipe(seq_len=32))
        with pytest.raises(StateError, match="other options or sources"):
            task(source, tmp_path / "out", "1/2", made=recipe(seq_len=32), overwrite=True)
        task(source, tmp_path / "out", "1/2")

    busy(refuse)
    merge(source, tmp_path / "out")
    merge(source, tmp_path / "whole")
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


def test_a_task_waits_for_no_whole_run(source, tmp_path):
    with Ledger(tmp_path / "out").locked(), pytest.raises(ConfigError, match=r"another .* is writing to it \(process"):
        task(source, tmp_path / "out", "0/2")


def test_a_shared_lock_can_be_had_where_only_what_is_readable_gets_one(tmp_path):
    """NFS makes fcntl's locks of flock's: a shared one needs a file that was opened for reading."""
    with hold(tmp_path / "lock", fcntl.LOCK_SH, wait_s=0, else_raise=AssertionError()):
        (number,) = [int(path.name) for path in Path("/proc/self/fd").iterdir() if _is(path, tmp_path / "lock")]
        assert fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR


def _is(link: Path, target: Path) -> bool:
    try:
        return link.readlink() == target
    except OSError:
        return False


# Kills and changes

KILLED = """
import os, signal, sys
from pathlib import Path
from mixstream_tools.convert.array import task as array_task
from test_job_array import task
convert, made = array_task.convert_part, []
def convert_part(each, on_bytes):
    def stop(size):
        if made:
            os.kill(os.getpid(), signal.SIGKILL)
    told = convert(each, stop)
    made.append(told)
    return told
array_task.convert_part = convert_part
task(Path(sys.argv[1]), Path(sys.argv[2]), "0/2")
"""


def test_a_killed_task_is_named_and_runs_again_or_is_done_by_the_merge(
    source, tmp_path, snapshot, capsys, warm_programs
):
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [warm_programs / "python", "-c", KILLED, str(source), str(tmp_path / "out")]
    assert subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "out/.convert/parts").glob("*/*.json"))) == 1
    shutil.copytree(tmp_path / "out", tmp_path / "other", copy_function=shutil.copy2)
    merge(source, tmp_path / "whole")
    whole = snapshot(tmp_path / "whole")
    capsys.readouterr()
    merge(source, tmp_path / "other", parts=2)
    log = capsys.readouterr().err
    assert "--part 0/2 did not come to its end (" in log
    assert "--part 1/2 never ran here (" in log
    assert snapshot(tmp_path / "other") == whole
    again = task(source, tmp_path / "out", "0/2")
    assert again["status"] == "converted"
    assert again["converted_bytes"] < sum(path.stat().st_size for path in source.rglob("*.*")) / 2
    task(source, tmp_path / "out", "1/2")
    assert merge(source, tmp_path / "out")["converted_bytes"] == 0
    assert snapshot(tmp_path / "out") == whole


def test_other_options_replace_with_overwrite_only_and_leave_no_old_index(source, tmp_path, snapshot):
    merge(source, tmp_path / "out", made=recipe(seq_len=32))
    with pytest.raises(StateError, match="--seq-len was 32, is 16"):
        task(source, tmp_path / "out", "0/2")
    for at in range(2):
        task(source, tmp_path / "out", f"{at}/2", overwrite=True)
        assert not list((tmp_path / "out").glob("*/*/index.json"))
    merge(source, tmp_path / "out", overwrite=True)
    merge(source, tmp_path / "whole")
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


def test_tasks_add_a_domain_and_others_stay(source, tmp_path, snapshot):
    merge(source, tmp_path / "out", domains=("code",))
    index = (tmp_path / "out/code/train/index.json").stat().st_mtime_ns
    for at in range(2):
        task(source, tmp_path / "out", f"{at}/2", domains=("web",))
    merge(source, tmp_path / "out", domains=("web",))
    merge(source, tmp_path / "whole")
    assert (tmp_path / "out/code/train/index.json").stat().st_mtime_ns == index
    assert snapshot(tmp_path / "out/web") == snapshot(tmp_path / "whole/web")
    assert (tmp_path / "out/domains.json").read_bytes().startswith(b"{")


def test_until_the_merge_it_is_unfinished(source, tmp_path):
    import mixstream as ms

    task(source, tmp_path / "out", "0/2")
    with pytest.raises(UnfinishedError, match="parts"):
        ms.streams(str(tmp_path / "out"))


# At a store, on machines that share no disk


@pytest.mark.parametrize("made", [recipe(compression="zstd"), by_key()])
def test_machines_without_a_shared_disk_leave_their_parts_at_the_store(source, tmp_path, made):
    domains = ("web",) if made.fields.domain else ()
    direct, store = Shelf(), Shelf()
    merge(source, tmp_path / "whole", made=made, store=direct, domains=domains)
    for at in range(3):
        told = task(source, tmp_path / f"machine{at}", f"{at}/3", made=made, store=store, domains=domains)
        assert told["uploaded_bytes"] > 0
        assert not list((tmp_path / f"machine{at}").rglob("shard.*")), "they are at the store"
        assert not any(name.endswith(("index.json", "domains.json")) for name in store.objects)
    store.log.clear()
    summary = merge(source, tmp_path / "merger", made=made, store=store, domains=domains, parts=3)
    assert summary["converted_bytes"] == 0
    assert store.objects == direct.objects
    assert not [name for name in store.acts("write") if "/part-0" in name and "shard." in name], (
        "no shard is uploaded again"
    )
    assert merge(source, tmp_path / "merger", made=made, store=store, domains=domains)["status"] == "nothing to do"
    late = task(source, tmp_path / "machine9", "1/3", made=made, store=store, domains=domains)
    assert (late["status"], late["uploaded_bytes"]) == ("nothing to do", 0)
    assert store.objects == direct.objects


def test_tasks_that_begin_at_once_at_an_empty_url_do_not_take_each_other_for_strangers(source, tmp_path):
    direct, store = Shelf(), Shelf()
    merge(source, tmp_path / "whole", store=direct)

    begun = []

    def begin_other(name):
        if not begun:
            begun.append(name)
            task(source, tmp_path / "machine1", "1/2", store=store)

    store.before["names 1"] = begin_other  # this task has found no run.json, and lists what there is
    task(source, tmp_path / "machine0", "0/2", store=store)
    assert merge(source, tmp_path / "merger", store=store)["converted_bytes"] == 0
    assert store.objects == direct.objects


def test_a_task_that_comes_to_another_machine_does_nothing_again(source, tmp_path):
    store = Shelf()
    task(source, tmp_path / "machine0", "0/2", store=store)
    before = dict(store.objects)
    told = task(source, tmp_path / "machine1", "0/2", store=store)
    assert told["converted_bytes"] == 0
    assert store.objects == before
    assert task(source, tmp_path / "machine0", "0/2", store=store)["status"] == "nothing to do"


def test_what_is_damaged_or_missing_at_the_store_is_converted_by_the_merge(source, tmp_path, capsys):
    direct, store = Shelf(), Shelf()
    merge(source, tmp_path / "whole", store=direct)
    for at in range(3):
        task(source, tmp_path / f"machine{at}", f"{at}/4", store=store)
    shards = [name for name in store.objects if "shard" in name]
    store.objects[shards[0]] = b"x" * len(store.objects[shards[0]])  # of another program, in the same size
    del store.objects[shards[1]]
    tail = next(name for name in store.objects if name.endswith(".tail") and store.objects[name])
    store.objects[tail] += b"."
    capsys.readouterr()
    merge(source, tmp_path / "merger", store=store, parts=4)
    log = capsys.readouterr().err
    assert "--part 3/4 never ran here" in log
    assert "This run converts the " in log
    assert store.objects == direct.objects


def test_machines_overwrite_at_a_store(source, tmp_path):
    direct, store = Shelf(), Shelf()
    merge(source, tmp_path / "whole", store=direct)
    merge(source, tmp_path / "first", made=recipe(seq_len=32), store=store)
    for at in range(2):
        task(source, tmp_path / f"machine{at}", f"{at}/2", store=store, overwrite=True)
        assert not any(name.endswith(("index.json", "domains.json")) for name in store.objects)
    merge(source, tmp_path / "merger", store=store, overwrite=True)
    assert store.objects == direct.objects


@pytest.mark.parametrize("keep_work", [False, True])
def test_tasks_with_one_work_directory_and_a_store(source, tmp_path, keep_work):
    """A home directory that all nodes mount: the default of --work lies there."""
    direct, store = Shelf(), Shelf()
    merge(source, tmp_path / "whole", store=direct)
    with ThreadPoolExecutor(3) as pool:
        list(
            pool.map(lambda at: task(source, tmp_path / "work", f"{at}/3", store=store, keep_work=keep_work), range(3))
        )
    assert bool(list((tmp_path / "work").rglob("shard.*"))) == keep_work
    store.log.clear()
    summary = merge(source, tmp_path / "work", store=store)
    assert summary["converted_bytes"] == 0
    assert store.objects == direct.objects
    assert not [name for name in store.acts("write") if "/part-0" in name and "shard." in name]
