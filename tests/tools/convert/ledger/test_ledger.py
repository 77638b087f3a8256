"""Interrupted, killed, refused, changed: what is done stays, and the result is that of an undisturbed run."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from mixstream.errors import ConfigError, StateError, StoreError
from mixstream_tools.cli import main
from mixstream_tools.convert import build
from mixstream_tools.convert.documents.fields import Fields
from mixstream_tools.convert.files.choice import Choice
from mixstream_tools.convert.job import run_conversion
from mixstream_tools.convert.ledger.durable import note_holder, write_durably
from mixstream_tools.convert.recipe import Recipe
from mixstream_tools.convert.sidecar.noted import Facts, SidecarWriter
from mixstream_tools.convert.tokens.tokenizer import describe_tokenizer
from mixstream_tools.convert.work.rejects import Rejects
from mixstream_tools.shared.sidecar_files import SidecarFile


def recipe(**options) -> Recipe:
    fixed = {"tokenizer": describe_tokenizer("bytes"), "fields": Fields(text="text"), "seq_len": 16, "part_bytes": 4000}
    return Recipe(**{**fixed, **options})


@pytest.fixture
def source(write_tree):
    lines = "".join(json.dumps({"text": f"{at} " * (at % 40 + 1)}) + "\n" for at in range(200))
    texts = {f"code/{at:02}.py": f"x = {at}\n" * 300 for at in range(10)}
    return write_tree({"web/lines.jsonl": lines, **texts})


def convert(source, out, made=None, **options):
    sources = [str(path) for path in sorted(source.iterdir())]
    return run_conversion(sources, out=out, recipe=made or recipe(), **options)


# A single-threaded process that forks runs and kills each at another instant of its life; forking saves the imports.
KILLER = """
import os, signal, sys, time
from pathlib import Path
from test_ledger import convert, recipe
source, base = Path(sys.argv[1]), Path(sys.argv[2])
def run(out, delay):
    pid = os.fork()
    if not pid:
        convert(source, out, recipe(val_fraction=0.1))
        os._exit(0)
    if delay is not None:
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]
start = time.monotonic()
assert run(base / "whole", None) == 0
took = time.monotonic() - start
killed = 0
for at in range(7):
    for times in range(2):
        killed += run(base / f"killed{at}", took * (at + 0.5) / 7) != 0
    assert run(base / f"killed{at}", None) == 0
print(killed)
"""


def environ() -> dict[str, str]:
    """Ours, with this file to be imported."""
    path = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}


def test_kill_at_any_instant(source, tmp_path, snapshot, warm_programs):
    command = [warm_programs / "python", "-c", KILLER, str(source), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environ(), check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 5
    whole = snapshot(tmp_path / "whole")
    for at in range(7):
        assert snapshot(tmp_path / f"killed{at}") == whole


@pytest.mark.parametrize("victim", ["group", "parent"])
def test_kill_a_run_with_workers(source, tmp_path, snapshot, victim):
    """Where the parent alone is killed, its workers end by themselves, and the next run waits until they have."""
    script = (
        "import sys; from pathlib import Path; from test_ledger import convert;"
        "convert(Path(sys.argv[1]), Path(sys.argv[2]), workers=2)"
    )
    command = [sys.executable, "-c", script, str(source), str(tmp_path / "out")]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environ(), start_new_session=True, stderr=log)
    parts = tmp_path / "out/.convert/parts"
    until = time.monotonic() + 60
    while not list(parts.glob("*/*.json")):
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < until
        time.sleep(0.001)
    (os.killpg if victim == "group" else os.kill)(process.pid, signal.SIGKILL)
    process.wait()
    convert(source, tmp_path / "out")
    convert(source, tmp_path / "whole")
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


def test_finished_parts_are_not_done_again(source, tmp_path, capsys):
    convert(source, tmp_path / "out")
    kept = sorted((tmp_path / "out").rglob("shard.*.mds"))
    times = {path: path.stat().st_mtime_ns for path in kept if "part-tail" not in str(path)}
    (tmp_path / "out/.convert/parts/web/00001.json").unlink()
    summary = convert(source, tmp_path / "out")
    assert summary["status"] == "converted"
    assert "going on: " in capsys.readouterr().err
    again = [path for path, was in times.items() if path.stat().st_mtime_ns != was]
    assert [path.parent.name for path in again] == ["part-00001"]


@pytest.mark.parametrize("missing", ["web/train/part-00000/shard.00000.mds", "web/train/index.json", "domains.json"])
def test_what_is_missing_is_made_again(source, tmp_path, snapshot, missing):
    convert(source, tmp_path / "out")
    whole = snapshot(tmp_path / "out")
    (tmp_path / "out" / missing).unlink()
    assert convert(source, tmp_path / "out")["status"] == "converted"
    assert snapshot(tmp_path / "out") == whole


def test_a_shard_of_another_size_is_made_again(source, tmp_path, snapshot):
    convert(source, tmp_path / "out")
    whole = snapshot(tmp_path / "out")
    with (tmp_path / "out/code/train/part-00002/shard.00000.mds").open("r+b") as file:
        file.truncate(100)
    convert(source, tmp_path / "out")
    assert snapshot(tmp_path / "out") == whole


@pytest.mark.parametrize("suffix", ["tail", "stats", "documents", "rejects"])
@pytest.mark.parametrize("damage", ["same size", "shorter", "missing"])
def test_what_is_joined_later_is_not_believed_if_it_is_damaged(source, tmp_path, snapshot, suffix, damage):
    """What becomes rows, the card, the sidecar and the list of rejects: nothing reads these files again afterwards."""
    lines = source / "web/lines.jsonl"
    lines.write_text(lines.read_text() + "{not json\n" * 3)
    made = recipe(on_bad_document="skip")
    convert(source, tmp_path / "out", made)
    whole = snapshot(tmp_path / "out")
    path = next(path for path in sorted((tmp_path / "out").rglob(f"*.{suffix}")) if path.stat().st_size > 2)
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(data[:-2] if damage == "shorter" else data[:-1] + bytes([data[-1] ^ 1]))
    (tmp_path / "out" / path.parent.name / "train/index.json").unlink()  # else nothing is joined again
    assert convert(source, tmp_path / "out", made)["converted_bytes"] > 0
    assert snapshot(tmp_path / "out") == whole
    assert path.read_bytes() == data


def test_records_of_versions_without_hashes_are_gone_on_from(source, tmp_path, snapshot):
    def published():
        return {name: data for name, data in snapshot(tmp_path / "out").items() if ".convert/parts" not in name}

    convert(source, tmp_path / "out")
    whole = published()
    for path in (tmp_path / "out/.convert/parts").rglob("*.json"):
        record = json.loads(path.read_bytes())
        hashes = record.pop("hashes")
        assert hashes.keys() == {".tail", ".stats", ".documents"}
        if path.name == "00000.json":  # versions between, which had some
            record["hashes"] = {suffix: hashes[suffix] for suffix in (".tail", ".stats")}
        path.write_text(json.dumps(record))
    (tmp_path / "out/web/train/index.json").unlink()
    assert convert(source, tmp_path / "out")["converted_bytes"] == 0
    assert published() == whole


def test_nothing_to_do(source, tmp_path, snapshot):
    first = convert(source, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    second = convert(source, tmp_path / "out")
    assert second["status"] == "nothing to do"
    assert second["domains"] == first["domains"]
    assert snapshot(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"seq_len": 32}, "--seq-len was 16, is 32"),
        ({"seed": 1}, "--seed was 0, is 1"),
        ({"hashes": ()}, '--hashes was ["xxh3_64"], is []'),
    ],
)
def test_other_options_are_refused(source, tmp_path, snapshot, options, expected):
    convert(source, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    with pytest.raises(StateError, match="--overwrite") as caught:
        convert(source, tmp_path / "out", recipe(**options))
    assert expected in str(caught.value)
    assert snapshot(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda source: os.utime(source / "code/00.py", ns=(1, 1)),
            "domain 'code': 10 files of 18000 bytes, now 10 files",
        ),
        (
            lambda source: (source / "code/new.py").write_text("y"),
            "10 files of 18000 bytes, now 11 files of 18001 bytes",
        ),
    ],
)
def test_changed_sources_are_refused(source, tmp_path, change, expected):
    convert(source, tmp_path / "out")
    change(source)
    with pytest.raises(StateError) as caught:
        convert(source, tmp_path / "out")
    assert expected in str(caught.value)


def test_overwrite_makes_anew_what_changed_and_keeps_the_rest(source, tmp_path, snapshot):
    convert(source, tmp_path / "out")
    shard = tmp_path / "out/code/train/part-00000/shard.00000.mds"
    before = shard.stat().st_mtime_ns
    (source / "web/lines.jsonl").unlink()
    (source / "web/other.txt").write_text("other " * 1000)
    (tmp_path / "out/mine.txt").write_text("not convert's")
    convert(source, tmp_path / "out", overwrite=True)
    assert shard.stat().st_mtime_ns == before
    assert (tmp_path / "out/mine.txt").read_text() == "not convert's"
    (tmp_path / "out/mine.txt").unlink()
    convert(source, tmp_path / "whole")
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


def test_a_directory_of_something_else_is_left_alone(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=r"thesis\.tex"):
            convert(source, tmp_path / "out", overwrite=overwrite)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_an_interrupt_says_how_to_go_on(source, tmp_path, monkeypatch, capsys):
    run = build.convert_part

    def interrupted(task, report):
        if task.part.number == 2:
            raise KeyboardInterrupt
        return run(task, report)

    monkeypatch.setattr(build, "convert_part", interrupted)
    monkeypatch.setattr("mixstream_tools.convert.parts._LEAST", 4000)
    arguments = ["convert", str(source), "--out", str(tmp_path / "out"), "--seq-len", "16", "--workers", "1"]
    assert main(arguments) == 130
    assert (
        "interrupted\n  Finished parts are kept (2 of 10): the same command goes on from there.\n"
        in capsys.readouterr().err
    )
    monkeypatch.setattr(build, "convert_part", run)
    assert main(arguments) == 0
    assert "going on: 2 of " in capsys.readouterr().err


def test_two_runs_do_not_share_a_directory(source, tmp_path):
    from mixstream_tools.convert.ledger.ledger import Ledger

    with Ledger(tmp_path / "out").locked(), pytest.raises(ConfigError, match="another `mixstream convert`"):
        convert(source, tmp_path / "out")


def test_going_on_with_skip_keeps_what_was_done_with_raise(write_tree, tmp_path, convert_json):
    good = "".join(json.dumps({"text": "good " * 50}) + "\n" for _ in range(20))
    source = write_tree({"a.jsonl": good, "b.jsonl": good + "bad\n" + good})
    arguments = [source / "a.jsonl", source / "b.jsonl", "--out", tmp_path / "out", "--seq-len", 64]
    status, told, log = convert_json(*arguments)
    assert status == 1
    assert f"{source / 'b.jsonl'}, line 21: not a JSON document" in told["error"]["message"]
    assert "--on-bad-document skip" in told["error"]["message"]
    assert "while converting part-00000 of domain 'b'" in log
    assert "Finished parts are kept" in log
    status, told, log = convert_json(*arguments, "--on-bad-document", "skip")
    assert status == 0
    assert "going on: 1 of 2 parts are done" in log
    assert told["skipped"]["documents"] == 1
    assert "line 21" in told["skipped"]["examples"][0]
    assert "skipped 1 documents" in log
    assert told["domains"]["b"]["train"]["documents"] == 40


def test_going_back_to_raise_is_refused_where_documents_were_skipped(write_tree, tmp_path):
    source = write_tree({"a/b.jsonl": '{"text": "good"}\n' * 20 + "bad\n"})
    convert(source, tmp_path / "out", recipe(on_bad_document="skip"))
    with pytest.raises(StateError, match="--on-bad-document skip"):
        convert(source, tmp_path / "out")
    assert convert(source, tmp_path / "out", recipe(on_bad_document="skip"))["status"] == "nothing to do"


def test_a_full_disk_surfaces_and_loses_nothing(write_tree, tmp_path, snapshot, capsys):
    source = write_tree({"a/x.txt": "x" * 3000, "b/y.txt": "y" * 90_000})
    made = recipe(part_bytes=None)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            convert(source, tmp_path / "out", made)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "while converting part-00000 of domain 'b'" in caught.value.__notes__
    assert not (tmp_path / "out/domains.json").exists()
    convert(source, tmp_path / "out", made)
    assert "going on: 1 of 2 parts are done" in capsys.readouterr().err
    convert(source, tmp_path / "whole", made)
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


def _write_sidecar(path: Path) -> None:
    file = SidecarFile(path, "part-00000", first_row=0, rows=1)
    file.add(pa.table({"file": ["a.jsonl"]}))
    file.finish()


def _note_documents(path: Path) -> None:
    with closing(SidecarWriter(path, kept=0)) as sidecar:
        sidecar.add(("a", "train"), Facts("0", 0, 0, 4, 1, (), 4, ""), 4)
        sidecar.finish()


def _reject(path: Path) -> None:
    rejects = Rejects(path, skip=True)  # removes what an earlier run left
    path.symlink_to("/dev/full")
    rejects("line 2: no JSON", record=2)
    rejects.close()


OWN_FILES = {
    "the record of a part": (".tmp", lambda path: write_durably(path, b"{}")),
    "the Parquet of documents": ("", _write_sidecar),
    "the notes of a part's documents": ("", _note_documents),
    "rejects": ("", _reject),
    "who holds a lock": ("", note_holder),
}


@pytest.mark.parametrize("what", OWN_FILES)
def test_a_full_disk_is_an_error_that_names_the_file_and_the_remedy(tmp_path, what):
    aside, write = OWN_FILES[what]
    path = tmp_path / "file"
    path.with_name(f"file{aside}").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"/file: could not write it: No space.*inodes free.*remove files") as caught:
        write(path)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("name", [".convert/run.json", "domains.json"])
def test_a_full_disk_is_an_error_of_the_command_that_names_the_file(write_tree, tmp_path, name):
    source, out = write_tree({"a/x.txt": "x" * 300}), tmp_path / "out"
    (out / ".convert").mkdir(parents=True)
    (out / f"{name}.tmp").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=f"{out / name}: could not write it: No space"):
        convert(source, out)


def test_a_damaged_file_is_an_error_or_skipped_with_what_follows(write_tree, tmp_path):
    import gzip

    lines = "".join(json.dumps({"text": f"{at * 7919 % 100_003}"}) + "\n" for at in range(5000)).encode()
    source = write_tree({"d/a.jsonl.gz": gzip.compress(lines)[:-2000], "d/b.txt": "whole " * 100})
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz: the gz data is damaged or cut short"):
        convert(source, tmp_path / "out")
    summary = convert(source, tmp_path / "out", recipe(on_bad_document="skip"))
    assert summary["skipped"]["documents"] == 1
    assert "the rest of it is lost" in summary["skipped"]["examples"][0]
    assert 100 < summary["domains"]["d"]["train"]["documents"] < 5000


def test_choice_of_files_is_part_of_the_sources(source, tmp_path):
    convert(source, tmp_path / "out")
    with pytest.raises(StateError, match="domain 'code': 10 files"):
        convert(source, tmp_path / "out", choice=Choice(exclude=("00.py",)))
